"""The gate runs every test of the control planes, each at some commit."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_file_of_the_cloud_tests_has_its_turn() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    named = {Path(name).name for name in re.findall(r"\$(?:cloud|octavia)/(test_\w+\.py)", script)}
    there = {path.name for path in (ROOT / "tests/cloud").glob("**/test_*.py") if "long" not in path.parts}
    assert named == there
