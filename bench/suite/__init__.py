"""The benchmarks. Each module here is one, under its own name; the first line of its docstring is its description.

A module has two functions: ``add_options(parser)`` adds its options to an ``argparse`` parser, and ``run(options)``
measures and returns a :class:`bench.report.Report`, or raises :class:`bench.report.Failed`. A module that is added is
found; nothing has to be registered. While it runs, it may say on standard error how far it is when that is a terminal;
standard output belongs to the report.
"""
