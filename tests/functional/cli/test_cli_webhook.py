"""``webhook list`` and ``test``; webhooks in ``check``, in ``heal`` and in the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NoReturn

import pytest

from consumer.engine.oneshot import OneShot
from consumer.engine.task import Task
from consumer.journal import deliveries, history
from consumer.journal.database import Database
from consumer.journal.history import Line, Origin, Outcome
from handlers.base import Key
from tests.functional.cli.shell import Shell
from tests.receiver import Receiver


@pytest.fixture
def receiver(shell: Shell) -> Iterator[Receiver]:
    with Receiver() as made:
        shell.configure(
            f"[webhooks]\nenabled = chat\n[webhook_chat]\nurl = {made.url}\nsecret = s3cret\nevents = healed, failed\n"
        )
        yield made


def test_a_test_message(shell: Shell, receiver: Receiver) -> None:
    assert shell("webhook", "test", "chat").out == "chat: accepted\n"
    assert receiver.events == [("healed", "host:compute-7")]
    receiver.answers = [403]
    ran = shell("webhook", "test", "chat")
    assert (ran.code, ran.out) == (1, "chat: answered 403\n")
    assert "the sinks are: chat" in shell("webhook", "test", "caht").err


def test_the_list_shows_what_waits_but_no_url(shell: Shell, receiver: Receiver, database: Database) -> None:
    deliveries.subscribe(database, {"chat": ["healed"]})
    line = Line("mender", Key("thing", "a"), Outcome.HEALED, "broken", "a is broken", Origin("sweep", "r1"))
    history.append(database, [line])
    ran = shell("webhook", "list", "-f", "json")
    [row] = ran.json
    assert (row["name"], row["events"], row["waiting"]) == ("chat", "healed, failed", 1)
    assert "t0psecret" not in ran.out + shell("webhook", "list").out
    held = deliveries.claim(database, "chat", 1)
    assert held
    deliveries.again(database, held, 60, "answered 403")
    checks = {one["check"]: one for one in shell("check", "-f", "json").json}
    assert checks["webhook chat"]["result"] == "warning"
    assert "last error: answered 403. Run stackmend webhook test chat" in checks["webhook chat"]["details"]


@pytest.mark.usefixtures("database")
def test_a_command_sends_its_heals_before_it_ends(shell: Shell, receiver: Receiver) -> None:
    shell.world.things = {"a": 1, "b": 1}
    assert shell("heal", "mender", "a").code == 0
    assert receiver.events == [("healed", "thing:a")]
    assert shell("sweep").code == 0
    assert receiver.events == [("healed", "thing:a"), ("healed", "thing:b")]


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()])
def test_an_interrupted_command_sends_the_heals_before(
    shell: Shell, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    examine_all = OneShot.examine_all

    def fail(one_shot: OneShot, tasks: Sequence[Task], keys: Sequence[Key]) -> NoReturn:
        examine_all(one_shot, tasks, keys)
        raise error

    monkeypatch.setattr(OneShot, "examine_all", fail)
    shell.world.things = {"a": 1}
    assert shell("sweep", "--key", "thing:a").code in (1, 130)
    assert shell.world.writes == {"a": 1}
    assert receiver.events == [("healed", "thing:a")]


def test_an_audit_sends_nothing(shell: Shell, receiver: Receiver) -> None:
    shell.world.things = {"a": 1}
    assert shell("sweep", "--audit").code == 2
    assert receiver.events == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[webhooks]\nenabled = chat\n", "[webhook_chat] url is not set"),
        ("[webhooks]\nenabled = chat\n[webhook_chat]\nurl = ftp://t0psecret/\n", "must begin with https://"),
        *(
            (
                f"[webhooks]\nenabled = chat\n[webhook_chat]\nurl = {url}\n",
                "[webhook_chat] url must begin with https://",
            )
            for url in (
                "http://u:t0psecret@h\u2100x/",
                "http://[::1",
                "http://t0psecret:99999/",
                "http://t0psecret:abc/",
            )
        ),
        ("[webhooks]\nenabled = Chat-1\n", "'Chat-1' is not a name"),
        ("[webhooks]\nenabled = chat\n[webhook_chat]\nurl = http://x/\nevents = everything\n", "events"),
    ],
)
def test_a_wrong_configuration_is_named_without_secrets(shell: Shell, text: str, error: str) -> None:
    shell.configure(text)
    ran = shell("webhook", "list")
    assert ran.code == 1
    assert error in ran.err
    assert "t0psecret" not in ran.err


def test_an_unknown_option_of_a_sink_is_named(shell: Shell) -> None:
    shell.configure("[webhooks]\nenabled = chat\n[webhook_chat]\nurl = http://x/\nsecrte = s3cret\n")
    ran = shell("webhook", "list")
    assert "[webhook_chat] secrte" in ran.err
    assert "did you mean secret?" in ran.err


def test_several_urls_are_several_sinks(shell: Shell) -> None:
    shell.configure("[webhooks]\nenabled = chat\n[webhook_chat]\nurl = http://x/\nurl = http://y/\n")
    assert [row["name"] for row in shell("webhook", "list", "-f", "json").json] == ["chat-1", "chat-2"]


def test_a_template_that_cannot_be_used_is_a_failure(shell: Shell) -> None:
    shell.configure("[webhooks]\nenabled = chat\n[webhook_chat]\nurl = http://x/\ntemplate = /none\n")
    checks = {one["check"]: one for one in shell("check", "-f", "json").json}
    assert checks["webhook chat"]["result"] == "failure"
    assert "the template /none cannot be used" in shell("webhook", "test", "chat").err
