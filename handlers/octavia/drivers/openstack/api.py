"""A client of one OpenStack API.

Methods of :class:`Api` treat failed requests as follows, with exceptions of :mod:`handlers.octavia.housekeeping`:

======================================= ==============================================================================
the object does not exist (404)         get: None; remove: success; list: UnavailableException; call: NotFoundError
wrong credentials or role (401, 403)    UnauthorizedException
no answer, too slow, 5xx, 413, 429      UnavailableException; ``dependency`` is the service
a 404 that is no proof (``absence.py``) UnavailableException; ``dependency`` is the service
the object's state refuses (409, 412)   UnavailableException; ``dependency`` is the object, ``server:<id>``
a removal is refused for other reasons  DeleteFailed
anything else                           AmphoraDriverError
======================================= ==============================================================================
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import requests

from handlers.access.cloud import Denied, Rehearsal, Service, Write
from handlers.base import Conflict, Refused, Unavailable
from handlers.octavia.drivers.openstack.absence import proves_absence
from handlers.octavia.housekeeping import (
    AmphoraDriverError,
    DeleteFailed,
    NotFoundError,
    UnauthorizedException,
    UnavailableException,
)

T = TypeVar("T")

_STATE = frozenset({409, 412})
_BUSY = frozenset({413, 429})


class Api:
    """A client of one OpenStack API. Thread-safe.

    :param microversion: the microversion of every call; empty where the API has none
    """

    def __init__(self, service: Service, microversion: str = "") -> None:
        self._service = service
        self._always = {"microversion": microversion} if microversion else {}

    def rehearsing(self, writes: list[Write]) -> Api:
        """Return a copy of this client that adds its writes to the list instead of sending them."""
        made = copy.copy(self)
        made._service = Rehearsal(self._service, writes)
        return made

    def get(self, url: str, thing: str, **arguments: Any) -> Mapping[str, Any] | None:
        """Return the object at ``url``; None when it does not exist.

        :param thing: the object's name in errors: ``server:<id>``
        """
        response = translated(lambda: self._service.read(url, **self._always, **arguments))
        if self._is_absent(response, thing):
            return None
        self._check(response, thing)
        return translated(lambda: self._service.json(response))

    def list(self, url: str, name: str, page: int, **query: Any) -> Iterator[Mapping[str, Any]]:
        """Yield the objects of a listing of Nova or Glance, page after page.

        :raises AmphoraDriverError: as the module's table shows; objects yielded before the error are valid
        """
        marker: dict[str, str] = {}
        while True:
            body = self.get(url, name, params={**query, **marker, "limit": page})
            if body is None or name not in body:
                raise UnavailableException(self._service.dependency, f"answered to {url} without {name}")
            yield from body[name]
            if not body[name] or not ("next" in body or body.get(f"{name}_links")):
                return
            marker = {"marker": body[name][-1]["id"]}

    def call(self, method: str, url: str, thing: str, **arguments: Any) -> requests.Response:
        """Send a request once, and return the response. A request without an answer can have arrived, so it is not repeated."""
        response = translated(lambda: self._service.write(method, url, **self._always, **arguments))
        self._check(response, thing)
        return response

    def remove(self, url: str, thing: str) -> None:
        """Send a DELETE request. Succeed when the object does not exist."""
        response = translated(lambda: self._service.write("DELETE", url, **self._always))
        if self._is_absent(response, thing):
            return
        if 400 <= response.status_code < 500 and response.status_code not in {404, *_STATE, *_BUSY}:
            raise DeleteFailed(f"{thing}: {_answer(response)}")
        self._check(response, thing)

    def body(self, response: requests.Response) -> Mapping[str, Any]:
        return translated(lambda: self._service.json(response))

    def _is_absent(self, response: requests.Response, thing: str) -> bool:
        return proves_absence(self._service.dependency, thing, response)

    def _check(self, response: requests.Response, thing: str) -> None:
        status = response.status_code
        if status < 300:
            return
        if self._is_absent(response, thing):
            raise NotFoundError(f"{thing}: {_answer(response)}")
        if status == 404:
            text = f"{_answer(response)}, which does not prove that {thing} does not exist"
            raise UnavailableException(self._service.dependency, text)
        if status in _STATE:
            raise UnavailableException(thing, _answer(response))
        if status in _BUSY:
            raise UnavailableException(self._service.dependency, _answer(response))
        raise AmphoraDriverError(f"{thing}: {_answer(response)}")


def translated(call: Callable[[], T]) -> T:
    """Return ``call()``; turn errors of :mod:`handlers.base` into errors of :mod:`handlers.octavia.housekeeping`."""
    try:
        return call()
    except Denied as error:
        raise UnauthorizedException(error.dependency, str(error).partition(": ")[2]) from error
    except Unavailable as error:
        raise UnavailableException(error.dependency, str(error).partition(": ")[2]) from error
    except (Conflict, Refused) as error:
        raise AmphoraDriverError(str(error)) from error


def age(time: str | None) -> float:
    """Return the seconds since a time in an API's answer; 0 for a missing or future time."""
    if not time:
        return 0.0
    then = datetime.fromisoformat(time)
    then = then.replace(tzinfo=UTC) if then.tzinfo is None else then
    return max(0.0, (datetime.now(UTC) - then).total_seconds())


def _answer(response: requests.Response) -> str:
    try:
        message = response.json()
        while isinstance(message, dict) and message:
            message = message.get("message") or message.get("faultstring") or next(iter(message.values()))
        text = str(message)
    except ValueError:
        text = response.text
    return f"answered {response.status_code}: {' '.join(text.split())[:300]}"
