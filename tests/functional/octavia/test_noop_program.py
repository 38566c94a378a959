"""The daemon with the Noop driver, without a cloud: the whole loop."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from handlers.octavia import queries, records
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.drivers.noop import NoopDriver
from handlers.octavia.settings import HousekeepingSettings
from tests.program import Program, only
from tests.waiting import eventually


def test_the_daemon_replaces_failed_amphorae_and_preserves_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/octavia.sqlite"
    database = OctaviaDatabase(url)
    octavia = NoopDriver(HousekeepingSettings(), database).octavia
    balancers = [octavia.add_load_balancer(), octavia.add_load_balancer("ACTIVE_STANDBY")]
    healthy = octavia.add_load_balancer()

    def rows(balancer: str) -> list[records.Amphora]:
        return database.run(partial(queries.amphorae_of, load_balancer=balancer))

    failed = [rows(balancer)[0].id for balancer in balancers]
    for amphora in failed:
        octavia.set_amphora(amphora, status="ERROR")
    untouched = [row.id for row in rows(healthy)]
    options: dict[str, dict[str, object]] = {
        "octavia": {"database_connection": url},
        "audit": only(),
        "housekeeping": {
            **only("failed_amphora", group="housekeeping"),
            "driver": "noop",
            "failed_amphora_mode": "heal",
            "failed_amphora_interval": 1,
            "maximum_preserved_amphora_count": 1,
        },
    }

    def whole() -> bool:
        left = [row for balancer in balancers for row in rows(balancer)]
        return [row.status for row in left] == ["ALLOCATED"] * 3 and not {row.id for row in left} & set(failed)

    with Program(tmp_path / "stackmend", options) as program:
        program.start()
        eventually(whole, 120)
        assert program.running, program.log.read_text()
        code, _seconds = program.stop()
        assert code == 0
        history = program.json("history", "--limit", "100")
    database.close()
    assert [row.id for row in rows(healthy)] == untouched
    assert {line["outcome"] for line in history} <= {"healed", "conflict"}, program.log.read_text()
    steps = [line["problem"] for line in history if line["outcome"] == "healed"]
    assert steps.count("failover") + steps.count("mark") == 2
    assert steps.count("label") == 1
    assert steps.count("detach") == 2
