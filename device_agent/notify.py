"""The supervisor's protocol: readiness, watchdog and stop messages to ``NOTIFY_SOCKET`` (systemd, ``Type=notify``)."""

import os
import socket
from contextlib import suppress


class Supervisor:
    """Speaks to the supervisor if there is one, else does nothing.

    Attributes
    ----------
    watchdog_every_s
        How often :meth:`alive` should be called, 0 without a watchdog.
    """

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        limit_us = os.environ.get("WATCHDOG_USEC", "")
        mine = os.environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self.watchdog_every_s = int(limit_us) / 3e6 if limit_us.isdigit() and mine else 0.0

    def ready(self) -> None:
        """Say that the agent captures and detects."""
        self._send("READY=1")

    def alive(self) -> None:
        """Say that the loop turns."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={text}")

    def stopping(self) -> None:
        """Say that the agent shuts down."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(message.encode(), self._address)
