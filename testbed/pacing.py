"""Keep the pace of a replay and tell how well it was kept; clock and sleep are passed in."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

_US_PER_S: Final = 1_000_000
_TOLERANCE: Final = 0.10
_PROGRESS_S: Final = 1.0
# Shorter runs are dominated by the start of the sender; their pace is reported but not judged.
_JUDGED_FROM_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast, how often and how much.

    Parameters
    ----------
    speed
        Multiplier on the capture's own timing, above 0; not used when ``rate_pps`` is set.
    rate_pps
        Fixed rate, packets per second above 0; None keeps the capture's timing.
    loops
        How often the capture is sent, 1 or more.
    limit
        Take only the first so many packets of the capture; None = all.
    """

    speed: float = 1.0
    rate_pps: float | None = None
    loops: int = 1
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.speed <= 0 or (self.rate_pps is not None and self.rate_pps <= 0):
            raise ValueError("speed and rate must be above 0")
        if self.loops < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError("loops and limit must be 1 or more")


@dataclass(frozen=True, slots=True)
class Frame:
    """One packet of the capture; ``data`` None means it is left out, for the ``reason``."""

    ts_us: int
    data: bytes | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay did.

    Parameters
    ----------
    sent, sent_bytes
        Frames and bytes handed to the interface.
    left_out
        Packets that were not sent, by reason.
    requested_s, achieved_s
        Time from the first to the last packet, as asked and as it was.
    worst_lag_s
        How late the latest packet was, seconds.
    """

    sent: int
    sent_bytes: int
    left_out: Counter[str] = field(default_factory=Counter)
    requested_s: float = 0.0
    achieved_s: float = 0.0
    worst_lag_s: float = 0.0

    @property
    def requested_pps(self) -> float:
        """Return the mean rate asked for, packets per second; 0 for a replay without length."""
        return self.sent / self.requested_s if self.requested_s > 0 else 0.0

    @property
    def achieved_pps(self) -> float:
        """Return the mean rate reached, packets per second; 0 for a replay without length."""
        return self.sent / self.achieved_s if self.achieved_s > 0 else 0.0

    @property
    def deviation(self) -> float:
        """Return how much longer the replay took than asked, as a share; negative when it was faster."""
        return self.achieved_s / self.requested_s - 1.0 if self.requested_s > 0 else 0.0

    @property
    def valid(self) -> bool:
        """Return whether the pace was kept within a tenth, so that results from this run count."""
        return self.requested_s < _JUDGED_FROM_S or abs(self.deviation) <= _TOLERANCE


def due_times_s(frames: Sequence[Frame], pace: Pace) -> list[float]:
    """Return when each frame of one loop is due, seconds from the loop's start; never backwards.

    Notes
    -----
    Captured timestamps may jump back (looped or merged captures); such a packet is due at once.
    """
    if pace.rate_pps is not None:
        return [number / pace.rate_pps for number in range(len(frames))]
    due, latest_us = [], frames[0].ts_us
    for frame in frames:
        latest_us = max(latest_us, frame.ts_us)
        due.append((latest_us - frames[0].ts_us) / _US_PER_S / pace.speed)
    return due


def run(
    frames: Sequence[Frame],
    pace: Pace,
    *,
    send: Callable[[bytes], None],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    on_progress: Callable[[int], None] = lambda _: None,
) -> ReplayReport:
    """Send the frames at their due times.

    Parameters
    ----------
    frames
        One loop of the capture, at least one.
    pace
        How fast and how often.
    send
        Sends one frame.
    clock, sleep
        Monotonic seconds, and what waits.
    on_progress
        Receives the number of frames sent, about once a second.
    """
    due_s = due_times_s(frames, pace)
    # Between two loops lies the mean distance of two packets, so that time goes on evenly.
    loop_s = due_s[-1] + (due_s[-1] / (len(frames) - 1) if len(frames) > 1 else 1.0 / (pace.rate_pps or 1.0))
    sent = sent_bytes = 0
    left_out: Counter[str] = Counter()
    first_due_s = last_due_s = first_sent_s = last_sent_s = worst_lag_s = 0.0
    start_s = shown_s = clock()
    for loop in range(pace.loops):
        for frame, offset_s in zip(frames, due_s, strict=True):
            if frame.data is None:
                left_out[frame.reason] += 1
                continue
            target_s = loop * loop_s + offset_s
            now_s = clock() - start_s
            if now_s < target_s:
                sleep(target_s - now_s)
                now_s = clock() - start_s
            send(frame.data)
            if not sent:
                first_due_s, first_sent_s = target_s, now_s
            last_due_s, last_sent_s = target_s, now_s
            worst_lag_s = max(worst_lag_s, now_s - target_s)
            sent += 1
            sent_bytes += len(frame.data)
            if now_s + start_s - shown_s >= _PROGRESS_S:
                shown_s = now_s + start_s
                on_progress(sent)
    return ReplayReport(
        sent=sent,
        sent_bytes=sent_bytes,
        left_out=left_out,
        requested_s=last_due_s - first_due_s,
        achieved_s=last_sent_s - first_sent_s,
        worst_lag_s=worst_lag_s,
    )
