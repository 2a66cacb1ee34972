"""Talking to systemd: ready, alive, stopping. Silent where nobody listens."""

import contextlib
import os
import socket


def notify(text: str) -> None:
    """Send a line such as ``READY=1`` to ``NOTIFY_SOCKET``, if that is set."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.sendto(text.encode(), address)


def watchdog_interval_s() -> float | None:
    """Return how often to send ``WATCHDOG=1``: half of what systemd allows, ``None`` without a watchdog."""
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 2_000_000 if text.isdigit() and int(text) > 0 else None
