"""Messages of webhooks: signature, answers, bodies, and the templates that are shipped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumer.conf import webhooks
from consumer.conf.webhooks import WrongTemplate
from consumer.engine.webhooks.message import SAMPLE, Renderer, plain
from consumer.engine.webhooks.sending import Attempt, judge
from consumer.engine.webhooks.signature import headers
from consumer.journal.history import Outcome

TEMPLATES = Path(__file__).parents[3] / "etc" / "webhooks"


def test_the_options_know_every_outcome() -> None:
    assert set(webhooks.OUTCOMES) == {one.value for one in Outcome}
    assert set(webhooks.EVENTS) <= set(webhooks.OUTCOMES)


def test_the_signature_is_that_of_the_specification() -> None:
    """The values are the published example of Standard Webhooks."""
    found = headers(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1_614_265_330.9,
        b'{"test": 2432232314}',
    )
    assert found == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("@all", "@\N{ZERO WIDTH SPACE}all"),
        ("<https://a.example|safe>", "&lt;https://a.example|safe&gt;"),
        ("[safe](https://a.example)", "[safe]\N{ZERO WIDTH SPACE}(https://a.example)"),
        ("see [safe]\n[safe]: https://a.example", "see [safe]\n[safe]\N{ZERO WIDTH SPACE}: https://a.example"),
        ("port 5672 of amqp://[::1]:5672, list [1]", "port 5672 of amqp://[::1]:5672, list [1]"),
        ("https://a.example", "https://a.example"),
    ],
)
def test_no_text_hides_the_target_of_its_link(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_without_a_secret_there_is_no_signature() -> None:
    assert "webhook-signature" not in headers("", "a", 0.0, b"")


@pytest.mark.parametrize("secret", ["plain text", "whsec_not base64"])
def test_every_text_is_a_secret(secret: str) -> None:
    assert headers(secret, "a", 0.0, b"x") != headers(secret + "!", "a", 0.0, b"x")


@pytest.mark.parametrize(
    ("status", "retry_after", "expected"),
    [
        (200, "", Attempt()),
        (204, "", Attempt()),
        (301, "", Attempt("answered 301")),
        (400, "", Attempt("answered 400", final=True)),
        (403, "", Attempt("answered 403")),
        (422, "", Attempt("answered 422", final=True)),
        (429, "30", Attempt("answered 429", after=30.0)),
        (503, "Sun, 29 Nov 2026 08:00:00 GMT", Attempt("answered 503")),
        (503, "999999", Attempt("answered 503", after=3600.0)),
    ],
)
def test_answers(status: int, retry_after: str, expected: Attempt) -> None:
    assert judge(status, retry_after) == expected


def body(name: str = "", event: str = "healed", **changes: Any) -> Any:
    path = str(TEMPLATES / name) if name else ""
    return json.loads(Renderer(path).body(replace(SAMPLE, **changes), event))


def test_json_has_every_value_and_no_password() -> None:
    message = body(event="asked", evidence={"urls": ["http://user:pass@host/"]}, error="mysql://a:b@c/ is silent")
    assert message["event"] == "asked"
    assert message["evidence"] == {"urls": ["http://user:***@host/"]}
    assert message["error"] == "mysql://a:***@c/ is silent"
    assert {"handler", "key", "problem", "summary", "plan", "undo", "operator", "at", "lag_s"} <= set(message)


HOSTILE = 'x", "text": "<!channel> @all {{ 1/0 }} \n\x1b[2J'


@pytest.mark.parametrize("name", ["slack.json.j2", "mattermost.json.j2"])
def test_a_chat_message_shows_hostile_text_as_it_is(name: str) -> None:
    text = body(name, summary=HOSTILE, action="", key=HOSTILE, error=HOSTILE, undo=HOSTILE)["text"]
    assert "<!channel>" not in text
    assert "@all" not in text
    assert "\x1b" not in text
    assert "{{ 1/0 }}" in text


def test_a_chat_message_names_the_object_and_the_undo() -> None:
    lines = body("slack.json.j2")["text"].split("\n")
    assert lines[0] == ":white_check_mark: *healed* discover_hosts `host:compute-7`"
    assert lines[1] == "mapped host compute-7 to cell cell1"
    assert lines[2].startswith("undo: `nova-manage")


def test_an_alert_ends_with_the_heal_of_the_same_object() -> None:
    [found], [healed] = body("alertmanager.json.j2", "found"), body("alertmanager.json.j2", "healed")
    assert found["labels"] == healed["labels"]
    assert found["endsAt"] == "2026-11-29T10:00:00.000Z"
    assert healed["endsAt"] == "2026-11-28T10:00:00.500Z"


@pytest.mark.parametrize("text", ["{{", "{{ nothing }}", "{{ ''.__class__ }}", "{% include '/etc/passwd' %}"])
def test_a_template_that_cannot_be_used_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "template"
    path.write_text(text)
    with pytest.raises(WrongTemplate, match=str(path)):
        Renderer(str(path))


def test_a_template_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongTemplate, match="cannot be used"):
        Renderer(str(tmp_path / "none"))
