"""Repeats of the same alert become a count, so that a flood does not drown its own alarm."""

from dataclasses import dataclass

_MICROS = 1_000_000

Key = tuple[bytes, str]
"""Source address of the flow and attack class."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """An alert goes out.

    Attributes
    ----------
    repeats
        Alerts of its kind that were left out since the last one went out.
    """

    repeats: int


@dataclass(frozen=True, slots=True)
class Summary:
    """A kind of alert that fell silent, with repeats nobody was told of.

    Attributes
    ----------
    source, attack_class
        Its kind.
    repeats
        Alerts left out.
    last_us
        Packet time of the last one.
    """

    source: bytes
    attack_class: str
    repeats: int
    last_us: int


@dataclass(slots=True)
class _Kind:
    sent_us: int
    last_us: int
    repeats: int = 0


class Suppressor:
    """Lets one alert of a kind through per window of packet time and counts the others.

    Parameters
    ----------
    window_s
        Seconds between two alerts of a kind, > 0.
    max_kinds
        Bound on kinds remembered; beyond it the kind that was quiet longest is forgotten, with a summary.
    """

    def __init__(self, window_s: float = 60.0, max_kinds: int = 4_096) -> None:
        if not window_s > 0 or max_kinds < 1:
            raise ValueError("window_s and max_kinds are positive")
        self._window_us = int(window_s * _MICROS)
        self._max_kinds = max_kinds
        self._kinds: dict[Key, _Kind] = {}
        self._overflow: list[Summary] = []

    def admit(self, source: bytes, attack_class: str, at_us: int) -> Admitted | None:
        """Return whether an alert goes out; ``None`` = it is a repeat and was counted.

        Parameters
        ----------
        source
            Address of the flow's initiator.
        attack_class
            Name the alert carries.
        at_us
            Packet time. It may run backwards a little: flows do not end in the order of their times.
        """
        key = (source, attack_class)
        kind = self._kinds.pop(key, None)
        if kind is None:
            if len(self._kinds) >= self._max_kinds:
                self._forget(next(iter(self._kinds)))
            self._kinds[key] = _Kind(at_us, at_us)
            return Admitted(0)
        self._kinds[key] = kind  # to the end: the order of the dictionary is the order of the last alert
        kind.last_us = max(kind.last_us, at_us)
        if at_us - kind.sent_us < self._window_us:
            kind.repeats += 1
            return None
        repeats, kind.repeats, kind.sent_us = kind.repeats, 0, at_us
        return Admitted(repeats)

    def linger(self, source: bytes, attack_class: str, at_us: int) -> bool:
        """Return whether an alert of this kind is open, and count the flow to it if so.

        An alert opens when it is admitted, and clears when its kind was quiet for a window: a score that wavers around
        the threshold is one alert, not many. The flow itself never raises one.
        """
        key = (source, attack_class)
        kind = self._kinds.get(key)
        if kind is None or at_us - kind.last_us >= self._window_us:
            return False
        self._kinds[key] = self._kinds.pop(key)
        kind.last_us = max(kind.last_us, at_us)
        kind.repeats += 1
        return True

    def expire(self, now_us: int) -> list[Summary]:
        """Forget kinds that were quiet for a window; return summaries of those with uncounted repeats."""
        quiet = [key for key, kind in self._kinds.items() if now_us - kind.last_us >= self._window_us]
        for key in quiet:
            self._forget(key)
        summaries, self._overflow = self._overflow, []
        return summaries

    def __len__(self) -> int:
        return len(self._kinds)

    def _forget(self, key: Key) -> None:
        kind = self._kinds.pop(key)
        if kind.repeats:
            self._overflow.append(Summary(*key, kind.repeats, kind.last_us))
