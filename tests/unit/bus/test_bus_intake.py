"""The arguments of our own queue."""

import pytest

from consumer.bus.intake import queue_arguments


@pytest.mark.parametrize(
    ("version", "limit"), [("4.0.5", -1), ("4.2.0-beta.1", -1), ("10.0", -1), ("3.13.7", None), ("", None)]
)
def test_a_broker_that_drops_returned_messages_by_default_must_not(version: str, limit: int | None) -> None:
    assert queue_arguments(version).get("x-delivery-limit") == limit
    assert queue_arguments(version)["x-queue-type"] == "quorum"
