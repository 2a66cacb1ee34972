"""The verbs of ``kinwatch-gateway pki``, ``join-code`` and ``enrol-desk``; each returns what to print."""

import re
import shlex
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contract.ids import DEVICE_ID_PATTERN
from gateway.errors import PkiError
from gateway.pki import kick
from gateway.pki.register import DEVICE_DAYS, Register

RELOAD = "Mosquitto reads the new files at SIGHUP (systemctl reload mosquitto)"
_BROKER_TURN_S = 1.0
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


def init(directory: Path, alt_names: list[str]) -> str:
    """Make the authority."""
    Register(directory).init(alt_names or ["localhost", "127.0.0.1"], now_s=time.time())
    return f"{directory}: ca.crt, crl.pem, broker.crt, broker.key for the broker; gateway.crt, gateway.key for here"


def issue(directory: Path, device_id: str, csr: Path, out: Path | None, days: float) -> str:
    """Sign a device's request."""
    try:
        request = csr.read_bytes()
    except OSError as error:
        raise PkiError(f"{csr}: cannot be read: {error.strerror}") from None
    pem = Register(directory).issue(request, device_id, now_s=time.time(), days=days or DEVICE_DAYS)
    if out is None:
        return pem.decode().rstrip()
    out.write_bytes(pem)
    return str(out)


def revoke(directory: Path, name: str, *, broker: str, reload: str | None) -> str:
    """Revoke what a name holds; with a command that makes the broker read the list, end its connection as well.

    The order matters: once the broker knows the list, the device cannot come back; then its connection is taken over
    with a pass of an hour, which is revoked in turn.
    """
    register = Register(directory)
    count = register.revoke(name, now_s=time.time())
    said = f"{name}: {count} certificates revoked in {directory / 'crl.pem'}"
    if reload is None:
        return f"{said}; {RELOAD}; a connection that is up stays until it is dropped (--reload does both)"
    _reload(reload)
    if not re.fullmatch(DEVICE_ID_PATTERN, name):
        return f"{said}; the broker knows; that was a serial number, so no connection was dropped"
    host, _, port = broker.rpartition(":")
    if not host or not port.isdigit():
        raise PkiError(f"--broker {broker}: write HOST:PORT")
    # The signal is answered in the broker's next turn; a device that is faster would come back with what it has.
    time.sleep(_BROKER_TURN_S)
    with register.short_pass(name, now_s=time.time()) as (certificate, key):
        kick.take_over(
            name, host=host, port=int(port), authority=register.path("ca.crt"), certificate=certificate, key=key
        )
    _reload(reload)
    return f"{said}; the broker knows, and its connection is dropped"


def _reload(command: str) -> None:
    try:
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False, timeout=60)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise PkiError(f"--reload {command!r} cannot be run: {error}") from None
    if done.returncode:
        raise PkiError(f"--reload {command!r} failed: {(done.stderr or done.stdout).strip()[:200]}")


def rotate(directory: Path) -> str:
    """Renew what runs beside the authority."""
    Register(directory).rotate(now_s=time.time())
    return f"{directory}: new keys and certificates for broker and gateway; {RELOAD}"


def listing(directory: Path) -> list[dict[str, Any]]:
    """Return all certificates with their state."""
    now_s = time.time()
    return [
        {
            "name": entry["name"],
            "serial": entry["serial"],
            "state": "revoked" if entry["revoked_s"] else "expired" if entry["expires_s"] <= now_s else "valid",
            "expires": datetime.fromtimestamp(entry["expires_s"], UTC).strftime("%Y-%m-%d"),
            "usage": entry["usage"],
        }
        for entry in Register(directory).issued()
    ]


def listing_text(entries: list[dict[str, Any]]) -> str:
    """Return the listing as a table."""
    rows = [f"{e['name']:<32} {e['state']:<8} {e['expires']} {e['usage']:<6} {e['serial'][:16]}" for e in entries]
    return "\n".join(rows) or "no certificates"


def join_code(directory: Path, device_id: str, ttl: str) -> str:
    """Make a join code."""
    return Register(directory).make_code(device_id, ttl_s=_seconds(ttl), now_s=time.time())


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None:
        raise PkiError(f"{text!r} is no duration; write 30m, 12h or 2d")
    return int(match[1]) * _UNITS_S[match[2]]
