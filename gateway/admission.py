"""Who is listened to: a rate for every device, and quarantine for those that talk nonsense. No I/O; time is passed in.

A device that is over its rate loses messages, not its place: it keeps an update until a receipt names it and sends it
again. A quarantined device is not listened to at all, so a broken one costs a dictionary look-up a message.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

QUARANTINED = "quarantined"
RATE_LIMITED = "rate-limited"
_STRIKE_WINDOW_S = 60.0
_LONGEST_S = 86_400.0
_MAX_DEVICES = 100_000

NONSENSE = frozenset(
    {
        "malformed",
        "invalid",
        "oversize",
        "foreign-device",
        "delta-digest",
        "weights-length",
        "weights-scale",
        "weights-not-finite",
        "norm-bound",
        "wrong-spec",
        "blob-digest",
        "chunk-digest",
        "chunk-index",
        "chunk-length",
        "length",
        "not-finite",
    }
)
"""Refusals that a working device does not earn; lateness and repetition are not among them."""


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """Limits; meanings as in the configuration's ``screening``."""

    messages_per_s: float
    burst_messages: int
    bytes_per_s: float
    burst_bytes: int
    strikes: int
    quarantine_s: float


@dataclass(slots=True)
class _Account:
    messages: float
    bytes: float
    at: float
    strikes: list[float] = field(default_factory=list)
    confined_until: float = 0.0
    times: int = 0
    limited: bool = False


@dataclass(frozen=True, slots=True)
class Confinement:
    """A device was just put into quarantine: for how long, why, for the how manieth time."""

    device_id: str
    reason: str
    seconds: float
    times: int


class Admission:
    """The accounts of all devices.

    Parameters
    ----------
    rules
        Limits.
    confined
        ``(device_id, seconds left, times)`` of devices that were in quarantine when the last process ended.
    now
        Monotonic seconds.
    """

    def __init__(
        self, rules: AdmissionRules, confined: Iterable[tuple[str, float, int]] = (), now: float = 0.0
    ) -> None:
        self._rules = rules
        self._accounts: dict[str, _Account] = {}
        for device_id, seconds, times in confined:
            account = self._account(device_id, now)
            account.confined_until, account.times = now + seconds, times

    def admit(self, device_id: str, size_bytes: int, now: float) -> str | None:
        """Return why a message is not looked at (``quarantined``, ``rate-limited``), or ``None``."""
        account = self._account(device_id, now)
        if now < account.confined_until:
            return QUARANTINED
        rules, passed = self._rules, max(0.0, now - account.at)
        account.at = now
        account.messages = min(float(rules.burst_messages), account.messages + passed * rules.messages_per_s)
        account.bytes = min(float(rules.burst_bytes), account.bytes + passed * rules.bytes_per_s)
        if account.messages < 1.0 or account.bytes < size_bytes:
            return RATE_LIMITED
        account.messages -= 1.0
        account.bytes -= size_bytes
        account.limited = False
        return None

    def first_of_flood(self, device_id: str, now: float) -> bool:
        """Return whether this is the first message over the rate since one was taken: worth one line in the log."""
        account = self._account(device_id, now)
        first, account.limited = not account.limited, True
        return first

    def refused(self, device_id: str, reason: str, now: float) -> Confinement | None:
        """Note a refusal; return the quarantine that follows from it, if one does."""
        if reason not in NONSENSE:
            return None
        account, rules = self._account(device_id, now), self._rules
        if now < account.confined_until:
            return None
        account.strikes = [at for at in account.strikes if now - at < _STRIKE_WINDOW_S] + [now]
        if len(account.strikes) < rules.strikes:
            return None
        account.strikes.clear()
        account.times += 1
        seconds = min(_LONGEST_S, rules.quarantine_s * 2.0 ** min(account.times - 1, 20))
        account.confined_until = now + seconds
        return Confinement(device_id, reason, seconds, account.times)

    def _account(self, device_id: str, now: float) -> _Account:
        account = self._accounts.get(device_id)
        if account is None:
            if len(self._accounts) >= _MAX_DEVICES:
                # The oldest account starts over; ids come from certificates, so this many are a mistake of ours.
                self._accounts.pop(next(iter(self._accounts)))
            account = _Account(float(self._rules.burst_messages), float(self._rules.burst_bytes), now)
            self._accounts[device_id] = account
        return account
