"""The traffic signature: robust moments of a device's benign flows, and how attacks differ from them.

Nothing of a single flow leaves the device, but a signature describes the device: that is its purpose, so it cannot be
private at the level of devices. What noise can hide is whether a single flow is behind it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.features import SPAN
from contract.signatures import PROTOTYPE_UNIT, moment_noise, round_log_std
from contract.taxonomy import BENIGN_INDEX, CLASSES
from device_agent.inference.engine import Floats, Labels

MIN_FLOWS = 200
"""Fewer benign flows neither describe a device nor hide a flow in a crowd."""

TRIM_SHARE = 0.05
"""Share cut off at each end of every feature before the mean."""

STD_FLOOR = 1e-3
"""Added to the standard deviation before the logarithm, so that a constant feature has one."""


MIN_CLASS_FLOWS = 5
"""Fewer rows of an attack class are no prototype."""

MOST_PROTOTYPES = 5
"""More would not fit a signature of 1 kB."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """A signature before it is put into a message.

    Attributes
    ----------
    mean
        Shape ``(D,)``, little-endian float16: trimmed mean under the contract's transform.
    log_std
        Shape ``(D,)``, little-endian float16: ``ln(std + 1e-3)`` in the steps of the message.
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
    return Moments(mean.astype("<f2"), round_log_std(log_std).astype("<f2"), len(benign))


def noisy_moments(
    benign: Floats, multiplier: float, rng: np.random.Generator, *, min_flows: int = MIN_FLOWS
) -> Moments | None:
    """Return moments in which a single flow is hidden by Gaussian noise.

    The number of flows counts as known; whichever flow is exchanged for another, the sums move by no more than the
    sensitivity that ``contract.signatures.moment_noise`` states. Nothing is trimmed, since a trimmed sum has no such
    bound that is worth having. A spread that the noise would drown is reported as the noise's own.

    Parameters
    ----------
    benign
        Shape ``(n, N_FEATURES)``: model inputs; clipped to ``[0, SPAN]``.
    multiplier
        Noise multiplier, > 0.
    rng
        Random source; for protection it must be seeded from the operating system.
    min_flows
        Least number of rows.

    Returns
    -------
    Moments or None
        ``None`` for fewer rows.
    """
    n = len(benign)
    if n < max(1, min_flows):
        return None
    centred = np.clip(benign.astype(np.float64), 0.0, SPAN) - SPAN / 2.0
    noise = moment_noise(multiplier, n)
    mean = centred.mean(axis=0) + rng.normal(0.0, noise, centred.shape[1])
    square = (centred * centred).mean(axis=0) + rng.normal(0.0, noise, centred.shape[1])
    variance = np.maximum(square - mean * mean, 3.0 * noise)
    log_std = np.log(np.minimum(np.sqrt(variance), SPAN / 2.0) + STD_FLOOR)
    shown = np.clip(mean + SPAN / 2.0, 0.0, SPAN)
    return Moments(shown.astype("<f2"), round_log_std(log_std).astype("<f2"), n)


def attack_prototypes(x: Floats, y: Labels, *, min_rows: int = MIN_CLASS_FLOWS) -> dict[str, npt.NDArray[np.int8]]:
    """Return what each attack class looks like, relative to the device's own benign traffic.

    Parameters
    ----------
    x, y
        Training rows, shape ``(n, D)``, and their labels.
    min_rows
        Least rows of a class.

    Returns
    -------
    dict
        Class name to ``(D,)`` int8 in units of ``PROTOTYPE_UNIT``: the classes with the most rows, at most
        ``MOST_PROTOTYPES``; none without benign rows.
    """
    benign = x[y == BENIGN_INDEX]
    if not len(benign):
        return {}
    centre = benign.mean(axis=0, dtype=np.float64)
    counts = np.bincount(y[y >= 0], minlength=len(CLASSES))
    counts[BENIGN_INDEX] = 0
    most = [int(c) for c in np.argsort(-counts, kind="stable")[:MOST_PROTOTYPES] if counts[c] >= min_rows]
    result = {}
    for label in sorted(most):
        offset = x[y == label].mean(axis=0, dtype=np.float64) - centre
        result[CLASSES[label]] = np.clip(np.rint(offset / PROTOTYPE_UNIT), -127, 127).astype(np.int8)
    return result
