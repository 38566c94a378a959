"""One cloud, and the drift that is on its stage."""

from __future__ import annotations

from tests.functional.nova.proofs.drift import Built, Drift
from tests.functional.nova.proofs.stage import Stage


class Theatre:
    """Shows drifts; builds a drift again only after another one."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._empty = stage.scene()
        self._built: Built | None = None

    def perform(self, drift: Drift) -> Built:
        """Show a drift from its beginning."""
        if self._built is None or self._built.drift is not drift:
            self.stage.show(self._empty)
            key, subjects = drift.build(self.stage)
            self._built = Built(drift, self.stage.scene(), key, subjects)
        self.stage.show(self._built.scene)
        self.stage.options = {group: dict(values) for group, values in drift.options.items()}
        return self._built
