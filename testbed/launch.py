"""Start a program that dies with the harness: ``python launch.py <parent pid> <program> <arguments>``.

The kernel is asked to kill this process when its parent goes (Linux only), then it becomes the program; the request
survives ``exec``. It is a program of its own, because running Python code between fork and exec deadlocks now and then
in a parent with threads. It uses the standard library alone and imports nothing of Kinwatch.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and become the program.

    Parameters
    ----------
    arguments
        Process id of the parent, the program and its arguments.
    """
    parent_pid = int(arguments[0])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # the parent went before the request was made
            sys.exit(1)
    os.execvp(arguments[1], arguments[1:])  # noqa: S606  # a fixed argument list of the harness, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
