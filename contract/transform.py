"""The fixed, versioned transform from raw features to model inputs."""

import numpy as np
import numpy.typing as npt

from contract.errors import SchemaMismatchError
from contract.features import FEATURES, N_FEATURES, SPAN

_LOG = np.array([f.kind == "log" for f in FEATURES])
_PER_UNIT = np.array([f.per_unit for f in FEATURES], dtype=np.float64)
_TOP = _PER_UNIT * np.array([f.ceiling for f in FEATURES], dtype=np.float64)
# A flag is 0 or 1, and log2(1 + v) is v for both: one formula for all columns spares a selection.
_SCALE = SPAN / np.where(_LOG, np.log1p(_TOP), np.log(2.0))


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
    repaired = 0
    # NaN fails both comparisons; only rows with something to repair pay for finding it.
    if raw.size and not (raw.min() >= 0.0 and raw.max() < np.inf):
        bad = ~(np.isfinite(raw) & (raw >= 0.0))
        repaired = int(np.count_nonzero(bad))
        raw = np.where(bad, 0.0, raw)
    # Float64 up to the last step: its logarithm rounds to the same float32 everywhere, that of float32 does not.
    # What overflows is above the top, where it is cut anyway.
    with np.errstate(over="ignore"):
        values = raw * _PER_UNIT
    np.minimum(values, _TOP, out=values)
    values += 1.0
    np.log(values, out=values)
    values *= _SCALE
    return values.astype(np.float32), repaired
