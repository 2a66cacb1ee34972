"""Errors of labelled captures, one line each, with the exit code a command line ends with.

::

    CaptureError
    ├── CaptureInputError  the capture is missing, no capture, truncated or of an unknown link type
    └── LabelsInputError   the label sidecar is missing or wrong
"""

from contract.exit_codes import ExitCode


class CaptureError(Exception):
    """Base: a capture or its labels cannot be used; the message is one line for a person."""

    exit_code = ExitCode.CAPTURE_INPUT


class CaptureInputError(CaptureError):
    """The capture is missing, no capture, truncated or of an unknown link type."""


class LabelsInputError(CaptureError):
    """The label sidecar is missing or wrong."""

    exit_code = ExitCode.LABELS_INPUT
