"""Decides whether an answer 404 proves that an object does not exist.

Only the error with which the service itself reports a missing object is proof. A proxy answers 404 too, and with the error
``HTTPNotFound``, Neutron's policy hides an object from the credentials.

Sources: ``nova/api/openstack/wsgi.py`` (Fault), ``neutron/pecan_wsgi/hooks/policy_enforcement.py``,
``glance/db/__init__.py`` and ``glance/api/v2/images.py`` (delete), ``wsme/api.py`` (format_exception),
``octavia/common/exceptions.py`` (NotFound).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import requests

#: Neutron's error for an object that its policy hides, and for a URL that it does not know
_HIDDEN = "HTTPNotFound"


def proves_absence(dependency: str, thing: str, response: requests.Response) -> bool:
    """Return whether a service's answer proves that an object does not exist.

    :param dependency: the service's type
    :param thing: the object: ``server:<id>``
    """
    proves = _PROOFS.get(dependency)
    return response.status_code == 404 and proves is not None and proves(response, thing.partition(":")[2])


def _by_nova(response: requests.Response, _identity: str) -> bool:
    return _part(_body(response), "itemNotFound").get("code") == 404


def _by_neutron(response: requests.Response, _identity: str) -> bool:
    kind = str(_part(_body(response), "NeutronError").get("type"))
    return kind.endswith("NotFound") and kind != _HIDDEN


def _by_glance(response: requests.Response, identity: str) -> bool:
    messages = (f"No image found with ID {identity}", f"Failed to find image {identity}")
    return bool(identity) and any(message in response.text for message in messages)


def _by_octavia(response: requests.Response, identity: str) -> bool:
    body = _body(response)
    return bool(identity) and "faultcode" in body and identity in str(body.get("faultstring"))


_PROOFS: Mapping[str, Callable[[requests.Response, str], bool]] = {
    "compute": _by_nova,
    "network": _by_neutron,
    "image": _by_glance,
    "load-balancer": _by_octavia,
}


def _body(response: requests.Response) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _part(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = body.get(name)
    return part if isinstance(part, dict) else {}
