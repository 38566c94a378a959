"""Reads holds from Prometheus (https://prometheus.io/docs/prometheus/latest/querying/api/)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests

from consumer.text import redacted
from handlers.base import EVERYTHING, Hold, Unavailable

#: Seconds to connect, and to wait for the answer.
_TIMEOUT = (3.0, 10.0)
#: Labels that narrow a hold; without one, the series holds everything.
_LABELS = ("host", "cell")
#: Labels that give the reason, the best first.
_REASONS = ("reason", "summary", "alertname", "__name__")

#: Sends a query; returns the body of the answer.
Ask = Callable[[str, str], Any]


def ask(url: str, query: str) -> Any:
    """Send an instant query; return the decoded answer.

    :raises Unavailable: no usable answer arrives
    """
    try:
        answer = requests.get(
            f"{url.rstrip('/')}/api/v1/query", params={"query": query}, timeout=_TIMEOUT, allow_redirects=False
        )
        body = answer.json()
        # Prometheus sends 200 with each success. Another status comes from another server.
        if answer.status_code != 200 and isinstance(body, Mapping) and body.get("status") == "success":
            raise Unavailable("prometheus", f"no usable answer: status {answer.status_code}")
        return body
    except (requests.RequestException, ValueError) as error:
        raise Unavailable("prometheus", redacted(f"no usable answer: {type(error).__name__}")) from None


def holds(url: str, query: str, send: Ask = ask) -> Iterator[Hold]:
    """Yield a hold for each series that a query of Prometheus returns.

    :raises Unavailable: there is no complete answer
    """
    body = send(url, query)
    if not isinstance(body, Mapping) or body.get("status") != "success":
        reason = body.get("error", "an error") if isinstance(body, Mapping) else "no JSON object"
        raise Unavailable("prometheus", f"answered {query!r} with {reason}")
    if body.get("warnings"):
        raise Unavailable("prometheus", f"answered {query!r} with warnings: {'; '.join(map(str, body['warnings']))}")
    try:
        data = body["data"]
        kind, series = data["resultType"], data["result"]
        if kind != "vector":
            raise Unavailable("prometheus", f"answered {query!r} with a {kind}; the query must return a vector")
        if not isinstance(series, list):  # another empty value would count as no holds
            raise TypeError(series)
        for one in series:
            yield _hold(one["metric"], query)
    except (KeyError, TypeError, AttributeError):
        raise Unavailable("prometheus", f"answered {query!r} with an unknown format") from None


def _hold(labels: Mapping[str, str], query: str) -> Hold:
    if not all(isinstance(label, str) for label in labels.values()):  # a hold of another host than the label means
        raise TypeError(labels)
    scope = next((f"{name}:{labels[name]}" for name in _LABELS if labels.get(name)), EVERYTHING)
    return Hold(scope, next((labels[name] for name in _REASONS if labels.get(name)), query))
