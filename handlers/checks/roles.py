"""Which of Keystone's roles the credentials of ``[openstack]`` need, which they have, and the command that adds one.

Each service's package says, per handler, which roles its looks and its heals need (:class:`Need`), by the policies that the
services ship. A cloud that writes policies of its own may do with others.

What Keystone says is what counts: the roles that stand in the token, implied ones among them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from keystoneauth1.identity.base import BaseIdentityPlugin

from handlers.access.cloud import Cloud
from handlers.access.service_files import ConfigError
from handlers.base import Checked, HandlerError, Resources


@dataclass(frozen=True, slots=True)
class Need:
    """A role that something takes.

    :param roles: any one of these is enough; the first is the one that allows least
    :param what: for what
    :param verdict: of its lack: ``failure``, or ``warning`` where it depends on the release of the other service
    """

    roles: tuple[str, ...]
    what: str
    verdict: str = "failure"


@dataclass(frozen=True, slots=True)
class Calls:
    """The roles that a handler needs.

    :param look: to look, and to heal
    :param heal: to heal, besides
    """

    look: tuple[Need, ...] = ()
    heal: tuple[Need, ...] = ()

    def needs(self, mode: str) -> tuple[Need, ...]:
        """Return what it needs in a mode."""
        return self.look + self.heal if mode == "heal" else self.look


@dataclass(frozen=True, slots=True)
class Identity:
    """As whom we act, by Keystone's token.

    :param project: empty when we act in none
    :param roles: their names, with those that others imply
    """

    user: str
    user_domain: str
    project: str
    project_domain: str
    roles: frozenset[str]


#: ``placement/policies``: one of both for everything
PLACEMENT = Need(("service", "admin"), "Placement")
#: ``neutron/conf/policies/port.py``: ``get_port:resource_request``, and ports of other projects
PORTS = Need(("admin",), "Neutron, to see all of a port")
#: ``update_port:binding:profile``, by the policies that Neutron enforces since 2023.2; an administrator's before
PROFILES = Need(("service",), "Neutron since 2023.2, to change binding:profile", "warning")
#: servers and images of another project, and Octavia's failovers
AMPHORAE = Need(("admin",), "Nova, Neutron, Glance and Octavia")


def check(
    service: str, resources: Resources, calls: Mapping[str, Calls], modes: Mapping[str, str]
) -> Iterator[Checked]:
    """Judge the roles of ``[openstack]``; nothing where there is no Keystone, or no handler calls an API.

    :param service: whose handlers these are, for the subject
    :param calls: by handler
    :param modes: of the handlers that are not off
    """
    wanted: dict[Need, list[str]] = {}
    for name, mode in sorted(modes.items()):
        for need in calls[name].needs(mode) if name in calls else ():
            wanted.setdefault(need, []).append(name)
    if not wanted:
        return
    subject = f"{service}: roles"
    try:
        identity = who(resources.get(Cloud.from_resources))
    except (HandlerError, ConfigError) as error:
        text = f"{error}; who we are say the options [openstack] auth_type, username, password and project_name"
        yield Checked(subject, "failure", text)
        return
    if identity is None:
        return
    lacking = {need: names for need, names in wanted.items() if not identity.roles.intersection(need.roles)}
    if not lacking:
        yield Checked(subject, "ok", f"{identity.user} has {_counted(wanted, identity)}, which is what is needed")
        return
    asked = "; ".join(
        f"{need.what} asks for the role {' or '.join(need.roles)} ({', '.join(names)})"
        for need, names in lacking.items()
    )
    cure = "; ".join(dict.fromkeys(_addition(identity, need.roles[0]) for need in lacking))
    worst = "failure" if any(need.verdict == "failure" for need in lacking) else "warning"
    yield Checked(subject, worst, f"{identity.user} lacks what is needed: {asked}: {cure}")


def who(cloud: Cloud) -> Identity | None:
    """Return as whom Keystone knows us; None where there is no Keystone.

    :raises Unavailable: when Keystone does not answer, or does not let us in
    """
    auth = cloud.session.auth
    if not isinstance(auth, BaseIdentityPlugin):
        return None
    cloud.project()  # fetches the token, and says what is wrong with that
    access = auth.get_access(cloud.session)
    return Identity(
        access.username or "",
        access.user_domain_name or "",
        access.project_name or "",
        access.project_domain_name or "",
        frozenset(access.role_names or ()),
    )


def _counted(wanted: Iterable[Need], identity: Identity) -> str:
    """Name those of our roles that count."""
    return " and ".join(sorted({role for need in wanted for role in need.roles} & identity.roles))


def _addition(identity: Identity, role: str) -> str:
    """Return the command that adds a role."""
    if not identity.project:
        return "these credentials are for no project; set [openstack] project_name and project_domain_name"
    words = ("openstack", "role", "add", "--user", identity.user, "--user-domain", identity.user_domain)
    return shlex.join([*words, "--project", identity.project, "--project-domain", identity.project_domain, role])
