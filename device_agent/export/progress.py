"""How far a run is, on one line of a terminal."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

_EVERY_S = 0.1
_CLEAR = "\r\x1b[K"
_LEAST_BAR, _MOST_BAR = 10, 40


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a run stands.

    Attributes
    ----------
    done, total
        Bytes read and in all; ``total`` is 0 where nobody knows.
    packets, flows
        Packets metered and flow records written so far.
    """

    done: int
    total: int
    packets: int
    flows: int


def line(stand: Stand, seconds: float, width: int) -> str:
    """Return the line for a terminal of ``width`` columns; it is never longer than that less one."""
    rate = stand.packets / seconds if seconds > 0 else 0.0
    facts = f"{stand.packets:,} packets, {_short(rate)}/s, {stand.flows:,} flows"
    if not stand.total:
        minutes, rest = divmod(int(seconds), 60)
        return f"{minutes}:{rest:02} {facts}"[: width - 1]
    share = min(stand.done / stand.total, 1.0)
    room = min(width - 1 - len(facts) - len("[] 100 %  "), _MOST_BAR)
    if room < _LEAST_BAR:
        return f"{share:4.0%} {facts}"[: width - 1]
    filled = round(share * room)
    return f"[{'#' * filled}{'-' * (room - filled)}] {100 * share:3.0f} %  {facts}"


def _short(number: float) -> str:
    """Return a number in four figures at most, with k or M."""
    for factor, letter in ((1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.1f} {letter}" if number < 100 * factor else f"{number / factor:.0f} {letter}"
    return f"{number:.0f} "


class Progress:
    """Shows the line, at most ten times a second, and takes it away at the end.

    Parameters
    ----------
    out
        A terminal.
    clock_s
        Seconds from any start.
    columns
        Width of the terminal, asked for each time.
    """

    def __init__(
        self,
        out: TextIO,
        clock_s: Callable[[], float] = time.monotonic,
        columns: Callable[[], int] = lambda: shutil.get_terminal_size().columns,
    ) -> None:
        self._out = out
        self._clock_s = clock_s
        self._columns = columns
        self._began_s = clock_s()
        self._shown_s = -1.0
        self._visible = False

    def show(self, stand: Stand) -> None:
        """Bring the line up to date, if it is time."""
        now_s = self._clock_s()
        if self._shown_s >= 0 and now_s - self._shown_s < _EVERY_S:
            return
        self._shown_s, self._visible = now_s, True
        self._out.write("\r" + line(stand, now_s - self._began_s, self._columns()) + "\x1b[K")
        self._out.flush()

    def close(self) -> None:
        """Take the line away."""
        if self._visible:
            self._out.write(_CLEAR)
            self._out.flush()
            self._visible = False
