from __future__ import annotations

import json

import pytest

from consumer.text import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mysql+pymysql://nova:Pw@db/nova is gone", "mysql+pymysql://nova:***@db/nova is gone"),
        ("rabbit://one:Pw@a:5672,two:Pw@b:5672/ is gone", "rabbit://one:***@a:5672,two:***@b:5672/ is gone"),
        ("rabbit://one:Pw#/:?@a,two:P@w@b/", "rabbit://one:***@a,two:***@b/"),
        ("rabbit://:Pw@a/", "rabbit://:***@a/"),
        ("http://placement:8778/x for me@host", "http://placement:8778/x for me@host"),
        ("at 12:30, me@host said: no", "at 12:30, me@host said: no"),
    ],
)
def test_passwords_of_urls_are_masked(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_masked_json_stays_json() -> None:
    record = {"message": 'rabbit://one:Pw@a,two:Pw@b/ {"x":"y,z:w@v"}\nnext', "at": "10:30", "by": "me@host"}
    assert "Pw" not in (masked := redacted(json.dumps(record)))
    assert set(json.loads(masked)) == set(record)
    assert json.loads(masked)["by"] == "me@host"
