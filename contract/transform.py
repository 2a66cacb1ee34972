"""The fixed, versioned transform from raw features to model inputs."""

import numpy as np
import numpy.typing as npt

from contract.errors import SchemaMismatchError
from contract.features import FEATURES, N_FEATURES, SPAN

_LOG = np.array([f.kind == "log" for f in FEATURES])
_PER_UNIT = np.array([f.per_unit for f in FEATURES], dtype=np.float64)
_CEILING = np.array([f.ceiling for f in FEATURES], dtype=np.float64)
# A flag is 0 or 1, and log2(1 + v) is v for both: one formula for all columns spares a selection.
_SCALE = SPAN / np.where(_LOG, np.log1p(_PER_UNIT * _CEILING), np.log(2.0))

_ROWS = 64
_CONSTANTS = tuple(np.tile(column, _ROWS) for column in (_CEILING, _PER_UNIT, _SCALE))
"""Of this many rows: NumPy takes longer to repeat a short array than to read a long one."""
_CHUNK = _ROWS * N_FEATURES
_NOT_FINITE = np.float64(np.inf).view(np.uint64)


def to_model_input(raw: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float32], int]:
    """Transform raw feature rows to model inputs.

    Per-device statistics never enter: the same flow gives the same input on every device.

    Parameters
    ----------
    raw
        Shape ``(n, N_FEATURES)``, float64, raw units of the schema.

    Returns
    -------
    x
        Shape ``(n, N_FEATURES)``, float32, every value in ``[0, SPAN]``.
    repaired
        How many values were negative or not finite and became 0.

    Raises
    ------
    SchemaMismatchError
        If the number of columns differs from the schema.
    """
    if raw.ndim != 2 or raw.shape[1] != N_FEATURES:
        raise SchemaMismatchError(
            f"features have shape {raw.shape}, the schema wants (n, {N_FEATURES})", reason="feature-count"
        )
    raw, repaired = _repaired(np.ascontiguousarray(raw, dtype=np.float64))
    x = np.empty(raw.shape, dtype=np.float32)
    given, wanted = raw.reshape(-1), x.reshape(-1)
    for start in range(0, given.size, _CHUNK):
        part = given[start : start + _CHUNK]
        ceilings, per_units, scales = _CONSTANTS if part.size == _CHUNK else (c[: part.size] for c in _CONSTANTS)
        values = np.minimum(part, ceilings)
        values *= per_units
        values += 1.0
        # Float64 up to the last step: its logarithm rounds to the same float32 everywhere, that of float32 does not.
        np.log(values, out=values)
        values *= scales
        wanted[start : start + part.size] = values
    return x, repaired


def _repaired(raw: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], int]:
    """Return the rows with 0 for every value that is negative or not finite, and how many there were.

    As unsigned integers, values from 0 up are ordered as they are; infinity, NaN and everything with a sign is above.
    """
    if not raw.size or np.maximum.reduce(raw.view(np.uint64), axis=None) < _NOT_FINITE:
        return raw, 0
    bad = ~(np.isfinite(raw) & (raw >= 0.0))
    return np.where(bad, 0.0, raw), int(np.count_nonzero(bad))
