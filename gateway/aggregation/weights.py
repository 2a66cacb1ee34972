"""How much each device counts."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

_CAP = 3.0


def row_weights(rows: Mapping[str, int], *, weighting: Literal["sqrt-rows", "equal"]) -> dict[str, float]:
    """Return the weight of each device.

    Parameters
    ----------
    rows
        Training rows by device, as reported; at least 1 is assumed.
    weighting
        ``sqrt-rows``: square root of the rows, at most three times the median of all, so that a device that claims
        many rows gains little; ``equal``: 1 for all.

    Returns
    -------
    dict
        Positive weight by device.
    """
    if weighting == "equal" or not rows:
        return dict.fromkeys(rows, 1.0)
    roots = {device: float(np.sqrt(max(1, count))) for device, count in rows.items()}
    cap = _CAP * float(np.median(list(roots.values())))
    return {device: min(root, cap) for device, root in roots.items()}
