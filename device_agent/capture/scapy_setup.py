"""What Scapy's modules need once in this process; imported before any of them.

Importing ``scapy.data`` builds tables of vendor and Bluetooth names, or unpickles them from the user's cache, and
``scapy.config`` loads cryptography for layers nobody uses here: together 24 MB on every device. Empty tables and an
absent package take their places meanwhile, and the cache stays as it is.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import scapy.main


def _leave_out(name: str, data: object) -> None:
    if name not in sys.modules:
        table = ModuleType(name)
        table.__dict__["DATA"] = data
        sys.modules[name] = table


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Make a package that is not loaded yet look uninstalled."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # the import system's mark of a missing module
    try:
        yield
    finally:
        del sys.modules[name]


scapy.main.SCAPY_CACHE_FOLDER = None
_leave_out("scapy.libs.manuf", "")
_leave_out("scapy.libs.bluetoothids", {})
logging.getLogger("scapy").setLevel(logging.ERROR)
"""Its notes on damaged records are errors or counters here."""

with _absent("cryptography"):
    import scapy.config
