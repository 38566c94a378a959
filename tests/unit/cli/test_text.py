from __future__ import annotations

import json
import time
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.text import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mysql+pymysql://nova:Pw@db/nova is gone", "mysql+pymysql://nova:***@db/nova is gone"),
        ("rabbit://one:Pw@a:5672,two:Pw@b:5672/ is gone", "rabbit://one:***@a:5672,two:***@b:5672/ is gone"),
        ("rabbit://one:Pw#/:?@a,two:P@w@b/", "rabbit://one:***@a,two:***@b/"),
        ("rabbit://:Pw@a/", "rabbit://:***@a/"),
        ("rabbit://u/s?e#r:Pw@a/", "rabbit://u/s?e#r:***@a/"),
        ("rabbit://us@er:Pw@a/", "rabbit://us@er:***@a/"),
        ("//one:Pw@a/", "//one:***@a/"),
        (f"rabbit://one:{'Pw' * 500}@a/", "rabbit://one:***@a/"),
        (f"rabbit://one:Pw@a,two:{'Pw' * 500}@b/", "rabbit://one:***@a,two:***@b/"),
        ("rabbit://one:Pw@a,two:Pw/ is", "rabbit://one:***@a,two:*** is"),
        ("rabbit://a:5672,two:Pw/ is", "rabbit://a:5672,two:*** is"),
        ("rabbit://one:Pw is cut", "rabbit://one:*** is cut"),
        ("rabbit://one:Pw Pw\nPw\tPw@a/ is", "rabbit://one:***@a/ is"),
        ("rabbit://one:Pw@ Pw@a/ is", "rabbit://one:***@a/ is"),
        ("rabbit://one:Pw://Pw@a/ is", "rabbit://one:***@a/ is"),
        ("rabbit://one:Pw,two:Pw@a/ is", "rabbit://one:***@a/ is"),
        ("rabbit://one:P@w,Pw@a/ is", "rabbit://one:***@a/ is"),
        ("rabbit://one:Pw@[::1]:5672,two:Pw@[::2]/", "rabbit://one:***@[::1]:5672,two:***@[::2]/"),
        ("postgresql://db/x?user=one&password=Pw'\"&y=1", "postgresql://db/x?user=one&password=***&y=1"),
        ("https://h/x?access-token=Pw&y=1", "https://h/x?access-token=***&y=1"),
        ("https://h/x?y=1&apikey=Pw", "https://h/x?y=1&apikey=***"),
        ("https://h/x?api_key=Pw&API-Key=Pw", "https://h/x?api_key=***&API-Key=***"),
        ("https://h/x?sv=1&sig=Pw%2B&se=2", "https://h/x?sv=1&sig=***&se=2"),
        ("https://h/x?X-Amz-Signature=Pw&z=1 is", "https://h/x?X-Amz-Signature=***&z=1 is"),
        ("https://h/x;token=Pw", "https://h/x;token=***"),
        ("https://h/x#token=Pw", "https://h/x#token=***"),
        ("https://h/x?u=%2Fy%26token%3DPw", "https://h/x?u=%2Fy%26token%3D***"),
        ("host=db user=nova password=Pw dbname=x", "host=db user=nova password=*** dbname=x"),
        ("password='P w\\' Pw' dbname=x", "password=*** dbname=x"),
        ('password = "P w Pw" dbname=x', "password = *** dbname=x"),
        (r"rabbit:\/\/one:Pw@a\/v is", r"rabbit:\/\/one:***@a\/v is"),
        ("http://h/?u=rabbit%3A%2F%2Fone%3APw%40a%2Fv is", "http://h/?u=rabbit%3A%2F%2Fone%3A***%40a%2Fv is"),
        ("rabbit:%2F%2Fone:Pw@a is", "rabbit:%2F%2Fone:***@a is"),
        ("rabbit%253A%252F%252Fone%253APw%2540a", "rabbit%253A%252F%252Fone%253A***%2540a"),
        ("http://h/?u=http%3A%2F%2Fnova%3A8774%2Fv2.1 is", "http://h/?u=http%3A%2F%2Fnova%3A8774%2Fv2.1 is"),
        ("GET /servers?sort_key=id&design=x", "GET /servers?sort_key=id&design=x"),
        (
            "set auth_type = password and send_service_user_token",
            "set auth_type = password and send_service_user_token",
        ),
        ("http://[::1]:8774/v2.1 for me@host", "http://[::1]:8774/v2.1 for me@host"),
        ("no answer of http://nova: ask me@host", "no answer of http://nova: ask me@host"),
        ("sqlite:////a/b:c for me@host", "sqlite:////a/b:c for me@host"),
        ("http://placement:8778/x for me@host", "http://placement:8778/x for me@host"),
        ("at 12:30, me@host said: no", "at 12:30, me@host said: no"),
    ],
)
def test_passwords_of_urls_are_masked(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_masked_json_stays_json() -> None:
    assert json.loads(redacted(r'{"a": "rabbit:\/\/one:Pw@b", "c": "d"}')) == {"a": "rabbit://one:***@b", "c": "d"}
    record = {"message": 'rabbit://one:Pw@a,two:Pw@b/ {"x":"y,z:w@v"}\nnext', "at": "10:30", "by": "me@host"}
    assert "Pw" not in (masked := redacted(json.dumps(record)))
    assert set(json.loads(masked)) == set(record)
    assert json.loads(masked)["by"] == "me@host"


NAME = st.text(alphabet="abcXYZ019-_.", min_size=1, max_size=8)
PASSWORD = st.text(alphabet="QRSTUV789!$%#&=@:", max_size=12).map(lambda text: f"S3cr{text}3t")


@given(st.lists(st.tuples(NAME, PASSWORD, NAME), min_size=1, max_size=3))
def test_no_password_survives_redaction(hosts: list[tuple[str, str, str]]) -> None:
    url = "rabbit://" + ",".join(f"{user}:{password}@{host}:5672" for user, password, host in hosts) + "/vhost"
    safe = redacted(url)
    for user, password, host in hosts:
        assert password not in safe
        assert f"{user}:***@{host}:5672" in safe


MARKS = ":/?#%,;&='\"\\[](){}QV7"


def hostile(marks: str) -> st.SearchStrategy[str]:
    return st.text(alphabet=MARKS + marks, max_size=12).map(lambda text: f"S3cr{text}3t")


#: After an @, a space looks like the end of the URL.
HOSTILE = st.one_of(hostile("@"), hostile(" \n\t"))


@given(HOSTILE)
def test_no_part_of_a_hostile_password_survives(password: str) -> None:
    url = f"mysql+pymysql://nova:{password}@db:3306/nova"
    error = ValueError(f"cannot use {url}")
    shown = [url, repr(url), repr([url, "me@host"]), f"({error}) for me", "".join(traceback.format_exception(error))]
    for text in shown:
        masked = redacted(text)
        assert "S3cr" not in masked
        assert "3t" not in masked
        assert "nova:***@" in masked


@given(HOSTILE)
def test_json_with_a_hostile_password_stays_json(password: str) -> None:
    record = {"message": f"mysql://nova:{password}@db/nova is gone", "cut": f"mysql://nova:{password}", "by": "me@host"}
    for separators in [(", ", ": "), (",", ":")]:
        back = json.loads(redacted(json.dumps(record, separators=separators)))
        assert set(back) == set(record)
        assert back["by"] == "me@host"
        assert "S3cr" not in str(back)


@pytest.mark.parametrize(
    "text",
    [
        "rabbit://u:p@h/" + ",:" * 100_000,
        ",:" * 100_000,
        "//" * 100_000,
        "a:" + "@," * 100_000,
        "x://a:b " * 100_000 + "@",
        "@" + "x://a:b " * 100_000,
        "x://a:b@ " * 100_000,
        "x://" + "@a,b:" * 100_000,
        "x://" + "[" * 100_000,
        '{"' + '\\"' * 100_000,
        "{" * 100_000,
        "?password" * 100_000,
        "password = " * 100_000,
        "token='" * 100_000,
        "a" * 500_000,
        "\\" * 500_000,
        "\\/" * 250_000,
        "a://" * 100_000,
        "%2F" * 100_000,
        "%2F%2Fa:" * 100_000,
        "%2F%2Fa:@" * 100_000,
    ],
)
def test_hostile_text_is_redacted_in_linear_time(text: str) -> None:
    began = time.process_time()
    redacted(text)
    assert time.process_time() - began < 5  # quadratic: minutes
