"""One encoder for all families: experts differ in their heads, and learn to read traffic together.

A family has few devices, hence few rows. What its traffic looks like and what an attack means there is its own; how to
read traffic at all is not. So the encoder's part of every model moves by the mean of all devices' updates, whatever
model they trained, and only the rest by the mean of the model's own.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from contract.layout import Layout
from gateway.aggregation.base import Delta, Rule, RuleState


def encoder_slice(layout: Layout) -> slice:
    """Return where the encoder lives in the flat vector."""
    cuts = [where for name, (where, _) in layout.slices().items() if name.startswith("encoder")]
    return slice(cuts[0].start, cuts[-1].stop)


def common_encoder(
    rule: Rule, updates: Mapping[str, Delta], weights: Mapping[str, float], encoder: slice
) -> npt.NDArray[np.float32]:
    """Return the aggregated update of the encoder over devices that trained different models.

    Parameters
    ----------
    rule
        Aggregation rule; it sees the encoder's part alone.
    updates
        One delta of shape ``(P,)`` by device.
    weights
        Positive weight by device, same keys.
    encoder
        As ``encoder_slice``.

    Raises
    ------
    ValueError
        As ``Rule.next``.
    """
    parts = {device: delta[encoder] for device, delta in updates.items()}
    return rule.next(RuleState(), parts, weights).delta


def with_encoder(delta: Delta, encoder: slice, common: npt.NDArray[np.float32]) -> Delta:
    """Return a copy of a model's update whose encoder part is the common one."""
    result = delta.copy()
    result[encoder] = common
    return result
