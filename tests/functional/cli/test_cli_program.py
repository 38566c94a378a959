"""The program itself: help, options before and after the command, one line per error, signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from oslo_config import cfg

from consumer import __version__, plugins
from consumer.cli import main
from consumer.cli.main import COMMANDS
from tests.functional.cli.shell import Shell, WorldMender

DAEMON = """
import sys
from consumer import plugins
from tests.functional.cli.shell import WORLD, WorldMender
plugins.handlers = lambda: [WorldMender]
plugins.brokers = lambda: []
WORLD.things = {"a": 1}
def hang(finding):
    print("healing", flush=True)
    import time
    time.sleep(3600)
if "hang" in sys.argv[1]:
    WORLD.before_heal = hang
from consumer.cli import main
sys.exit(main.stackmend(sys.argv[2:]))
"""


SIGNALLED = """
import signal, sys
from consumer.cli.run import Signals
signals = Signals()
hangups, left = 0, 300
def hangup():
    global hangups
    hangups += 1
def at_every_line(frame, event, _argument):
    global left
    if event == "line" and left >= 0:
        signal.raise_signal(signal.SIGHUP if left else signal.SIGTERM)
        left -= 1
    return at_every_line
sys.settrace(at_every_line)
signals.wait(hangup, lambda: None, 0.01)
print(hangups)
"""


def test_without_a_command_there_is_help(shell: Shell) -> None:
    ran = shell()
    assert ran.code == 0
    assert all(words in ran.out for words in COMMANDS)
    assert "Could not" not in ran.out


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_has_help(shell: Shell, words: str) -> None:
    ran = shell(*words.split(), "--help")
    assert ran.code == 0
    assert f"usage: stackmend {words}" in ran.out
    assert "%(prog)s" not in ran.out


def test_the_other_name(shell: Shell) -> None:
    ran = shell("sweep", "-h", program="nova-audit")
    assert "usage: nova-audit sweep" in ran.out
    assert "nova-audit sweep --audit" in ran.out


def test_version(shell: Shell) -> None:
    assert shell("--version").out == f"stackmend {__version__}\n"


def test_global_options_may_follow_the_command(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.stackmend(["sweep", "-f", "json", "--config-file", str(shell.conf)]) == 0
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["swep"], "unknown command 'swep'; did you mean 'stackmend sweep'?"),
        (["handler"], "unknown command 'handler'; did you mean 'stackmend handler list'"),
        (["run", "--only", "nobody", "--only", "fixer"], "there is no handler nobody; the handlers are: fixer, mender"),
        (["sweep", "nobody"], "there is no handler nobody; the handlers are: fixer, mender"),
        (["--config-file", "/none", "sweep"], "--config-file /none: the file does not exist"),
        (["--log-file", "/none/log", "sweep"], "cannot write the log: No such file or directory: /none/log"),
        (["sweep", "-c", "nothing"], "unknown column nothing; the columns are: handler, key,"),
        (["work", "show", "1"], "no row of work has the id 1"),
    ],
)
def test_errors_are_one_line(shell: Shell, arguments: list[str], said: str) -> None:
    ran = shell(*arguments)
    assert ran.code == 1
    assert ran.out == ""
    line = ran.err.splitlines()[-1]
    assert line.startswith(f"stackmend: {said}")
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("arguments", [["sweep", "--nonsense"], ["work", "show", "x"], ["history", "--limit", "0"]])
def test_wrong_usage_is_an_error_and_not_drift(shell: Shell, arguments: list[str]) -> None:
    ran = shell(*arguments)
    assert ran.code == 1
    assert ran.out == ""
    assert "error:" in ran.err


#: cliff's own options for the format of an output
FORMATTING = {"formatter", "columns", "sort_columns", "quote_mode", "max_width", "prefix"}


@pytest.mark.parametrize("words", COMMANDS)
def test_no_option_of_a_command_drops_a_value(words: str, shell: Shell) -> None:
    """An option keeps all its values, or takes only one."""
    program = main.Program("stackmend")
    factory, name, _rest = program.command_manager.find_command(words.split())
    parser = factory(program, None, cmd_name=name).get_parser(name)
    options = [one for one in [*parser._actions, *program.parser._actions] if one.option_strings and one.nargs != 0]
    dropping = [one.dest for one in options if type(one).__name__ == "_StoreAction" and one.dest not in FORMATTING]
    assert dropping == []


def test_run_keeps_the_handlers_of_every_only(shell: Shell) -> None:
    program = main.Program("stackmend")
    factory, name, _rest = program.command_manager.find_command(["run"])
    parsed = (
        factory(program, None, cmd_name=name)
        .get_parser(name)
        .parse_args(["--only", "a", "b", "--only", "c", "--audit"])
    )
    assert parsed.only == ["a", "b", "c"]


def test_an_option_that_takes_one_value_takes_no_second_in_silence(shell: Shell) -> None:
    ran = shell("work", "list", "--handler", "fixer", "--handler", "mender")
    assert ran.code == 1
    assert "argument --handler: give it only once" in ran.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[engine]\nworkers = many\n", "workers"),
        ("[engine]\nhold_seconds = nan\n", "[engine] hold_seconds = nan is not a number that can be used"),
        ("[engine]\nhold_seconds = inf\n", "[engine] "),
        ("[journal]\nhistory_days = 99999\n", "[journal] history_days = 99999 is not a number that can be used"),
        ("[engine]\ntimezone = Mars/Olympus\n", "'Mars/Olympus' is not a time zone"),
        ("[audit]\nmender_window = whenever\n", "is not a window"),
        (
            "[audit]\nmender_window = Sat 25:00-26:00\n",
            "[audit] Value for option mender_window from {conf} is not valid",
        ),
        ("[audit]\nmender_mode = healing\n", "[audit] Value for option mender_mode from {conf} is not valid"),
        ("[journal]\nconnection = nonsense\n", "[journal] connection is not a database URL"),
        ("[journal]\nconnection = mysql://u:s3cret\n", "[journal] connection is not a database URL"),
        ("[journal]\nconnection = mysql://u:p@s3cret@h/x\n", "[journal] connection is not a database URL"),
        ("[journal]\nconnection = mysql://u/s:s3cret@h/x\n", "[journal] connection is not a database URL"),
        ("[journal]\nconnection = sqlite:////none/there/journal.sqlite\n", "the journal's folder /none/there does not"),
        ("[journal]\nconnection = mysql+pymysql://u:s3cret@127.0.0.1:1/x\n", "the journal's database does not answer"),
    ],
)
def test_wrong_configuration_is_one_line_without_secrets(shell: Shell, text: str, said: str) -> None:
    shell.conf.write_text(text)
    ran = shell("sweep")
    assert ran.code == 1
    assert said.format(conf=shell.conf) in ran.err
    assert len(ran.err.splitlines()) == 1
    assert "s3cret" not in ran.err
    assert "s3cret" not in shell("--debug", "sweep").err


def test_an_argument_that_is_not_utf_8_is_named(shell: Shell) -> None:
    ran = shell("history", "thing:\udcff")
    assert (ran.code, ran.out) == (1, "")
    assert "the argument 'thing:\\udcff' is not UTF-8" in ran.err


@pytest.mark.parametrize("closed", ["1", "2"])
def test_closed_output_keeps_no_command_from_its_work(shell: Shell, closed: str) -> None:
    """A supervisor may start a command without stdout or stderr."""
    program = "import sys; from consumer.cli.main import stackmend; sys.exit(stackmend(sys.argv[1:]))"
    words = ["--config-file", str(shell.conf), "exempt", "add", "host:compute-1", "--reason", "closed"]
    started = ["sh", "-c", f'exec {closed}>&- "$@"', "sh", sys.executable, "-c", program, *words]
    ran = subprocess.run(started, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "closed" in shell("exempt", "list").out


def test_files_of_a_folder_are_read_and_checked_like_others(shell: Shell) -> None:
    first, second = shell.folder / "first.d", shell.folder / "second.d"
    for folder, text in [(first, "[engin]\nworkers = 3\n"), (second, "[audit]\nmender_mod = heal\n")]:
        folder.mkdir()
        (folder / "10-more.conf").write_text(text)
        (folder / "10-more.conf").chmod(0o644)
        (folder / "not-read.txt").write_text("[engin]\n")
    (second / "20-last.conf").write_text("[audit]\nmender_mode = audit\n")
    (second / "20-last.conf").chmod(0o600)
    shell.configure("[audit]\nmender_mode = off\n")
    ran = shell("--config-dir", str(first), "--config-dir", str(second), "check", "-f", "json")
    said = [row["details"] for row in ran.json if row["check"] == "configuration"]
    for path, unknown in [(first, "[engin]"), (second, "[audit] mender_mod")]:
        assert any(text.startswith(f"{unknown} in {path}/10-more.conf has no effect") for text in said)
        assert any(f"can read {path}/10-more.conf" in text for text in said)
    assert not any("20-last.conf" in text or "not-read" in text for text in said)
    listed = shell("--config-dir", str(first), "--config-dir", str(second), "handler", "list", "-f", "json")
    assert {row["name"]: row["mode"] for row in listed.json}["mender"] == "audit"


@pytest.mark.parametrize(
    "text", ["[DEFAULT]\ns3cret\n", "[x]\npassword s3cret\n", "[x]\n= s3cret\n", "[s3cret\n", "  s3cret\n"]
)
def test_a_line_that_cannot_be_read_is_not_shown(shell: Shell, text: str) -> None:
    shell.conf.write_text(text)
    number = len(text.splitlines())
    for ran in [shell("sweep"), shell("--debug", "sweep")]:
        assert ran.code == 1
        assert f"{shell.conf}, line {number}: " in ran.err
        assert "s3cret" not in ran.err


def test_commands_for_the_journal_work_while_a_handler_is_broken(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[type]:
        raise plugins.BrokenPlugin("the entry point x cannot be loaded")

    monkeypatch.setattr(plugins, "handlers", broken)
    shell.configure("[audit]\nmender_mode = healing\n[engin]\nworkers = 3\n")
    for command in ("history", "work list", "dead list", "db version"):
        ran = shell(*command.split())
        assert ran.code == 0
        assert ran.err.startswith("stackmend: [engin] in ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[audit]\nmender_mod = heal\n",
            "[audit] mender_mod in {conf} has no effect, because it is unknown; did you mean mender_mode?",
        ),
        (
            "[adit]\nmender_mode = heal\n",
            "[adit] in {conf} has no effect, because it is unknown; did you mean [audit]?",
        ),
        ("[engine]\nzzz = 1\n", "[engine] zzz in {conf} has no effect, because it is unknown; delete it"),
    ],
)
def test_the_error_names_an_unknown_option(shell: Shell, text: str, said: str) -> None:
    shell.configure(text)
    ran = shell("sweep", "--audit")
    assert ran.code == 0
    assert f"stackmend: {said.format(conf=shell.conf)}" in ran.err.splitlines()


def test_options_of_libraries_and_of_other_programs_are_none_of_ours(shell: Shell) -> None:
    shell.configure("[keystone_authtoken]\nx = 1\n[oslo_messaging_rabbit]\nx = 1\n[openstack]\nusername = x\n")
    assert shell("sweep", "--audit").err == "no drift found\n"


def test_a_broken_plugin_is_one_line(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[type]:
        raise plugins.BrokenPlugin("the entry point x cannot be loaded")

    monkeypatch.setattr(plugins, "handlers", broken)
    ran = shell("sweep")
    assert (ran.code, ran.err) == (1, "stackmend: the entry point x cannot be loaded\n")


def test_a_fault_is_one_line_and_with_debug_a_traceback(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[type]:
        raise KeyError("rabbit://u:s3cret@host/")

    monkeypatch.setattr(plugins, "handlers", broken)
    ran = shell("sweep")
    assert ran.err == "stackmend: unexpected KeyError: 'rabbit://u:***@host/'; --debug shows a traceback\n"
    ran = shell("--debug", "sweep")
    assert ran.code == 1
    assert "Traceback" in ran.err
    assert "s3cret" not in ran.err


def test_an_interrupt_ends_with_130(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> list[type]:
        raise KeyboardInterrupt

    monkeypatch.setattr(plugins, "handlers", interrupted)
    ran = shell("sweep")
    assert (ran.code, ran.err) == (130, "stackmend: interrupted\n")


class Daemon:
    """``stackmend run`` as a process."""

    def __init__(self, shell: Shell, how: str = "plain", **environment: str) -> None:
        command = [sys.executable, "-c", DAEMON, how, "--config-file", str(shell.conf), "run"]
        root = Path(__file__).parents[3]
        self.process = subprocess.Popen(
            command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment
        )
        assert self.process.stdout
        self.lines = self.process.stdout

    def read_until(self, text: str) -> None:
        for line in self.lines:
            if text in line:
                return
        raise AssertionError(f"it ended before it said {text!r}")

    def end(self, *signals: int) -> int:
        """Send signals; return the exit code. A heal that hangs does so for longer than this waits."""
        first, *more = signals
        self.process.send_signal(first)
        for number in more:
            self.read_until("stopping")
            self.process.send_signal(number)
        self.lines.read()
        return self.process.wait(60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_daemon_heals_and_stops(shell: Shell, number: int) -> None:
    daemon = Daemon(shell)
    daemon.read_until("healed in")
    assert [row["state"] for row in shell("handler", "list", "-f", "json").json if row["name"] == "mender"] == [
        "running"
    ]
    assert daemon.end(number) == 0
    assert [row["action"] for row in shell("history", "-f", "json").json] == ["mended a"]


def test_a_hangup_takes_over_what_may_change_and_names_the_rest(shell: Shell) -> None:
    shell.configure("[audit]\nmender_mode = audit\n")
    daemon = Daemon(shell)
    daemon.read_until("found: a is broken")
    shell.configure(
        "[audit]\nmender_mode = heal\nmender_interval = 7200\n[engine]\nworkers = 3\n[octavia]\ntransport_url = rabbit://u:s3cret@h/\n"
    )
    daemon.process.send_signal(signal.SIGHUP)
    daemon.read_until("SIGHUP: read the configuration again: mender: mode audit -> heal, interval 3600 -> 7200")
    daemon.read_until("SIGHUP: these changes need a restart: [engine] workers, [octavia] transport_url")
    daemon.read_until("healed in")  # by the sweep that begins the new interval
    assert daemon.end(signal.SIGTERM) == 0
    assert [row["action"] for row in shell("history", "--outcome", "healed", "-f", "json").json] == ["mended a"]


def test_a_signal_may_come_in_any_moment() -> None:
    """Also in the midst of the wait for one, which holds locks."""
    command = [sys.executable, "-c", SIGNALLED]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "300\n", "")


def test_a_hangup_with_a_wrong_file_changes_nothing(shell: Shell) -> None:
    daemon = Daemon(shell)
    daemon.read_until("healed in")
    shell.configure("[audit]\nmender_mode = perhaps\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.read_until("SIGHUP: the configuration is wrong, so nothing changed")
    shell.configure("[audit]\nmender_mode = off\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.read_until("mender: mode heal -> off")
    assert daemon.end(signal.SIGTERM) == 0


def test_systemd_learns_of_start_life_and_stop(shell: Shell, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        daemon = Daemon(shell, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000")
        told = [systemd.recv(100) for _ in range(4)]
        assert told == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        assert daemon.end(signal.SIGTERM) == 0
        while (last := systemd.recv(100)) == b"WATCHDOG=1":
            pass
        assert last == b"STOPPING=1"


def test_a_second_daemon_on_the_same_file_is_refused(shell: Shell) -> None:
    daemon = Daemon(shell)
    daemon.read_until("runs as")
    second = Daemon(shell)
    second.read_until("stackmend: another stackmend uses the journal")
    assert second.process.wait(60) == 1
    assert daemon.end(signal.SIGTERM) == 0


def test_a_heal_that_hangs_does_not_keep_the_daemon(shell: Shell) -> None:
    daemon = Daemon(shell, "hang")
    daemon.read_until("healing")
    assert daemon.end(signal.SIGTERM) == 0


def test_the_second_signal_ends_it_at_once(shell: Shell) -> None:
    daemon = Daemon(shell, "hang")
    daemon.read_until("healing")
    assert daemon.end(signal.SIGTERM, signal.SIGTERM) == 128 + signal.SIGTERM


class Elsewhere(WorldMender):
    """A handler of a service that the configuration does not speak of."""

    name: ClassVar[str] = "elsewhere"

    @classmethod
    def applies(cls, conf: cfg.ConfigOpts) -> bool:
        return False


def test_what_the_configuration_does_not_speak_of_is_left_out(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "handlers", lambda: [WorldMender, Elsewhere])
    shell.world.things = {"a": 1}
    assert [row["handler"] for row in shell("sweep", "--audit", "-f", "json").json] == ["mender"]
    assert [row["handler"] for row in shell("sweep", "elsewhere", "--audit", "-f", "json").json] == ["elsewhere"]


def test_where_it_speaks_of_nothing_all_are_asked_what_they_lack(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "handlers", lambda: [Elsewhere])
    shell.world.things = {"a": 1}
    assert [row["handler"] for row in shell("sweep", "--audit", "-f", "json").json] == ["elsewhere"]
