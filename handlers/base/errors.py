from __future__ import annotations


class HandlerError(Exception):
    """Base of the errors that handlers raise on purpose.

    After any other exception, stackmend tries again several times, then parks the key.
    """


class InFlight(HandlerError):
    """Nova or Octavia is working on the object, so the object's state proves nothing now.

    :param after: seconds until another inspection makes sense
    """

    def __init__(self, reason: str, after: float = 10.0) -> None:
        super().__init__(reason)
        self.after = after


class Unavailable(HandlerError):
    """A database, an API or a broker did not answer, so nothing is proved. A heal that raises this error may have written.

    :param dependency: ``placement``, ``nova_api``, ``cell:<name>``, ``broker:<name>`` ...
    """

    def __init__(self, dependency: str, reason: str) -> None:
        super().__init__(f"{dependency}: {reason}")
        self.dependency = dependency
        self.reason = reason


class Incomplete(Unavailable):
    """A sweep could not list some keys, because dependencies did not answer. The sweep listed all its other keys.

    :param before: an earlier Incomplete error of the same sweep; ``missing`` then names the dependencies of both errors
    """

    def __init__(self, error: Unavailable, before: Incomplete | None = None) -> None:
        super().__init__(error.dependency, error.reason)
        self.missing: frozenset[str] = _missing(error) | (before.missing if before else frozenset())


def _missing(error: Unavailable) -> frozenset[str]:
    return error.missing if isinstance(error, Incomplete) else frozenset({error.dependency})


class Conflict(HandlerError):
    """The heal changed nothing, because the cloud changed after the proof or stackmend stopped the heal.

    stackmend then inspects the key again.
    """


class Unfinished(HandlerError):
    """A heal wrote, but the effect did not show in time. The heal failed; stackmend tries again, then parks the key."""


class Refused(HandlerError):
    """A proof or a heal would be unsafe or ambiguous. stackmend changes nothing, and reports the reason."""
