"""The error of the harness: one line for a person and an exit code for a program."""

from contract.exit_codes import ExitCode


class HarnessError(Exception):
    """Something the harness cannot work around.

    Parameters
    ----------
    message
        One line: what is wrong, with what, and what helps.
    code
        Exit code of the program.
    """

    def __init__(self, message: str, *, code: ExitCode = ExitCode.INTERNAL) -> None:
        super().__init__(message)
        self.code = code
