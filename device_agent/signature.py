"""The traffic signature: robust moments of a device's benign flows, nothing of a single flow."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.inference.engine import Floats

MIN_FLOWS = 200
"""Fewer benign flows neither describe a device nor hide a flow in a crowd."""

TRIM_SHARE = 0.05
"""Share cut off at each end of every feature before the mean."""

STD_FLOOR = 1e-3
"""Added to the standard deviation before the logarithm, so that a constant feature has one."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """A signature before it is put into a message.

    Attributes
    ----------
    mean
        Shape ``(D,)``, little-endian float16: trimmed mean under the contract's transform.
    log_std
        Shape ``(D,)``, little-endian float16: ``ln(std + 1e-3)``.
    flows
        Rows behind it.
    """

    mean: npt.NDArray[np.float16]
    log_std: npt.NDArray[np.float16]
    flows: int


def traffic_moments(benign: Floats, *, min_flows: int = MIN_FLOWS) -> Moments | None:
    """Return the signature of benign training rows.

    Parameters
    ----------
    benign
        Shape ``(n, D)``, float32 model inputs.
    min_flows
        Least number of rows.

    Returns
    -------
    Moments or None
        ``None`` for fewer rows.
    """
    if len(benign) < min_flows or not len(benign):
        return None
    ordered = np.sort(benign.astype(np.float64), axis=0)
    cut = int(TRIM_SHARE * len(ordered))
    mean = ordered[cut : len(ordered) - cut].mean(axis=0)
    log_std = np.log(ordered.std(axis=0) + STD_FLOOR)
    return Moments(mean.astype("<f2"), log_std.astype("<f2"), len(benign))
