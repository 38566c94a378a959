from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from consumer.conf.webhooks import WrongTemplate
from consumer.journal.history import Entry
from consumer.text import printable, redacted, utc
from handlers.base import read_file

#: A history entry to try a template with.
SAMPLE = Entry(
    id=1,
    at=1_795_860_000.0,
    handler="discover_hosts",
    key="host:compute-7",
    outcome="healed",
    problem="host-unmapped",
    summary="host compute-7 is in no cell",
    evidence={"cell": "cell1"},
    action="mapped host compute-7 to cell cell1",
    before={},
    after={"cell": "cell1"},
    undo="nova-manage cell_v2 delete_host --cell_uuid 1 --host compute-7",
    error="",
    hint="service.create",
    hint_id="",
    hinted_at=1_795_859_999.0,
    closed_at=1_795_860_000.5,
    lag=1.5,
    replica="controller-1-41-7e7b44",
    weight=1,
    plan="",
    operator="",
    request_id="req-2f1f7a9e-6a3c-4d0e-9c1b-5e8d7c6b5a49",
)


def values(entry: Entry, outcome: str) -> dict[str, Any]:
    """Return the values of a message by name, without passwords in URLs.

    :param outcome: the outcome that the message reports; the entry can have a later outcome now
    """
    shown: dict[str, Any] = _safe(
        {
            "event": outcome,
            "line": entry.id,
            "at": utc(entry.at),
            "closed_at": utc(entry.closed_at),
            "handler": entry.handler,
            "key": entry.key,
            "problem": entry.problem,
            "summary": entry.summary,
            "evidence": entry.evidence,
            "plan": entry.plan,
            "undo": entry.undo,
            "action": entry.action,
            "before": entry.before,
            "after": entry.after,
            "error": entry.error,
            "weight": entry.weight,
            "operator": entry.operator,
            "request_id": entry.request_id,
            "hint": entry.hint,
            "lag_s": None if entry.lag is None else round(entry.lag, 3),
            "replica": entry.replica,
        }
    )
    return shown


def _safe(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {str(name): _safe(one) for name, one in value.items()}
    return [_safe(one) for one in value] if isinstance(value, list | tuple) else value


#: A mention's ``@``; the middle of a Markdown link; the name in a Markdown link's definition.
_MARKUP = re.compile(r"@|\](?=\()|^[ \t]*\[[^\]\n]*\](?=:)", re.MULTILINE)


def plain(value: object) -> str:
    """Return a text for Slack and Mattermost without mentions, disguised links, and control characters other than newlines."""
    text = printable("" if value is None else str(value), keep="\n")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub("\\g<0>\N{ZERO WIDTH SPACE}", text)


class Renderer:
    """Renders the bodies of one sink's messages.

    :param path: the template's file; empty for JSON
    :raises WrongTemplate: the template cannot be read or rendered
    """

    def __init__(self, path: str = "") -> None:
        self._path = path
        self._template = None
        if path:
            environment = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
            environment.filters |= {"plain": plain, "utc": utc}
            try:
                self._template = environment.from_string(read_file(path).decode())
            except (OSError, UnicodeError, TemplateError) as error:
                raise WrongTemplate(f"the template {path} cannot be used: {error}") from None
            self.body(SAMPLE, "healed")

    def body(self, entry: Entry, outcome: str) -> bytes:
        """Return the body of the message about a history entry.

        :raises WrongTemplate: the template cannot be rendered with this entry
        """
        shown = values(entry, outcome)
        if self._template is None:
            return json.dumps(shown, ensure_ascii=False, default=str).encode()
        try:
            return self._template.render(shown, epoch=entry.at).encode("utf-8", "replace")
        except Exception as error:  # a template can raise anything
            raise WrongTemplate(
                f"the template {self._path} cannot be rendered: {type(error).__name__}: {error}"
            ) from None
