"""The daemon with the Noop driver: failed amphorae are replaced, one is preserved, and the pool of spares fills."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tempest import test
from tempest.lib import decorators

from handlers.octavia import queries, records
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.drivers.noop import NoopDriver
from handlers.octavia.settings import HousekeepingSettings

#: seconds for the whole recovery
PATIENCE = 120.0


class NoopDriverScenario(test.BaseTestCase):
    """Octavia in memory, and a daemon of its own."""

    credentials = ()

    def setUp(self) -> None:
        """Create a load balancer, and a configuration for the daemon."""
        super().setUp()
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        url = f"sqlite:///{self.folder}/octavia.sqlite"
        self.database = OctaviaDatabase(url)
        self.addCleanup(self.database.close)
        self.octavia = NoopDriver(HousekeepingSettings(), self.database).octavia
        self.balancer = self.octavia.add_load_balancer("ACTIVE_STANDBY")
        parser = configparser.RawConfigParser()
        parser["journal"] = {"connection": f"sqlite:///{self.folder}/journal.sqlite"}
        parser["octavia"] = {"database_connection": url}
        parser["housekeeping"] = {
            "driver": "noop",
            "failed_amphora_mode": "heal",
            "failed_amphora_interval": "1",
            "housekeeping_interval": "2",
            "maximum_preserved_amphora_count": "1",
            "spare_amphora_pool_size": "1",
        }
        self.conf = self.folder / "stackmend.conf"
        with self.conf.open("w") as file:
            parser.write(file)

    def stackmend(self, *arguments: str) -> list[str]:
        """Return a command of stackmend."""
        return [str(Path(sys.executable).parent / "stackmend"), "--config-file", str(self.conf), *arguments]

    def rows(self) -> list[records.Amphora]:
        """Return the amphora rows of the load balancer."""
        return self.database.run(partial(queries.amphorae_of, load_balancer=self.balancer))

    @decorators.idempotent_id("5f0a9d7e-6a0f-4a1b-9c63-0d1f4c2b8e11")
    def test_failed_amphorae_are_replaced_and_one_is_preserved(self) -> None:
        """Both amphorae of a pair fail; the load balancer gets two others."""
        failed = {row.id for row in self.rows()}
        for amphora in failed:
            self.octavia.set_amphora(amphora, status="ERROR")
        with (
            (self.folder / "log").open("wb") as log,
            subprocess.Popen(self.stackmend("run"), stdout=log, stderr=log) as daemon,
        ):
            try:
                self.await_replacements(failed)
                self.await_line("spare amphora pool: 1 of 1 ready")
            finally:
                daemon.terminate()
        assert daemon.returncode == 0
        history = subprocess.run(
            self.stackmend("history", "-f", "value", "-c", "problem"), capture_output=True, text=True, check=True
        )
        assert history.stdout.split().count("label") == 1, history.stdout

    def await_replacements(self, failed: set[str]) -> None:
        """Wait until two other amphorae serve."""
        end = time.monotonic() + PATIENCE
        while True:
            rows = self.rows()
            if [row.status for row in rows] == ["ALLOCATED"] * 2 and not {row.id for row in rows} & failed:
                return
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.2)

    def await_line(self, text: str) -> None:
        """Wait for a line of the log."""
        end = time.monotonic() + PATIENCE
        while text not in (self.folder / "log").read_text():
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.2)
