"""Checks whether the credentials of ``[openstack]`` have the Keystone roles that handlers need.

The check reads the token's roles, and names the command that adds a missing role. For credentials without a project, it names
the options that set a project.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from keystoneauth1.identity.base import BaseIdentityPlugin

from handlers.access.cloud import Cloud
from handlers.access.service_files import ConfigError
from handlers.base import Checked, Handler, HandlerError, Mode, Resources, Role, Verdict

#: the cure for rejected or missing credentials
CREDENTIALS = "see [openstack] auth_type, username, password and project_name"


@dataclass(frozen=True, slots=True)
class Identity:
    """The owner of a Keystone token.

    :param project: the project's name; empty for a token without a project
    :param roles: names of the roles, implied roles included
    """

    user: str
    user_domain: str
    project: str
    project_domain: str
    roles: frozenset[str]


def check(service: str, resources: Resources, modes: Mapping[type[Handler], Mode]) -> Iterator[Checked]:
    """Check the roles of the user in ``[openstack]``; yield nothing without Keystone, or if no active handler needs a role."""
    wanted: dict[Role, list[str]] = {}
    for handler, mode in sorted(modes.items(), key=lambda item: item[0].name):
        for role in handler.roles.needed(mode) if mode is not Mode.OFF else ():
            wanted.setdefault(role, []).append(handler.name)
    if not wanted:
        return
    subject = f"{service}: roles"
    try:
        identity = who(resources.get(Cloud.from_resources))
    except (HandlerError, ConfigError) as error:
        yield Checked(subject, Verdict.FAILURE, f"{error}; {CREDENTIALS}")
        return
    if identity is None:
        return
    lacking = {need: names for need, names in wanted.items() if not identity.roles.intersection(need.any_of)}
    if not lacking:
        yield Checked(
            subject, Verdict.OK, f"{identity.user} has the roles that handlers need: {_counted(wanted, identity)}"
        )
        return
    asked = "; ".join(
        f"{need.purpose} needs the role {' or '.join(need.any_of)} ({', '.join(names)})"
        for need, names in lacking.items()
    )
    cure = "; ".join(dict.fromkeys(_addition(identity, need.any_of[0]) for need in lacking))
    worst = Verdict.FAILURE if any(need.verdict is Verdict.FAILURE for need in lacking) else Verdict.WARNING
    yield Checked(subject, worst, f"{identity.user} lacks roles: {asked}: {cure}")


def who(cloud: Cloud) -> Identity | None:
    """Return the owner of the credentials' token; None without Keystone.

    :raises Unavailable: Keystone does not answer, or rejects the credentials
    """
    auth = cloud.session.auth
    if not isinstance(auth, BaseIdentityPlugin):
        return None
    cloud.project()  # fetches the token, and raises the error of that
    access = auth.get_access(cloud.session)
    return Identity(
        access.username or "",
        access.user_domain_name or "",
        access.project_name or "",
        access.project_domain_name or "",
        frozenset(access.role_names or ()),
    )


def _counted(wanted: Iterable[Role], identity: Identity) -> str:
    return " and ".join(sorted({role for need in wanted for role in need.any_of} & identity.roles))


def _addition(identity: Identity, role: str) -> str:
    if not identity.project:
        return "these credentials are for no project; set [openstack] project_name and project_domain_name"
    words = ("openstack", "role", "add", "--user", identity.user, "--user-domain", identity.user_domain)
    return shlex.join([*words, "--project", identity.project, "--project-domain", identity.project_domain, role])
