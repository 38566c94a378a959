"""Calls the cloud's APIs, with one authenticated session.

A call raises :class:`~handlers.base.Unavailable` in these cases:

- The service gives no answer, answers 5xx, or rejects the credentials (401) or the call (403).
- The catalogue has no endpoint of the service.
- The catalogue has endpoints in several regions, and no option chooses a region.
- The service redirects to another server, which would get the token or the password.

The caller gets every other answer, such as 404 and 409.

After an error that can pass, reads are repeated for about a second. A write is repeated only after
401: after another error, the service might have made the first write.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

import requests
import tenacity
from keystoneauth1 import adapter, loading
from keystoneauth1 import exceptions as ks
from keystoneauth1.identity.base import BaseIdentityPlugin
from keystoneauth1.session import Session
from oslo_config import cfg

from handlers.access import cloud_options, request_id
from handlers.access.service_files import ConfigError, ServiceFiles
from handlers.base import Resources, Unavailable, irregular

#: seconds to connect, and between two bytes of an answer; ``[openstack] timeout`` replaces both
TIMEOUT = (2.0, 60.0)
READ_AGAIN_FOR = 1.0
INTERFACES = ("internal", "public")

#: the place of stackmend's own credentials
_OURS = f"[{cloud_options.GROUP}]"
#: the roles that calls with the credentials of a place need
_ROLES = "the credentials of {} need the roles admin and service"
#: the types of the services whose APIs stackmend calls
_SERVICES = ("placement", "network", "compute", "image", "load-balancer", "block-storage")
_PASSING = frozenset({502, 503, 504})
#: requests' text for a failed connection: address and cause
_FAILED_CONNECTION = re.compile(r"connection to (\S+?):? .*\[Errno -?\d+\] ([^\"')]+)")


@dataclass(frozen=True, slots=True)
class Place:
    """Region, interfaces and endpoint of one API, as octavia.conf names them.

    :param interfaces: in order of preference; empty if octavia.conf names none
    :param url: the endpoint; empty for the catalogue's endpoint
    """

    region: str | None = None
    interfaces: tuple[str, ...] = ()
    url: str = ""


@dataclass(frozen=True, slots=True)
class Write:
    """A request that changes an object. ``str()`` makes a line of a plan: service, method, path, headers, body."""

    service: str
    method: str
    url: str
    body: Mapping[str, Any] | Sequence[Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        headers = [f"{name}: {value}" for name, value in self.headers.items()]
        body = [] if self.body is None else [json.dumps(self.body, sort_keys=True)]
        return " ".join([f"{self.service}:", self.method, self.url, *headers, *body])


class Cloud:
    """Credentials and endpoints of the cloud's APIs. Thread-safe.

    :param region: the endpoints' region; can be None if the service catalogue has one region
    :param trust: the option that names the file of certificate authorities, for error messages
    :param advice: the end of messages about answers 401 and 403: the roles that the credentials need
    """

    def __init__(
        self,
        session: Session,
        region: str | None = None,
        interfaces: tuple[str, ...] = INTERFACES,
        overrides: Mapping[str, str] | None = None,
        trust: str = "cafile",
        advice: str = _ROLES.format(_OURS),
    ) -> None:
        self._advice = advice
        self.session = _stay_at_server(session)
        self._trust = trust
        self._region = region
        self._interfaces = interfaces
        self._overrides = dict(overrides or {})

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make the cloud with the credentials of ``[openstack]`` or, if there are none, of a service's files.

        :raises ConfigError: credentials or certificates are missing or unusable
        """
        ours = resources.conf[cloud_options.GROUP]
        access = _access(resources.conf)
        if access.session.timeout is None:
            # requests takes a pair; only the constructor of the session insists on one number
            access.session.timeout = TIMEOUT  # type: ignore[assignment]
        if ours.cafile:
            access = replace(access, trust=f"[{cloud_options.GROUP}] cafile")
            access.session.verify = _readable(ours.cafile, access.trust)
        overrides = {
            "placement": ours.placement_endpoint_override,
            "network": ours.network_endpoint_override,
            "compute": ours.compute_endpoint_override,
            "block-storage": ours.block_storage_endpoint_override,
        }
        return cls(
            access.session,
            ours.region_name or access.region,
            tuple(ours.interface) or access.interfaces or INTERFACES,
            {**access.overrides, **{service: url for service, url in overrides.items() if url}},
            access.trust,
            _ROLES.format(access.source),
        )

    @classmethod
    def of_service(cls, files: ServiceFiles, sections: Sequence[str]) -> Self | None:
        """Make the cloud with a service's own credentials; return None if ``sections`` of its files have no credentials.

        :raises ConfigError: the credentials or certificates are unusable
        """
        for section in sections:
            access = _of_service(files, section)
            if access is not None:
                if access.session.timeout is None:
                    access.session.timeout = TIMEOUT  # type: ignore[assignment]
                return cls(
                    access.session,
                    access.region,
                    access.interfaces or INTERFACES,
                    trust=access.trust,
                    advice=f"the credentials of {access.source} lack a role, or a quota is used up",
                )
        return None

    def project(self) -> str | None:
        """Return the id of the credentials' project; None if the credentials are for no project.

        :raises Unavailable: Keystone does not answer, or rejects the credentials
        """
        try:
            project: str | None = self.session.get_project_id()
        except (ks.Unauthorized, ks.Forbidden) as error:
            raise Denied("identity", _reason(error)) from error
        except ks.ClientException as error:
            raise Unavailable("identity", _reason(error, self._trust)) from error
        return project

    def service(self, service_type: str, place: Place | None = None) -> Service:
        """Return the API of a service.

        :param place: values of octavia.conf. The region and interfaces override stackmend's options; stackmend's option for an
            endpoint overrides the endpoint
        """
        place = place or Place()
        client = _OneRegion(
            self.session,
            service_type=service_type,
            region_name=place.region or self._region,
            interface=list(place.interfaces or self._interfaces),
            endpoint_override=self._overrides.get(service_type) or place.url or None,
            connect_retries=0,
            status_code_retries=0,
        )
        return Service(client, service_type, self._trust, self._advice)


class _OneRegion(adapter.Adapter):
    """Refuses calls if no option chooses one of a service's several regions; keystoneauth would pick any of them."""

    _settled = False

    def request(self, url: str, method: str, **arguments: Any) -> requests.Response:
        self._require_one_region()
        arguments["headers"] = request_id.headers() | dict(arguments.get("headers") or {})
        response: requests.Response = super().request(url, method, **arguments)
        return response

    def _require_one_region(self) -> None:
        auth = self.session.auth
        settled = self._settled or self.region_name or self.endpoint_override
        if settled or not isinstance(auth, BaseIdentityPlugin):
            return
        regions = _regions(self, auth)
        if len(regions) > 1:
            raise Unavailable(
                str(self.service_type),
                f"has endpoints in the regions {', '.join(regions)}, and no option chooses one: "
                f"set [{cloud_options.GROUP}] region_name",
            )
        self._settled = True


class RedirectRefused(ks.ClientException):
    """A server redirects to another server."""


def _stay_at_server(session: Session) -> Session:
    """Let the session refuse redirects to other servers: keystoneauth would send the token or the password there."""
    hooks = session.session.hooks["response"]
    if _refuse_redirect not in hooks:
        hooks.append(_refuse_redirect)
    return session


def _refuse_redirect(response: requests.Response, **_arguments: Any) -> None:
    if not response.is_redirect:
        return
    target = urljoin(response.url, response.headers["location"])
    if requests.Session().should_strip_auth(response.url, target):
        raise RedirectRefused(
            f"{_server(response.url)} redirects to another server, {_server(target)}, which must not get the credentials; "
            "correct the endpoint in the service catalogue, auth_url or an option for the endpoint"
        )


def _server(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _regions(client: adapter.Adapter, auth: BaseIdentityPlugin) -> list[str]:
    found = auth.get_access(client.session).service_catalog.get_endpoints(
        client.service_type, interface=client.interface
    )
    endpoints = [one for some in found.values() for one in some if one]
    return sorted({str(one.get("region_id") or one.get("region")) for one in endpoints})


class Service:
    """One API of the cloud. Thread-safe."""

    def __init__(
        self, client: adapter.Adapter, dependency: str, trust: str = "cafile", advice: str = _ROLES.format(_OURS)
    ) -> None:
        self._advice = advice
        self._client = client
        self.dependency = dependency
        self._trust = trust

    def exists(self) -> bool:
        """Return whether an option or the service catalogue names an endpoint of this API.

        :raises Unavailable: Keystone does not answer, rejects the credentials, or gives an empty catalogue
        """
        if self._client.endpoint_override:
            return True
        if not isinstance(self._client.session.auth, BaseIdentityPlugin):
            # Without a catalogue, the only endpoint is that of another service.
            return False
        with self._unavailable():
            try:
                return self._client.get_endpoint() is not None
            except ks.EmptyCatalog:
                raise
            except ks.EndpointNotFound:
                return False

    @property
    def region(self) -> str:
        return self._client.region_name or ""

    def regions(self) -> list[str]:
        """Return all regions in which the service catalogue has endpoints of this API; empty without Keystone.

        :raises Unavailable: as :meth:`exists`
        """
        auth = self._client.session.auth
        with self._unavailable():
            return _regions(self._client, auth) if isinstance(auth, BaseIdentityPlugin) else []

    def read(self, url: str, **arguments: Any) -> requests.Response:
        """Send GET; after an error that can pass, send again."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_PassingError),
            wait=tenacity.wait_random(0.05, 0.3),
            stop=tenacity.stop_after_delay(READ_AGAIN_FOR),
            reraise=True,
        )
        return retrying(self._call, "GET", url, arguments)

    def write(self, method: str, url: str, **arguments: Any) -> requests.Response:
        """Send PUT, POST or DELETE, and return the answer."""
        return self._call(method, url, arguments)

    def send(self, write: Write, **arguments: Any) -> requests.Response:
        body = {} if write.body is None else {"json": write.body}
        return self.write(write.method, write.url, headers=dict(write.headers), **body, **arguments)

    def json(self, response: requests.Response) -> Mapping[str, Any]:
        """Return the answer's JSON object.

        :raises Unavailable: the body is not a JSON object
        """
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Unavailable(self.dependency, f"answered {response.status_code} with something that is not JSON")
        return body

    def _call(self, method: str, url: str, arguments: Mapping[str, Any]) -> requests.Response:
        with self._unavailable():
            response: requests.Response = self._client.request(url, method, raise_exc=False, **arguments)
        status = response.status_code
        if status in _PASSING:
            raise _PassingError(self.dependency, f"answered {status} to {method} {url}")
        if status in {401, 403}:
            raise Denied(self.dependency, f"answered {status} to {method} {url}; {self._advice}")
        if status >= 500:
            raise Unavailable(self.dependency, f"answered {status} to {method} {url}")
        return response

    @contextmanager
    def _unavailable(self) -> Iterator[None]:
        try:
            yield
        except (ks.ConnectFailure, ks.UnknownConnectionError) as error:
            raise _PassingError(self.dependency, _reason(error)) from error
        except (ks.Unauthorized, ks.Forbidden) as error:
            raise Denied(self.dependency, _reason(error)) from error
        except (ks.ClientException, OSError) as error:  # requests' own, for a cafile that has gone
            raise Unavailable(self.dependency, _reason(error, self._trust)) from error


def page(dependency: str, url: str, rows: Any, markers: set[str]) -> list[Mapping[str, Any]]:
    """Return the rows of one page of a listing; add the marker of the next page to ``markers``.

    :param rows: as the service answered
    :param markers: the markers of the pages before
    :raises Unavailable: these are no rows with ids, or the service shows a page again, so that the listing has no end
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("id") for row in rows):
        raise Unavailable(dependency, f"answered to {url} with something that is no list of objects with ids")
    if rows and (last := str(rows[-1]["id"])) in markers:
        raise Unavailable(dependency, f"answered to {url} twice with the page that ends with {last}")
    markers.update(str(row["id"]) for row in rows[-1:])
    return rows


class Rehearsal(Service):
    """An API that sends no writes to the service: it adds them to a list, for a plan."""

    def __init__(self, service: Service, writes: list[Write]) -> None:
        super().__init__(service._client, service.dependency, service._trust, service._advice)
        self._writes = writes

    def write(self, method: str, url: str, **arguments: Any) -> requests.Response:
        """Add a request to the list. Answer success, with an image, a port and a server whose ids are empty."""
        body = json.loads(arguments["data"]) if "data" in arguments else arguments.get("json")
        self._writes.append(Write(self.dependency, method, url, body, arguments.get("headers") or {}))
        answer = requests.Response()
        answer.status_code = 204 if method == "DELETE" else 200
        answer._content = b'{"image_id": "", "port": {"id": ""}, "server": {"id": ""}}'
        return answer


class Denied(Unavailable):
    """The service rejects the credentials (401) or the call (403)."""


class _PassingError(Unavailable):
    """An error that can pass within a second."""


def _reason(error: Exception, trust: str = "") -> str:
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if found := _FAILED_CONNECTION.search(text):
        return f"no connection to {found[1]}: {found[2]}"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"{text}; its certificate must be signed by an authority in the file that {trust} names"
    return text


@dataclass(frozen=True, slots=True)
class _Access:
    session: Session
    region: str | None = None
    interfaces: tuple[str, ...] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)
    trust: str = f"[{cloud_options.GROUP}] cafile"
    source: str = _OURS


def _access(conf: cfg.ConfigOpts) -> _Access:
    group = cloud_options.GROUP
    if conf[group].cloud:
        return _of_clouds_yaml(conf[group].cloud)
    if conf[group].auth_type or conf[group].auth_section:
        return _Access(_load(conf, group, "stackmend's configuration"))
    for source in cloud_options.SERVICE_CREDENTIALS:
        paths = conf[source.group].config_file if source.group in conf else []
        for section in source.sections if paths else ():
            access = _of_service(ServiceFiles(f"[{source.group}] config_file", paths), section)
            if access is not None:
                return access
    raise ConfigError(
        "there are no credentials. In stackmend's configuration file, write one of these three: "
        "[openstack] cloud = <a name in clouds.yaml>; "
        "[openstack] auth_type = password with auth_url, username, password, project_name, user_domain_name and "
        "project_domain_name; [nova] config_file = a nova.conf with auth_type in [placement]"
    )


def _of_clouds_yaml(name: str) -> _Access:
    from openstack.config import OpenStackConfig
    from openstack.exceptions import SDKException

    try:
        # without this, a cloud that names no interface has "public"
        region = OpenStackConfig(override_defaults={"interface": None}).get_one(cloud=name)
        interfaces = region.get_interface() or ()
        endpoints = {service: region.get_endpoint(service) for service in _SERVICES}
        return _Access(
            _checked(region.get_session(), f"the cloud {name} in clouds.yaml"),
            region.get_region_name(),
            (interfaces,) if isinstance(interfaces, str) else tuple(interfaces),
            {service: url for service, url in endpoints.items() if url},
            f"cacert of the cloud {name} in clouds.yaml",
            f"the cloud {name} in clouds.yaml",
        )
    except (SDKException, ks.ClientException) as error:
        raise ConfigError(f"[openstack] cloud = {name} cannot be used: {error}") from error


def _of_service(files: ServiceFiles, section: str) -> _Access | None:
    if not any(files.has(section, name) for name in ("auth_type", "auth_plugin", "auth_section")):
        return None
    interfaces = files.get(section, "valid_interfaces") or files.get(section, "interface") or ""
    return _Access(
        _load(_reread(files, section), section, str(files)),
        files.get(section, "region_name"),
        tuple(name.strip() for name in interfaces.split(",") if name.strip()),
        {"placement": url} if section == "placement" and (url := files.get(section, "endpoint_override")) else {},
        f"[{section}] cafile of {files}",
        f"[{section}] of {files}",
    )


def _reread(foreign: ServiceFiles, section: str) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    loading.register_session_conf_options(conf, section)
    loading.register_auth_conf_options(conf, section)
    conf(args=[], project="stackmend-foreign", default_config_files=foreign.files, default_config_dirs=[])
    return conf


def _load(conf: cfg.ConfigOpts, section: str, where: str) -> Session:
    try:
        auth = loading.load_auth_from_conf_options(conf, section)
        session: Session = loading.load_session_from_conf_options(conf, section, auth=auth)
    except (ks.AuthPluginException, ks.OptionError, cfg.Error, ValueError) as error:
        raise ConfigError(f"[{section}] of {where} does not give usable credentials: {_reason(error)}") from error
    if isinstance(session.verify, str):
        _readable(session.verify, f"[{section}] cafile of {where}")
    return _checked(session, f"[{section}] of {where}")


def _checked(session: Session, source: str) -> Session:
    for name in (session.verify, *(session.cert if isinstance(session.cert, tuple) else (session.cert,))):
        if isinstance(name, str) and not Path(name).is_dir() and (reason := irregular(name)):
            raise ConfigError(f"certificates and keys of {source}: {name} is {reason}")
    return session


def _readable(path: str, option: str) -> str:
    if reason := irregular(path):
        raise ConfigError(f"{option} = {path} is {reason}")
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ConfigError(f"{option} = {path} cannot be used: {error.strerror}") from error
    return path
