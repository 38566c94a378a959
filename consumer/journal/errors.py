"""The errors of the journal. This module imports no library of databases."""


class JournalError(Exception):
    """Base of the journal's errors."""


class JournalUnavailable(JournalError):
    """The journal's database does not answer in time. It has perhaps committed the transaction."""


class ValuesRefused(JournalError):
    """The database always refuses these values, for example a character outside its character set. Nothing is stored."""


class WrongJournal(JournalError):
    """The journal's URL, schema revision or character set is wrong, or a database driver is missing."""
