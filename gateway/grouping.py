"""Groups of devices by traffic signature: scaling, distances, and what a search for families returns. Pure NumPy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

_CLIP = 4.0
_TO_SIGMA = 1.4826
_MEAN_TO_SIGMA = 1.2533
_RADIUS_QUANTILE = 0.99
_RADIUS_FACTOR = 1.5
_ENOUGH = 2_000
_MEAN_FLOOR = 0.02
_LOG_STD_FLOOR = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Prototype:
    """What an attack class looks like to a device.

    Attributes
    ----------
    vector
        Mean of the class's rows minus the device's benign mean, shape ``(N_FEATURES,)``.
    rows
        Rows behind it, >= 1.
    """

    vector: Vector
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """How signatures are made comparable; fixed between two searches so that late joiners fit in.

    Attributes
    ----------
    middle, scale
        Median and robust deviation of each component over the fleet, shape ``(2 * N_FEATURES,)``.
    """

    middle: Vector
    scale: Vector

    def project(self, vectors: Vector) -> Vector:
        """Return ``clip((v - middle) / scale, +-4) / sqrt(2 * N_FEATURES)``, same shape."""
        z = np.clip((vectors - self.middle) / self.scale, -_CLIP, _CLIP)
        result: Vector = z / np.sqrt(vectors.shape[-1])
        return result


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Devices that are alike.

    Attributes
    ----------
    members
        Sorted device ids.
    centroid
        Mean of their projected signatures.
    radius
        Distance from the centroid within which a late joiner belongs: 1.5 times the 99 % quantile of the members'.
    keeps
        Id of the earlier family it continues, ``None`` for a new one.
    """

    members: tuple[str, ...]
    centroid: Vector
    radius: float
    keeps: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """Outcome of a search for families.

    Attributes
    ----------
    accepted
        Whether structure was found; if not, ``groups`` is one group of all devices.
    groups, fits_none
        The groups, and the devices that are like nobody.
    reason
        One line for a person.
    measures
        ``devices``, ``gate``, ``stability``, ``null_share`` and more.
    scaling
        How the signatures were projected.
    by_concept
        Whether groups were split by what attacks look like; their traffic alone then does not tell them apart.
    """

    accepted: bool
    groups: tuple[Group, ...]
    fits_none: tuple[str, ...]
    reason: str
    measures: dict[str, float]
    scaling: Scaling
    by_concept: bool = False

    @property
    def judged(self) -> bool:
        """Whether there were enough signatures to look at all."""
        return "gate" in self.measures


def fit_scaling(vectors: Vector) -> Scaling:
    """Take median and robust deviation of each component.

    A component that is equal on most devices has a median absolute deviation of 0 although it may tell a family
    apart; there the mean absolute deviation steps in. Neither goes below a floor, the least difference that means
    something (0.02 of the transformed range for means, 0.1 for logarithms), so that noise of constant components
    is not blown up.

    Parameters
    ----------
    vectors
        Shape ``(n, 2 * N_FEATURES)``: means, then log standard deviations.
    """
    middle = np.median(vectors, axis=0)
    deviations = np.abs(vectors - middle)
    robust = _TO_SIGMA * np.median(deviations, axis=0)
    mean = _MEAN_TO_SIGMA * deviations.mean(axis=0)
    floor = np.repeat([_MEAN_FLOOR, _LOG_STD_FLOOR], vectors.shape[1] // 2)
    return Scaling(middle, np.where(robust > floor, robust, np.maximum(mean, floor)))


def make_group(members: Sequence[str], z: Vector, keeps: str | None = None) -> Group:
    """Make a group of members with their projected signatures, shape ``(n, 2 * N_FEATURES)``, in the same order."""
    centroid = z.mean(axis=0)
    distances = np.linalg.norm(z - centroid, axis=1)
    radius = _RADIUS_FACTOR * float(np.quantile(distances, _RADIUS_QUANTILE))
    return Group(tuple(sorted(members)), centroid, radius, keeps)


def one_group(vectors: Mapping[str, Vector], reason: str, measures: Mapping[str, float]) -> Grouping:
    """Return the grouping without structure: every device in one group."""
    devices = sorted(vectors)
    # Of a large fleet, devices at even distances tell as much and cost a fraction of the memory.
    matrix = np.stack([vectors[d] for d in devices[:: -(-len(devices) // _ENOUGH)]])
    scaling = fit_scaling(matrix)
    group = make_group(devices, scaling.project(matrix))
    return Grouping(False, (group,), (), reason, {"devices": float(len(devices)), **measures}, scaling)
