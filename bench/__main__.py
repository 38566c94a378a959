"""The command line: ``python -m bench`` lists the benchmarks, ``python -m bench <name>`` runs one."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

from rich.console import Console

from bench import suite
from bench.report import Failed


def benchmarks() -> Mapping[str, ModuleType]:
    """Return the benchmarks by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(suite.__path__))
    return {name: importlib.import_module(f"{suite.__name__}.{name}") for name in names}


def summary(benchmark: ModuleType) -> str:
    """Return what a benchmark measures, in a line."""
    return (benchmark.__doc__ or "").strip().partition("\n")[0]


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; return the exit status: 1 when a benchmark failed, whatever its figures are."""
    known = benchmarks()
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measurements against peers.")
    commands = parser.add_subparsers(dest="benchmark", metavar="benchmark", title="benchmarks")
    for name, benchmark in known.items():
        command = commands.add_parser(
            name,
            help=summary(benchmark),
            description=benchmark.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("-f", "--format", choices=("table", "json"), default="table", help="default: table")
        benchmark.add_options(command)
    options = parser.parse_args(arguments)
    if options.benchmark is None:
        parser.print_help()
        return 0
    try:
        report = known[options.benchmark].run(options)
    except Failed as failure:
        print(f"{options.benchmark}: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.format == "json":
        print(report.as_json())
    else:
        report.show(Console())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
