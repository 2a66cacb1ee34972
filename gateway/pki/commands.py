"""The verbs of ``kinwatch-gateway pki``, ``join-code`` and ``enrol-desk``; each returns what to print."""

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.errors import PkiError
from gateway.pki.register import DEVICE_DAYS, Register

RELOAD = "Mosquitto reads the new files at SIGHUP (systemctl reload mosquitto)"
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


def revoke(directory: Path, name: str) -> str:
    """Revoke what a name holds."""
    count = Register(directory).revoke(name, now_s=time.time())
    return f"{name}: {count} certificates revoked in {directory / 'crl.pem'}; {RELOAD} and then drop the connection"


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
