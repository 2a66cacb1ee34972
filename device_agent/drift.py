"""Whether a device's benign traffic has changed: its means against those of its own last windows. Pure.

A burst of attacks must not pass as a new normal: only benign rows count, and nothing is judged while the device raises
many alerts.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from device_agent.inference.engine import Floats

WINDOWS = 5
_SHIFT = 3.0
_TO_SIGMA = 1.4826
_FLOOR = 0.02
"""Least shift of a mean that means something, in units of the transformed range."""
_FEATURES_SHARE = 0.2
_ALARM_SHARE = 0.05
_MIN_ROWS = 30

Means = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class DriftMemory:
    """Means of the last windows, oldest first, shape ``(D,)`` each; at most ``WINDOWS``."""

    windows: tuple[Means, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class DriftVerdict:
    """What a window says.

    Attributes
    ----------
    drifted
        Whether the traffic is not what it was.
    reason
        ``drift``, ``steady``, ``learning``: too few windows; ``few-rows``; ``frozen``: under attack.
    features
        How many features moved.
    """

    drifted: bool
    reason: str
    features: int = 0


def judge_window(benign: Floats, alert_share: float, memory: DriftMemory) -> tuple[DriftMemory, DriftVerdict]:
    """Judge one window of traffic.

    Parameters
    ----------
    benign
        Shape ``(n, D)``: model inputs of the window's benign rows.
    alert_share
        Share of all flows of the window that raised an alert; above 5 % nothing is judged and nothing remembered.
    memory
        Of earlier windows.

    Returns
    -------
    DriftMemory, DriftVerdict
        After a drift the memory starts anew, so that the new normal is learnt.
    """
    if alert_share > _ALARM_SHARE:
        return memory, DriftVerdict(drifted=False, reason="frozen")
    if len(benign) < _MIN_ROWS:
        return memory, DriftVerdict(drifted=False, reason="few-rows")
    means: Means = benign.mean(axis=0, dtype=np.float64)
    if len(memory.windows) < WINDOWS:
        return DriftMemory((*memory.windows, means)), DriftVerdict(drifted=False, reason="learning")
    past = np.stack(memory.windows)
    middle = np.median(past, axis=0)
    spread = np.maximum(_TO_SIGMA * np.median(np.abs(past - middle), axis=0), _FLOOR)
    moved = int((np.abs(means - middle) > _SHIFT * spread).sum())
    if moved > _FEATURES_SHARE * len(means):
        return DriftMemory((means,)), DriftVerdict(drifted=True, reason="drift", features=moved)
    return DriftMemory((*memory.windows[1:], means)), DriftVerdict(drifted=False, reason="steady", features=moved)
