"""The bill of materials of a release is about stackmend's version, and names no place where it was made."""

from __future__ import annotations

import json
import tomllib

import pytest

from release import bill

FOLDER = "/tmp/built"


def written(version: str = "7.8.9", needs: tuple[str, ...] = ("kombu",), **components: str) -> str:
    """Return a bill about stackmend that lists these components by name and version."""
    return json.dumps(
        {
            "metadata": {"component": {"bom-ref": "root", "name": "stackmend", "version": version}},
            "components": [{"name": name, "version": installed} for name, installed in components.items()],
            "dependencies": [{"ref": "root", "dependsOn": list(needs)}],
        }
    )


def test_the_names_of_a_bill_are_sorted() -> None:
    assert bill.names(written(vine="5.1", kombu="5.5"), "7.8.9", FOLDER) == ["kombu", "vine"]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (written(version="0.0", kombu="5.5"), "is not about stackmend 7.8.9"),
        (written(needs=(), kombu="5.5"), "lists nothing that stackmend needs"),
        (written(kombu="file:///wheels/kombu.whl"), "contains file://"),
        (written(kombu="/tmp/built/kombu"), "contains /tmp/built"),
    ],
)
def test_a_bill_about_something_else_or_with_a_place_is_refused(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        bill.names(text, "7.8.9", FOLDER)


def test_a_bill_is_about_what_stackmend_needs_and_the_drivers_but_not_about_the_demo() -> None:
    requires = ["kombu<6,>=5.4", 'PyMySQL>=1.1; extra == "mysql"', 'openstack-placement>=16.0; extra == "demo"']
    about = tomllib.loads(bill.project("7.8.9", requires))["project"]
    assert about == {"name": "stackmend", "version": "7.8.9", "dependencies": ["kombu<6,>=5.4", "PyMySQL>=1.1"]}
