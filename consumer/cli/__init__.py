"""The command line: one file per noun, each a few cliff commands over the engine and the journal.

``main`` is the program, ``session`` what commands share (configuration, handlers, journal), ``base`` how they print and
how they fail: one line on stderr that says what is wrong and what to do. Exit codes: 0 all is well, 1 the command could
not do its work, 2 it did and something is still wrong.
"""
