"""The commands that findings advise, run on the simulated cloud."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress

import pytest

from handlers.base import HandlerError
from tests.functional.nova.commands import texts
from tests.functional.nova.commands.advice import ADVICE, SELECT, SQL, UNDO, Advice
from tests.functional.nova.commands.operator import Operator
from tests.functional.nova.commands.syntax import commands
from tests.functional.nova.proofs.stage import Scene, Stage

_WRITES = re.compile(r"(?:INSERT INTO|DELETE FROM) [^;]*;")
_READS = re.compile(r"SELECT (?:(?!;).)+? FROM \w+(?= in that cell)")
#: SQL that no person reads
_INTERNAL = frozenset({"handlers/nova/watermarks.py"})


@pytest.mark.parametrize("advice", ADVICE, ids=str)
def test_an_operator_follows_the_advice(stage: Stage, empty: Scene, advice: Advice) -> None:
    stage.show(empty)
    key = advice.build(stage)
    stage.options = {group: dict(values) for group, values in advice.options.items()}
    with stage.handler(advice.handler) as handler:
        [finding] = [one for one in handler.inspect(key) if one.problem == advice.problem]
    assert not finding.healable
    text, operator, outputs = finding.refusal, Operator(stage), []
    for word, value in advice.words(stage, key).items():
        assert word in text, f"{word!r} is not in: {text}"
        text = text.replace(word, value)
    for command in [one for one in commands(text) if one.name in advice.runs]:
        outputs.append((command.name, operator.run(command)))
        if len(outputs) == 1:
            advice.first(stage, key)
    for name, pattern, place in ((SELECT, _READS, "cell1"), (SQL, _WRITES, advice.database)):
        if name in advice.runs:
            outputs.append((name, str(operator.execute(" ".join(pattern.findall(text)), place))))
    assert tuple(name for name, _ in outputs) == advice.runs
    assert advice.right(stage, key, [output for _, output in outputs])
    with stage.handler(advice.handler) as handler, suppress(HandlerError):
        assert (advice.problem in {one.problem for one in handler.inspect(key)}) is not advice.ends


def test_every_command_of_a_finding_is_complete_and_run() -> None:
    """A command that the code builds from a list of words is complete when it is run."""
    found: Counter[tuple[str, str]] = Counter()
    for file, text in texts.of_findings("handlers/nova"):
        for command in commands(text):
            found[file.removeprefix("handlers/nova/"), command.name] += 1
            values = [*command.arguments, *(value for some in command.options.values() for value in some)]
            prose = [value for value in values if re.fullmatch(r"[a-z]+", value)]
            assert not prose, f"{file}: {command} lacks a word before {prose}"
        for name, pattern in ((SELECT, _READS), (SQL, _WRITES)):
            if file not in _INTERNAL:
                found[file.removeprefix("handlers/nova/"), name] += len(pattern.findall(text))
    run = Counter((advice.source, name) for advice in ADVICE for name in advice.runs) + Counter(UNDO)
    assert {one: count for one, count in found.items() if run[one] < count} == {}
