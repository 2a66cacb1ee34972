"""Families by traffic: HDBSCAN on scaled signatures, believed only if it is separated, stable and unusual.

Four tests stand between a clustering and a family. *Contrast* asks whether the devices differ at all: the variance of
a feature's mean between devices over the variance that sampling alone gives (each device's own variance by its number
of flows), median over the features. Devices with the same traffic reach 2 to 4, since neighbouring flows are alike;
devices of different kinds reach 50. The *gate* asks for separation: silhouette of the clustered devices times the
share of devices clustered. *Stability* asks for the same groups on subsamples: 80 % of the fleet,
drawn ``_RESAMPLES`` times; a fleet below 20 devices leaves out each fifth of its devices, at least one, with the
smallest group shrunk in proportion, since a group of three that loses one member is still that group. The *null* asks
how often a fleet without structure looks as grouped: samples of one Gaussian with the fleet's own covariance. In a
fleet of ten that covariance is the grouping itself, so the test can only turn down what most such samples reach.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import numpy.typing as npt
from sklearn.cluster import HDBSCAN
from sklearn.metrics import adjusted_rand_score, silhouette_score

from gateway.clustering.identity import match_families
from gateway.grouping import Group, Grouping, Scaling, Vector, fit_scaling, make_group, one_group

Labels = npt.NDArray[np.int64]

_NOISE = -1
_CONSTANT = 1e-7
"""Variance below which a feature is constant: float16 rounding and the floor of the standard deviation."""
_RESAMPLES = 20
_RESAMPLES_OF_MANY = 5
_MANY = 500
"""Devices from which on few subsamples tell as much: the index of a large fleet hardly varies."""
_NULL_SAMPLES = 60
_NULL_UP_TO = 200
_SUBSAMPLE = 0.8
_MAX_MIN_SIZE = 20
_EXACT_UP_TO = 2_000
_SAMPLE = 1_000
_AT_ONCE = 1_024
"""Devices that are placed at a time: signatures of a large fleet would fill the memory twice."""
_MIN_SAMPLES_GROWS_AT = 200
_STRAY_FACTOR = 2.0
_STRAY_QUANTILE = 0.8


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """What a grouping must show; meanings as in the configuration.

    Attributes
    ----------
    min_size, contrast, gate, stability, null_level
        As ``families`` of the configuration.
    """

    min_size: int = 3
    contrast: float = 8.0
    gate: float = 0.15
    stability: float = 0.8
    null_level: float = 0.34


def find_families(
    vectors: Mapping[str, Vector],
    settings: SearchSettings,
    rng: np.random.Generator,
    earlier: Mapping[str, frozenset[str]] | None = None,
    flows: Mapping[str, int] | None = None,
    noise: Mapping[str, float] | None = None,
) -> Grouping:
    """Look for families.

    Parameters
    ----------
    vectors
        Signature ``[mean, log_std]`` by device, shape ``(2 * N_FEATURES,)``; at least one device.
    settings
        Thresholds.
    rng
        Random source of the subsamples and null samples.
    earlier
        Members of the living families, whose ids go on if most members stay.
    flows
        Flows behind each signature; without them the contrast is not tested.
    noise
        Standard deviation of the noise that devices put on their means, 0 or missing without.

    Returns
    -------
    Grouping
        Groups and the devices that fit none; or one group of all, with the reason.

    Notes
    -----
    Exact up to 2,000 devices; above, a sample of 1,000 is clustered and the others join the nearest group within its
    radius. Deterministic for a seeded ``rng``, whatever the order of the mapping.
    """
    devices = sorted(vectors)
    needed = 2 * settings.min_size
    if len(devices) < needed:
        return one_group(vectors, f"{len(devices)} traffic signatures, {needed} are needed to look for families", {})
    chosen = np.arange(len(devices))
    if len(devices) > _EXACT_UP_TO:
        chosen = np.sort(rng.choice(len(devices), _SAMPLE, replace=False))
    asked = [devices[i] for i in chosen]
    matrix = np.stack([vectors[device] for device in asked])
    contrast: dict[str, float] = {}
    if flows is not None:
        own = np.array([(noise or {}).get(device, 0.0) for device in asked])
        value = _contrast(matrix, np.array([flows[device] for device in asked]), own)
        contrast["contrast"] = value
        if value < settings.contrast:
            reason = f"the devices hardly differ: contrast {value:.1f}, {settings.contrast:.1f} is needed"
            return one_group(vectors, reason, {"gate": 0.0, **contrast})
    scaling = fit_scaling(matrix)
    z = scaling.project(matrix)
    labels, measures, refusal = _judge(z, settings, rng)
    measures |= contrast
    if refusal is not None:
        return one_group(vectors, refusal, measures)
    found = [make_group([asked[i] for i in rows], z[rows]) for rows in _rows_by_label(labels)]
    full = np.full(len(devices), _NOISE)
    if len(asked) < len(devices):
        full = _nearest_within(vectors, devices, found, scaling)
    full[chosen] = labels
    names = [tuple(devices[i] for i in rows) for rows in _rows_by_label(full)]
    fits_none = tuple(devices[i] for i in np.flatnonzero(full == _NOISE))
    kept = match_families([frozenset(n) for n in names], earlier or {})
    groups = tuple(replace(g, members=n, keeps=k) for g, n, k in zip(found, names, kept, strict=True))
    reason = f"{len(groups)} families, separation {measures['gate']:.2f}, stability {measures['stability']:.2f}"
    return Grouping(True, groups, fits_none, reason, {"devices": float(len(devices)), **measures}, scaling)


def _judge(
    z: Vector, settings: SearchSettings, rng: np.random.Generator
) -> tuple[Labels, dict[str, float], str | None]:
    """Return labels, measures, and why they are not believed (``None`` if they are)."""
    min_size = min(_MAX_MIN_SIZE, max(settings.min_size, ceil(0.02 * len(z))))
    labels = _cluster(z, min_size)
    gate = _separation(z, labels)
    measures = {"clusters": float(labels.max() + 1), "min_size": float(min_size), "gate": gate}
    if gate < settings.gate:
        return labels, measures, f"no structure: separation {gate:.2f}, {settings.gate:.2f} is needed"
    stability = _stability(z, labels, min_size, rng)
    measures["stability"] = stability
    if stability < settings.stability:
        return labels, measures, f"not stable: agreement {stability:.2f}, {settings.stability:.2f} is needed"
    if len(z) <= _NULL_UP_TO:
        share = _null_share(z, gate, min_size, rng)
        measures["null_share"] = share
        if share > settings.null_level:
            return labels, measures, f"could be chance: {share:.0%} of structureless fleets look as grouped"
    return labels, measures, None


def _contrast(matrix: Vector, flows: npt.NDArray[np.int64], noise: Vector) -> float:
    """Return the median over features of the variance between devices by the variance of sampling."""
    means, log_stds = np.split(matrix, 2, axis=1)
    sampling = (np.exp(2.0 * log_stds) / np.maximum(flows, 1)[:, None] + (noise * noise)[:, None]).mean(axis=0)
    between = means.var(axis=0, ddof=1)
    tells = np.maximum(sampling, between) > _CONSTANT
    if not tells.any():
        return 0.0
    return float(np.median(between[tells] / np.maximum(sampling[tells], _CONSTANT)))


def _cluster(z: Vector, min_size: int) -> Labels:
    """Return cluster labels, shape ``(n,)``; -1 is noise. A single cluster is never found: the gate covers that."""
    if len(z) < 2 * min_size:
        return np.full(len(z), _NOISE)
    min_samples = 2 if len(z) < _MIN_SAMPLES_GROWS_AT else 3
    model = HDBSCAN(min_cluster_size=min_size, min_samples=min_samples, copy=True)
    labels: Labels = model.fit_predict(z).astype(np.int64)
    return _without_strays(z, labels, min_size)


def _without_strays(z: Vector, labels: Labels, min_size: int) -> Labels:
    """Turn far members into noise, and groups that get too small with them.

    HDBSCAN counts a lone point to the group it is nearest to, as long as that group stands out against all others. A
    member farther from the group's middle than twice the 80 % quantile does not belong. Of three members none is far.
    """
    result = np.full(len(labels), _NOISE)
    number = 0
    for label in range(int(labels.max()) + 1):
        rows = np.flatnonzero(labels == label)
        distances = np.linalg.norm(z[rows] - np.median(z[rows], axis=0), axis=1)
        near = rows[distances <= _STRAY_FACTOR * np.quantile(distances, _STRAY_QUANTILE)]
        if len(near) >= min_size:
            result[near] = number
            number += 1
    return result


def _separation(z: Vector, labels: Labels) -> float:
    """Return silhouette of the clustered devices times their share; 0 for fewer than two clusters."""
    clustered = labels != _NOISE
    if labels.max() < 1:
        return 0.0
    return float(silhouette_score(z[clustered], labels[clustered])) * float(clustered.mean())


def _stability(z: Vector, labels: Labels, min_size: int, rng: np.random.Generator) -> float:
    """Return the mean adjusted Rand index between the labels and those of subsamples; noise counts as a group."""
    n = len(z)
    keep = n - max(1, round((1.0 - _SUBSAMPLE) * n))
    smaller = max(2, int(min_size * keep / n))
    scores = []
    for _ in range(_RESAMPLES if n < _MANY else _RESAMPLES_OF_MANY):
        rows = np.sort(rng.choice(n, keep, replace=False))
        again = _cluster(z[rows], smaller)
        scores.append(adjusted_rand_score(labels[rows], again))
    return float(np.mean(scores))


def _null_share(z: Vector, gate: float, min_size: int, rng: np.random.Generator) -> float:
    """Return the share of fleets of one Gaussian with this covariance whose separation reaches ``gate``."""
    centred = z - z.mean(axis=0)
    scale = 1.0 / np.sqrt(max(1, len(z) - 1))
    hits = 0
    for _ in range(_NULL_SAMPLES):
        # Gaussian mixtures of the centred rows have the sample covariance without its factorisation.
        sample = rng.standard_normal((len(z), len(z))) @ centred * scale
        hits += _separation(sample, _cluster(sample, min_size)) >= gate
    return (hits + 1) / (_NULL_SAMPLES + 1)


def separation_of(vectors: Mapping[str, Vector], members: Mapping[str, frozenset[str]], scaling: Scaling) -> float:
    """Return the separation of given families among given signatures; 0 for fewer than two families there."""
    there = sorted(vectors)
    number = {d: k for k, family_id in enumerate(sorted(members)) for d in members[family_id]}
    labels = np.array([number.get(device, _NOISE) for device in there], dtype=np.int64)
    clustered = labels != _NOISE
    if not 2 <= len(np.unique(labels[clustered])) < clustered.sum() or len(there) > _EXACT_UP_TO:
        return 0.0
    return _separation(scaling.project(np.stack([vectors[device] for device in there])), labels)


def _rows_by_label(labels: Labels) -> list[npt.NDArray[np.int64]]:
    return [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]


def _nearest_within(
    vectors: Mapping[str, Vector], devices: Sequence[str], groups: Sequence[Group], scaling: Scaling
) -> Labels:
    """Return the nearest group whose radius holds a device, ``_NOISE`` if none does, as for any late joiner."""
    centroids = np.stack([group.centroid for group in groups])
    radii = np.array([group.radius for group in groups])
    lengths = (centroids * centroids).sum(axis=1)
    result = np.empty(len(devices), dtype=np.int64)
    for start in range(0, len(devices), _AT_ONCE):
        z = scaling.project(np.array([vectors[device] for device in devices[start : start + _AT_ONCE]]))
        squares = np.einsum("ij,ij->i", z, z)[:, None] + lengths - 2.0 * z @ centroids.T
        nearest = squares.argmin(axis=1)
        distances = np.sqrt(np.maximum(squares[np.arange(len(z)), nearest], 0.0))
        result[start : start + _AT_ONCE] = np.where(distances <= radii[nearest], nearest, _NOISE)
    return result
