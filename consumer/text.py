"""Formats values for people: times, durations, counts, and text of unknown origin."""

from __future__ import annotations

import re
from datetime import UTC, datetime

#: The start of JSON, and its quotes, with the text between them.
_JSON = re.compile(r'\s*[\[{]+\s*"')
_PIECE = re.compile(r'(?:[^"\\]|\\.)+|.', re.DOTALL)
_TOKEN = re.compile(r"\S*")
#: An end of a host, with or without a port.
_PORT = r"""(?:\d{1,5})?(?:[\s/?#,;:.)\]}>'"\\]|$)"""
#: At the start of an authority: a user, if no port follows.
_USER = re.compile(rf"(?:\[[^\]\s/@]*\]|[^\s:/@?#\[]*):(?!{_PORT})")
#: Between the logins of two hosts.
_NEXT = re.compile(r"(@(?:\[[^\]@,/\s]*\]|[\w.-]*)(?::\d+)?,)(?=[^:@,/]*:)")
#: After the last @: a further user without a host.
_HOSTLESS = re.compile(rf"(,[^:@,/\s]*:)(?!{_PORT})\S*")
#: Before the authority; JSON may escape the slashes. Bounded, so that a search takes linear time.
_SLASHES = re.compile(r"\\{0,4}/\\{0,4}/")
#: A secret in a query, a fragment or a list of settings: its name and the equals sign, then its value.
_SETTING = re.compile(
    r"((?<![\w.-])[\w.-]*?(?:passw(?:or)?d|passphrase|pwd|secret|token|(?:api|access|secret)[_-]?key|credential|sig|signature)"
    r"[ \t]{0,3}(?:=|%(?:25)?3D)[ \t]{0,3})"
    r"""(?:'(?:[^'\\\n]|\\.)*'?|"(?:[^"\\\n]|\\.)*"?|[^&\s]+)""",
    re.IGNORECASE,
)
#: Parts of a URL inside a query, percent-encoded once or twice.
_ENCODED = re.compile(r"\S+")
_ENCODED_SLASHES = re.compile(r"(?:%(?:25)?2F){2}", re.IGNORECASE)
_ENCODED_COLON = re.compile(r":(?!//)|%(?:25)?3A", re.IGNORECASE)
_ENCODED_AT = re.compile(r"@|%(?:25)?40", re.IGNORECASE)


def redacted(text: str) -> str:
    """Return a text or JSON with ``***`` in place of each password in a URL, and of each value after a name such as ``token=``.

    It takes linear time.

    Passwords can contain any unescaped character. In doubt, this function also replaces text after the password.
    """
    if _JSON.match(text):  # no password reaches beyond its string, so JSON stays JSON
        return "".join(_masked(piece) for piece in _PIECE.findall(text))
    return _masked(text)


def _masked(text: str) -> str:
    parts, done, last_at = [], 0, text.rfind("@")
    while slashes := _SLASHES.search(text, done):
        start = slashes.end()
        # Without a scheme, text before a colon need not be a user.
        user = _USER.match(text, start) if text[slashes.start() - 1 : slashes.start()] == ":" else None
        end = _token_end(text, start)
        at = text.rfind("@", start, end)
        unfinished = user is not None if at < 0 else at + 1 == end
        while unfinished and last_at >= end:  # a password with spaces
            end = _token_end(text, text.find("@", end) + 1)
            at = text.rfind("@", start, end)
            unfinished = at + 1 == end
        if at >= 0:
            masked = _logins(text[start:at]) + _HOSTLESS.sub(r"\1***", text[at:end])
        elif user is not None:
            masked = f"{user[0]}***"
        else:
            masked = _HOSTLESS.sub(r"\1***", text[start:end])
        parts += [text[done:start], masked]
        done = end
    return _SETTING.sub(r"\1***", _ENCODED.sub(_without_login, "".join([*parts, text[done:]])))


def _without_login(url: re.Match[str]) -> str:
    """Mask the first password in a word that contains a percent-encoded URL."""
    word = url[0]
    slashes = _ENCODED_SLASHES.search(word)
    colon = slashes and _ENCODED_COLON.search(word, slashes.end())
    if not colon:
        return word
    ats = [at.start() for at in _ENCODED_AT.finditer(word, colon.end())]
    return f"{word[: colon.end()]}***{word[ats[-1] :]}" if ats else word


def _token_end(text: str, start: int) -> int:
    found = _TOKEN.match(text, start)
    return found.end() if found else start


def _logins(text: str) -> str:
    parts = _NEXT.split(text)  # login, "@host,", login, ...
    logins = [f"{user}:***" if colon else user for user, colon, _password in (one.partition(":") for one in parts[::2])]
    return "".join(one for pair in zip(logins, [*parts[1::2], ""], strict=True) for one in pair)


def reason_of(error: BaseException) -> str:
    return redacted(str(error) or repr(error))


def one_line(text: str) -> str:
    return printable(" ".join(redacted(text).split()))


def printable(text: str, keep: str = "") -> str:
    """Escape unprintable characters, except those in ``keep``, so that the text cannot control a terminal."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )


def utc(clock: float | None) -> str | None:
    if clock is None:
        return None
    return datetime.fromtimestamp(clock, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def span(value: float | None) -> str:
    """Return a duration as text: ``14 s``, ``3 min``, ``2 h``, ``5 d``; None as empty text."""
    if value is None:
        return ""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if value >= 2 * size:
            return f"{value / size:.0f} {unit}"
    return f"{value:.0f} s"


def plural(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
