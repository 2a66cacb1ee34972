"""The error of data sets, one line each."""

from contract.exit_codes import ExitCode
from testbed.errors import HarnessError


class DataInputError(HarnessError):
    """A table of a data set is missing, or not what its publisher describes."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=ExitCode.CAPTURE_INPUT)
