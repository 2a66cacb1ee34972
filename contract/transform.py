"""The fixed, versioned transform from raw features to model inputs."""

import numpy as np
import numpy.typing as npt

from contract.errors import SchemaMismatchError
from contract.features import FEATURES, N_FEATURES, SPAN

_LOG = np.array([f.kind == "log" for f in FEATURES])
_PER_UNIT = np.array([f.per_unit for f in FEATURES], dtype=np.float64)
_CEILING = np.array([f.ceiling for f in FEATURES], dtype=np.float64)
_SCALE = SPAN / np.where(_LOG, np.log1p(_PER_UNIT * _CEILING), 1.0)


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
    bad = ~(np.isfinite(raw) & (raw >= 0.0))
    repaired = int(np.count_nonzero(bad))
    values = np.minimum(np.where(bad, 0.0, raw) if repaired else raw, _CEILING)
    scaled = np.where(_LOG, np.log1p(values * _PER_UNIT), values) * _SCALE
    return np.minimum(scaled, float(SPAN)).astype(np.float32), repaired
