OK, ERROR, DRIFT, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141


class CommandError(Exception):
    """A problem that the operator can solve. The message names the problem and, unless obvious, the solution."""
