"""Whether benign traffic still looks as it did in training: a test per feature, on flows without alerts only."""

import numpy as np
import numpy.typing as npt

from contract.features import N_FEATURES, NAMES, SPAN
from device_agent.inference.engine import Floats

MIN_REFERENCE_ROWS = 200
"""Fewer rows give an index that chance alone lifts near the limit."""

LIMIT = 0.25
"""Population stability index from which a shift is usually called large."""

_BINS = 10
_FREEZE_US = 60_000_000
_FLOOR = 1e-3

Counts = npt.NDArray[np.int64]


class DriftMonitor:
    """Compares windows of flows with the benign training rows, feature by feature.

    A feature has drifted when its population stability index, ``sum((p - q) ln(p / q))`` over ten bins of the model's
    input range, exceeds the limit in two windows in a row. Flows with an alert do not count, nor does anything in the
    minute of packet time after one: an attack is no drift, and must not hide one.

    Parameters
    ----------
    window_rows
        Flows of one window.
    """

    def __init__(self, window_rows: int = 500) -> None:
        self._window_rows = window_rows
        self._reference: npt.NDArray[np.float64] | None = None
        self._frozen_until_us = 0
        self._before: frozenset[int] = frozenset()
        self._drifted: tuple[str, ...] = ()
        self._kept_before: list[Floats] = []
        self._start_window()

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of the features that drifted, worst first."""
        return self._drifted

    def recent(self) -> Floats:
        """Return the latest rows without an alert, shape ``(n, D)``: those of the open window and the one before."""
        kept = [*self._kept_before, *self._kept]
        return np.concatenate(kept) if kept else np.zeros((0, N_FEATURES), dtype=np.float32)

    def set_reference(self, benign: Floats) -> None:
        """Compare with these benign rows, shape ``(n, D)``, from now on; too few switch the test off."""
        self._reference = None
        if len(benign) >= MIN_REFERENCE_ROWS:
            self._reference = _shares(_count(benign))
        self._before, self._drifted, self._kept_before = frozenset(), (), []
        self._start_window()

    def observe(self, x: Floats, alerted: npt.NDArray[np.bool_], now_us: int) -> None:
        """Take judged rows, shape ``(n, D)``, at a packet time."""
        if alerted.any():
            self._frozen_until_us = now_us + _FREEZE_US
        if self._reference is None or now_us < self._frozen_until_us:
            return
        self._counts += _count(x)
        self._kept.append(x.copy())
        self._rows += len(x)
        if self._rows >= self._window_rows:
            self._close_window(self._reference)

    def _close_window(self, reference: npt.NDArray[np.float64]) -> None:
        shares = _shares(self._counts)
        index = ((shares - reference) * np.log(shares / reference)).sum(axis=1)
        order = np.argsort(-index, kind="stable")
        now = [feature for feature in order.tolist() if index[feature] > LIMIT]
        self._drifted = tuple(NAMES[feature] for feature in now if feature in self._before)
        self._before = frozenset(now)
        self._kept_before = self._kept
        self._start_window()

    def _start_window(self) -> None:
        self._counts: Counts = np.zeros((N_FEATURES, _BINS), dtype=np.int64)
        self._kept: list[Floats] = []
        self._rows = 0


def _count(x: Floats) -> Counts:
    """Return rows per feature and bin."""
    bins = np.minimum((x * (_BINS / SPAN)).astype(np.int64), _BINS - 1)
    flat = (bins + np.arange(x.shape[1]) * _BINS).ravel()
    return np.bincount(flat, minlength=x.shape[1] * _BINS).reshape(x.shape[1], _BINS)


def _shares(counts: Counts) -> npt.NDArray[np.float64]:
    """Return shares per feature with a floor, since an empty bin has no logarithm."""
    shares = np.maximum(counts / max(int(counts[0].sum()), 1), _FLOOR)
    result: npt.NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
    return result
