"""Errors of capture sources; each text is one line that names the culprit and what to do.

::

    AgentError
    ├── CaptureInputError        a capture is missing, damaged or of an unknown kind; an interface does not exist
    │   └── NoRingError          the kernel gives no packet ring
    └── CapturePermissionError   the process may not sniff
"""

from contract.exit_codes import ExitCode
from device_agent.errors import AgentError


class CaptureInputError(AgentError):
    """A capture or interface that cannot be read, or not to its end."""

    exit_code = ExitCode.CAPTURE_INPUT


class NoRingError(CaptureInputError):
    """The kernel gives no packet ring for an interface; the portable source may do."""


class CapturePermissionError(AgentError):
    """The process may not open a packet socket."""

    exit_code = ExitCode.PERMISSION
