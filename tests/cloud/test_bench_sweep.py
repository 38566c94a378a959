"""The benchmark of sweeps, at a size that says nothing about speed: both programs do their work, and it is all told."""

from __future__ import annotations

import argparse
import io
import json
from typing import Any

import pytest
from rich.console import Console

from bench.report import Failed
from bench.suite import sweep

QUANTITIES = {"seconds", "cpu_s", "peak_mb", "objects", "objects_per_s", "queries", "placement_requests", "right"}
WITHOUT_COMMAND = {"heal_instance_mappings", "heal_instance_mappings_healthy"}
DRIFTED = {
    *("discover_hosts", "map_instances", "sync_aggregates", "heal_allocations", "audit_allocations"),
    *("heal_instance_mappings", "archive_deleted_rows", "purge"),
}


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    sweep.add_options(parser)
    return parser.parse_args(arguments)


def test_both_programs_are_right_and_every_figure_is_reported() -> None:
    report = sweep.run(options("--hosts", "2", "--instances", "20"))
    figures: dict[str, Any] = json.loads(report.as_json())
    memory, goals = figures.pop("memory"), figures.pop("goals")
    assert goals.keys() == {*sweep.GOALS, "healthy_queries", "memory"}
    assert all(goal["met"] in {True, False} and goal["measured"] > 0 for goal in goals.values())
    console = Console(file=io.StringIO(), width=200)
    report.show(console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("the goal, ") == len(goals)
    assert set(shown.split()) >= DRIFTED
    assert memory.keys() == {"peak_mb", "peak_mb_of_a_fifth", "growth"}
    assert all(value > 0 for value in memory.values())
    assert set(figures) >= DRIFTED | {"healthy"}
    for name, task in figures.items():
        assert task["right"], name
        assert (task["nova_manage"] is None) == (name in WITHOUT_COMMAND), name
        for program in filter(None, (task["stackmend"], task["nova_manage"])):
            assert program.keys() == QUANTITIES
            assert program["queries"] > 0
            assert program["peak_mb"] > 0
    assert figures["heal_allocations"]["stackmend"]["placement_requests"] > 0


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(Failed, match="multiple"):
        sweep.run(options("--hosts", "3", "--instances", "20"))
