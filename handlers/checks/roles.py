"""Which of Keystone's roles the credentials of ``[openstack]`` have, which they lack, and the command that adds one.

Each handler names the roles that it needs (:attr:`~handlers.base.Handler.roles`). The roles in the token count, with those
that other roles imply.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from keystoneauth1.identity.base import BaseIdentityPlugin

from handlers.access.cloud import Cloud
from handlers.access.service_files import ConfigError
from handlers.base import Checked, Handler, HandlerError, Mode, Resources, Role, Verdict


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


def check(service: str, resources: Resources, modes: Mapping[type[Handler], Mode]) -> Iterator[Checked]:
    """Judge the roles of ``[openstack]``; yield nothing where there is no Keystone, or where no handler calls an API.

    :param service: the service of these handlers, for the subject
    :param modes: the handlers of this service
    """
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
        text = f"{error}; who we are say the options [openstack] auth_type, username, password and project_name"
        yield Checked(subject, Verdict.FAILURE, text)
        return
    if identity is None:
        return
    lacking = {need: names for need, names in wanted.items() if not identity.roles.intersection(need.any_of)}
    if not lacking:
        yield Checked(subject, Verdict.OK, f"{identity.user} has {_counted(wanted, identity)}, which is what is needed")
        return
    asked = "; ".join(
        f"{need.purpose} asks for the role {' or '.join(need.any_of)} ({', '.join(names)})"
        for need, names in lacking.items()
    )
    cure = "; ".join(dict.fromkeys(_addition(identity, need.any_of[0]) for need in lacking))
    worst = Verdict.FAILURE if any(need.verdict is Verdict.FAILURE for need in lacking) else Verdict.WARNING
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


def _counted(wanted: Iterable[Role], identity: Identity) -> str:
    """Name those of our roles that count."""
    return " and ".join(sorted({role for need in wanted for role in need.any_of} & identity.roles))


def _addition(identity: Identity, role: str) -> str:
    """Return the command that adds a role."""
    if not identity.project:
        return "these credentials are for no project; set [openstack] project_name and project_domain_name"
    words = ("openstack", "role", "add", "--user", identity.user, "--user-domain", identity.user_domain)
    return shlex.join([*words, "--project", identity.project, "--project-domain", identity.project_domain, role])
