from __future__ import annotations

import pytest

from handlers.nova.cells import CELL0, Cell, TemplateError, fill

BASE = "mysql+pymysql://nova:s%40cret@db.example:3307/nova?charset=utf8#x"
RABBIT = "rabbit://u1:p1@h1:5671,u2:p2@h2:5672,u3:p3@[fe80::3]:5673/vhost"

FILLED = {
    "plain": ("mysql://a:b@c/d", BASE, "mysql://a:b@c/d"),
    "every field": (
        "{scheme}://{username}:{password}@{hostname}:{port}/{path}_cell1?{query}#{fragment}",
        BASE,
        "mysql+pymysql://nova:s%40cret@db.example:3307/nova_cell1?charset=utf8#x",
    ),
    "one host": (
        "rabbit://{username}:{password}@{hostname}:{port}/c2",
        "rabbit://u:p@h:5672/",
        "rabbit://u:p@h:5672/c2",
    ),
    "several hosts": (
        "rabbit://{username1}:{password1}@{hostname1}:{port1},{username2}:{password2}@{hostname2}:{port2}/c2",
        RABBIT,
        "rabbit://u1:p1@h1:5671,u2:p2@h2:5672/c2",
    ),
    "an IPv6 host": ("rabbit://{username3}@[{hostname3}]:{port3}/", RABBIT, "rabbit://u3@[fe80::3]:5673/"),
}


@pytest.mark.parametrize(("template", "base", "filled"), FILLED.values(), ids=FILLED)
def test_templates_are_filled_as_nova_does(template: str, base: str, filled: str) -> None:
    assert fill(template, base, "[nova] database_connection") == filled


@pytest.mark.parametrize("password", ["a{b", "a}b", "{}", "{secret}", "a{0}b", "{{x}}"])
@pytest.mark.parametrize("base", [None, BASE])
def test_braces_in_a_password_are_no_template(password: str, base: str | None) -> None:
    url = f"mysql+pymysql://nova:{password}@db/nova_cell1"
    assert fill(url, base, "[nova] database_connection") == url


@pytest.mark.parametrize("base", [None, "", "rabbit://u:p@h/"])
def test_the_error_for_a_template_hides_secrets(base: str | None) -> None:
    with pytest.raises(TemplateError, match=r"\[nova\] transport_url") as caught:
        fill("rabbit://{username2}:verysecret@h/", base, "[nova] transport_url")
    assert "verysecret" not in str(caught.value)


def test_the_error_names_the_parts_that_the_base_url_lacks() -> None:
    template = "mysql+pymysql://{username}:verysecret@{hostname}:{port}/nova_cell1?{query}"
    with pytest.raises(TemplateError, match=r"\[nova\] database_connection gives no port and no username$") as caught:
        fill(template, "mysql+pymysql://db.example/nova", "[nova] database_connection")
    assert "verysecret" not in str(caught.value)


def test_a_cell_shows_no_credentials() -> None:
    cell = Cell(1, CELL0, "", "mysql://a:verysecret@c/d", "rabbit://a:verysecret@b/")
    assert "verysecret" not in repr(cell)
    assert cell.is_cell0
    assert cell.label == f"cell:{CELL0}"
