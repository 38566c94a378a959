"""Runs a handler as stackmend does, but with no journal, waits or gates."""

from __future__ import annotations

from collections.abc import Iterable

from handlers.base import Finding, Handler, Healed, Key

#: heals after which a handler that always finds something new counts as broken
LIMIT = 100


def swept(handler: Handler) -> list[Key]:
    return sorted(handler.sweep())


def findings(handler: Handler, key: Key) -> list[Finding]:
    """Inspect a key twice, and return the findings of the first inspection.

    :raises AssertionError: the second inspection gives other findings
    """
    first, second = list(handler.inspect(key)), list(handler.inspect(key))
    same = len(first) == len(second) and all(one.same_as(other) for one, other in zip(first, second, strict=True))
    if not same:
        raise AssertionError(f"two inspections of {key} differ: {first} and {second}")
    return first


def refusals(handler: Handler, key: Key) -> list[str]:
    """Inspect a key, and return each finding's ``refusal``.

    :raises AssertionError: a finding is healable
    """
    found = findings(handler, key)
    healable = [finding for finding in found if finding.healable]
    if healable:
        raise AssertionError(f"{key} is healable: {healable}")
    return [finding.refusal for finding in found]


def heal_all(handler: Handler, keys: Iterable[Key] | None = None) -> list[Healed]:
    """Inspect and heal each key until no healable finding is left; return the heals' results. Each heal has its own inspection.

    :param keys: None for the keys of a sweep
    :raises AssertionError: a healable finding is left after :data:`LIMIT` heals
    """
    done: list[Healed] = []
    for key in swept(handler) if keys is None else keys:
        while healable := [finding for finding in handler.inspect(key) if finding.healable]:
            if len(done) >= LIMIT:
                raise AssertionError(f"{handler.name} still finds {healable[0].problem} after {LIMIT} heals")
            done.append(handler.heal(healable[0]))
    return done
