"""heal_instance_mappings has no peer: what should become of each kind of mapping is written by hand on the other copy."""

from __future__ import annotations

import uuid

from tests.cloud import drift
from tests.cloud.parity import Pair, differences
from tests.cloud.wreckage import Wreckage

#: The numbers of cell_mappings.
CELL1, CELL2 = 2, 3


def test_each_kind_of_mapping(pair: Pair, wreckage: Wreckage) -> None:
    """Mapped to a cell or not, with a build request or not, with an instance there, elsewhere or nowhere."""
    pair.load(wreckage.at_rest)
    at = wreckage.servers
    stuck = str(uuid.uuid4())
    for copy in (pair.theirs, pair.ours):
        drift.allocate(copy.placement, at["leaked"], {})  # or else it would be kept, as "evacuated" is
    # No cell, and a request: the instance is in a cell, or nowhere and not going to be.
    _request(pair, at["first"], cell="NULL")
    _request(pair, stuck, cell="NULL", owner_of=at["first"])
    # No cell, no request: the instance is in a cell, or nowhere.
    _map(pair, at["owner"], cell="NULL")
    _map(pair, at["deleted"], cell="NULL")
    _archive(pair, at["deleted"], "nova_cell1")
    # A cell, and a request: the instance is there.
    _request(pair, at["twice"], cell=str(CELL1))
    # A cell, no request: it is elsewhere, archived, or nowhere with an allocation.
    _map(pair, at["other-cell"], cell=str(CELL1))
    _archive(pair, at["leaked"], "nova_cell2")
    _lose(pair, at["evacuated"], "nova_cell1")
    # The mark of deletion, both ways.
    _mark(pair, at["soft-deleted"], False)
    _mark(pair, at["resized"], True)

    by_hand = pair.theirs.execute
    by_hand(f"UPDATE instance_mappings SET cell_id = {CELL1} WHERE instance_uuid IN ('{at['first']}', '{at['owner']}')")
    by_hand(f"DELETE FROM build_requests WHERE instance_uuid IN ('{at['first']}', '{at['twice']}')")
    for table in ("instance_mappings", "request_specs", "instance_group_member"):
        lost = f"('{at['deleted']}', '{at['leaked']}')"
        by_hand(f"DELETE FROM {table} WHERE instance_uuid IN {lost}")
    by_hand(f"UPDATE instance_mappings SET queued_for_delete = 1 WHERE instance_uuid = '{at['soft-deleted']}'")
    by_hand(f"UPDATE instance_mappings SET queued_for_delete = 0 WHERE instance_uuid = '{at['resized']}'")

    before = pair.ours.content()
    program = pair.ours.program()
    done = program.json("sweep", "heal_instance_mappings")
    after = pair.ours.content()
    assert after != before
    assert differences(pair.theirs.content(), after) == {}
    reported = {(line["key"].partition(":")[0], line["problem"]) for line in done if line["action"] == "refused"}
    assert reported == {
        ("instance", "build-stuck"),
        ("instance", "mapped-elsewhere"),
        ("mappings", "mapped-elsewhere"),
        ("mappings", "nowhere-but-holding"),
    }
    assert program.json("sweep", "heal_instance_mappings", "--audit") != []
    assert pair.ours.content() == after


def _map(pair: Pair, server: str, cell: str) -> None:
    pair.execute(f"UPDATE instance_mappings SET cell_id = {cell} WHERE instance_uuid = '{server}'")


def _mark(pair: Pair, server: str, queued: bool) -> None:
    pair.execute(f"UPDATE instance_mappings SET queued_for_delete = {queued} WHERE instance_uuid = '{server}'")


def _request(pair: Pair, server: str, cell: str, owner_of: str = "") -> None:
    """Leave the build request of a server, as old as the server; or ask for one that nobody ever made.

    :param owner_of: a server that belongs to who asks; empty when the server has a mapping
    """
    if owner_of:
        pair.execute(
            "INSERT INTO instance_mappings (created_at, instance_uuid, cell_id, project_id, user_id, queued_for_delete)"
            f" SELECT created_at, '{server}', NULL, project_id, user_id, 0 FROM instance_mappings"
            f" WHERE instance_uuid = '{owner_of}'"
        )
    pair.execute(
        "INSERT INTO build_requests (created_at, project_id, instance_uuid, instance)"
        f" SELECT created_at, project_id, instance_uuid, '{{}}' FROM instance_mappings WHERE instance_uuid = '{server}'"
    )
    _map(pair, server, cell)


def _archive(pair: Pair, server: str, cell: str) -> None:
    """Archive a deleted server and leave its rows in nova_api, as an archiving does that ends in between."""
    columns = pair.ours.execute(
        "SET SESSION group_concat_max_len = 1000000;"
        " SELECT GROUP_CONCAT(CONCAT('`', column_name, '`')) FROM information_schema.columns"
        " WHERE table_schema = DATABASE() AND table_name = 'instances'",
        cell,
    ).strip()
    pair.execute(
        f"UPDATE instances SET deleted = id WHERE uuid = '{server}';"
        f" INSERT INTO shadow_instances ({columns}) SELECT {columns} FROM instances WHERE uuid = '{server}'",
        cell,
    )
    _lose(pair, server, cell)
    _mark(pair, server, True)


def _lose(pair: Pair, server: str, cell: str) -> None:
    """Restore a cell from a backup that is older than the server: nothing is left of it there."""
    children = pair.ours.execute(
        "SELECT table_name FROM information_schema.columns WHERE table_schema = DATABASE()"
        " AND column_name = 'instance_uuid' AND table_name NOT LIKE 'shadow%'",
        cell,
    ).split()
    parts = [f"DELETE FROM `{table}` WHERE instance_uuid = '{server}'" for table in children]
    parts += [f"DELETE FROM instances WHERE uuid = '{server}'"]
    pair.execute("SET foreign_key_checks = 0;" + ";".join(parts), cell)
