"""Where a label came from."""

from enum import IntEnum, unique


@unique
class Source(IntEnum):
    """Where a label came from, in the order of precedence; the names in lower case go into messages."""

    NONE = 0
    BASELINE = 1
    MARK = 2
    VERDICT = 3
