"""Errors of labelled captures, one line each, with the exit code a command line ends with.

::

    HarnessError
    ├── CaptureInputError  the capture is missing, no capture, truncated or of an unknown link type
    └── LabelsInputError   the label sidecar is missing or wrong
"""

from contract.exit_codes import ExitCode
from testbed.errors import HarnessError


class CaptureInputError(HarnessError):
    """The capture is missing, no capture, truncated or of an unknown link type."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=ExitCode.CAPTURE_INPUT)


class LabelsInputError(HarnessError):
    """The label sidecar is missing or wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=ExitCode.LABELS_INPUT)
