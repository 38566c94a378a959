"""The exit codes of all commands, and the error that an operator can solve."""

OK, ERROR, DRIFT, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141


class CommandError(Exception):
    """The operator can solve this; the message names problem and solution."""
