"""An operator of a cloud: the commands of the pages, and a shell to type them into."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cloud.account import DOCUMENTS
from tests.cloud.control_plane import ControlPlane
from tests.servers import packages
from tests.servers.server import HOST, PASSWORD, USER, clean_environment


def said(page: str, words: str) -> str:
    """A command of a page, without its prompt; the page must have it once."""
    (line,) = re.findall(rf"^ +[#$] (.*{re.escape(words)}.*)$", (DOCUMENTS / page).read_text(), re.MULTILINE)
    return str(line)


def example(page: str, language: str, word: str) -> str:
    """The one block of code of a page that is in this language and has this word."""
    blocks = re.findall(rf"code-block:: {language}\n\n((?: +.*\n|\n)+)", (DOCUMENTS / page).read_text())
    (block,) = (one for one in blocks if word in one)
    return "\n".join(line.removeprefix("   ") for line in block.splitlines())


@contextmanager
def journal_of_replicas(cloud: ControlPlane) -> Iterator[dict[str, object]]:
    """Make the journal of replicas.rst; yield the options that lead there."""
    statements = re.findall(r'mysql -e "(.*)"', said("replicas.rst", "mysql -e"))[0]
    url = re.findall(r"connection = (mysql\S+)", (DOCUMENTS / "replicas.rst").read_text())[0]
    cloud.mariadb.execute(statements)
    yield {"connection": url.replace("@controller/", f"@{HOST}:{cloud.mariadb.port}/")}
    cloud.mariadb.execute("DROP DATABASE stackmend; DROP USER stackmend_journal")


class Shell:
    """The shell of an administrator: ``stackmend``, ``openstack``, ``nova-manage`` and ``mariadb`` need no further options.

    :param conf: the configuration of stackmend
    """

    def __init__(self, cloud: ControlPlane, home: Path, conf: Path) -> None:
        packages.find("jq", "jq")
        (home / ".stackmend").mkdir(parents=True)
        (home / ".stackmend" / "stackmend.conf").symlink_to(conf)
        (home / ".nova").mkdir()
        (home / ".nova" / "nova.conf").symlink_to(cloud.nova_conf)
        (home / ".my.cnf").write_text(f"[client]\nsocket={cloud.mariadb.socket}\nuser={USER}\npassword={PASSWORD}\n")
        folders = (cloud.bin, Path(sys.executable).parent, cloud.mariadb.client.parent, os.environ["PATH"])
        self._home = home
        self._environment = clean_environment(
            HOME=str(home),
            PATH=":".join(map(str, folders)),
            PYTHONWARNINGS="ignore",
            OS_AUTH_URL=cloud.auth_url,
            OS_USERNAME="admin",
            OS_PASSWORD=PASSWORD,
            OS_PROJECT_NAME="admin",
            OS_USER_DOMAIN_ID="default",
            OS_PROJECT_DOMAIN_ID="default",
            OS_REGION_NAME="RegionOne",
            OS_IDENTITY_API_VERSION="3",
        )

    def __call__(self, typed: str) -> subprocess.CompletedProcess[str]:
        """Type a command, and return what becomes of it."""
        return subprocess.run(
            ["bash", "-c", typed],
            env=self._environment,
            cwd=self._home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def succeed(self, typed: str) -> str:
        """Type a command that must end with 0; return what it prints."""
        done = self(typed)
        assert done.returncode == 0, f"{typed}\n{done.stdout}{done.stderr}"
        return done.stdout

    def undo(self, text: str) -> None:
        """Type the undo of a heal: commands, or statements below a comment with the name of their database."""
        comment = re.fullmatch(r"-- in (\w+)\n(.*)", text, re.DOTALL)
        self.succeed(f"mariadb {comment[1]} <<'END'\n{comment[2]}\nEND" if comment else text)
