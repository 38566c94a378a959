"""Makes one attempt to deliver a message. Errors do not name the URL, which can be secret."""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass

import requests

from consumer import __version__
from consumer.conf.webhooks import Sink
from consumer.engine.webhooks import signature

#: Answers after which another attempt with the same body is useless.
_REFUSED = frozenset({400, 413, 422})
#: The longest pause that an answer can ask for, in seconds.
_LONGEST = 3600.0

#: Whether this thread posts to a URL that the log must not have.
_posts: ContextVar[bool] = ContextVar("posts", default=False)
# At level DEBUG, urllib3 logs the path of each request.
logging.getLogger("urllib3.connectionpool").addFilter(lambda _record: not _posts.get())


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of an attempt.

    :param error: why the message was not delivered; empty after a success
    :param final: whether another attempt is useless
    :param after: seconds to wait, if the receiver asked for a pause
    """

    error: str = ""
    final: bool = False
    after: float | None = None


def post(sink: Sink, message_id: str, body: bytes) -> Attempt:
    headers = {
        "Content-Type": sink.content_type,
        "User-Agent": f"stackmend/{__version__}",
        **signature.headers(sink.secret, message_id, time.time(), body),
    }
    timeout = (min(5.0, sink.timeout), sink.timeout)
    token = _posts.set(True)
    try:
        # The body of the answer is not read: it can be endless.
        with requests.post(
            sink.url, data=body, headers=headers, timeout=timeout, allow_redirects=False, stream=True
        ) as answer:
            return judge(answer.status_code, answer.headers.get("Retry-After", ""))
    except (requests.RequestException, ValueError, OSError) as error:
        return Attempt(f"no answer: {type(error).__name__}")
    finally:
        _posts.reset(token)


def judge(status: int, retry_after: str = "") -> Attempt:
    if 200 <= status < 300:
        return Attempt()
    pause = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
    return Attempt(f"answered {status}", status in _REFUSED, None if pause is None else min(pause, _LONGEST))
