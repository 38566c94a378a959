"""Host names are compared as Nova's database compares them."""

from __future__ import annotations

import pytest

from handlers.nova.names import HostNames

FOLDING, EXACT = HostNames(exact=False), HostNames(exact=True)


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("mysql+pymysql://u:p@h/nova_api", FOLDING),
        ("mariadb+pymysql://u:p@h/nova_api", FOLDING),
        ("postgresql://u:p@h/nova_api", EXACT),
        ("sqlite:////tmp/nova_api.db", EXACT),
    ],
)
def test_the_database_decides_the_rule(url: str, rule: HostNames) -> None:
    assert HostNames.of(url) == rule


@pytest.mark.parametrize(("one", "other"), [("Node-1", "node-1"), ("node-1 ", "node-1"), ("NÖDE", "nöde")])
def test_mysql_takes_these_names_for_one_host(one: str, other: str) -> None:
    assert FOLDING.same(one, other)
    assert FOLDING.normal(one) in FOLDING.all_normal([other])
    assert not EXACT.same(one, other)
    assert EXACT.normal(one) not in EXACT.all_normal([other])


@pytest.mark.parametrize("rule", [FOLDING, EXACT])
def test_names_of_two_hosts_differ(rule: HostNames) -> None:
    assert rule.same("node-1", "node-1")
    assert not rule.same("node-1", "node-2")
    assert not rule.same(None, None)
    assert not rule.same("node-1", None)
