"""Families by attack: inside a group of alike devices, those to which the same attack looks different.

Devices with the same benign traffic may still disagree on what an attack looks like; one expert for all of them learns
a compromise. Each device tells, for every attack class it has seen, the mean of its rows minus its own benign mean (a
*prototype*). Two devices are compared on the classes both have seen. Average linkage on these distances, cut where the
silhouette is best, splits a group if the cut is clear and its parts are large; otherwise nothing is split: label skew
alone is no reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]
from scipy.spatial.distance import squareform  # type: ignore[import-untyped]
from sklearn.metrics import silhouette_score

from gateway.clustering.identity import match_families
from gateway.clustering.refinement import REST, comparable, refined, without_small
from gateway.grouping import Group, Grouping, Prototype, Vector, make_group, one_group

Labels = npt.NDArray[np.int64]

_LARGEST = 2_000
_MOST_PARTS = 6
_MOST_CUTS = 30
_ROWS_CAP = 50


@dataclass(frozen=True, slots=True)
class ConceptSettings:
    """What a split must show; meanings as in the configuration.

    Attributes
    ----------
    silhouette
        Least silhouette times coverage of a cut.
    min_part
        Smallest part.
    shared_share
        Least share of device pairs that have an attack class in common; below it there is too little to compare.
    """

    silhouette: float = 0.30
    min_part: int = 4
    shared_share: float = 0.2


def split_by_concept(
    grouping: Grouping,
    vectors: Mapping[str, Vector],
    prototypes: Mapping[str, Mapping[str, Prototype]],
    settings: ConceptSettings,
    rng: np.random.Generator,
    *,
    earlier: Mapping[str, frozenset[str]] | None = None,
) -> Grouping:
    """Split the groups of a search, and the devices that fit none, by what attacks look like to them.

    Parameters
    ----------
    grouping
        Outcome of ``find_families``.
    vectors
        The signatures it was made from.
    prototypes
        Attack prototypes by device and class; a device may be missing or have none.
    settings
        Thresholds.
    rng
        Random source for groups above 2,000 devices, of which a sample is compared.
    earlier
        Members of the living families, whose ids go on if most members stay.

    Returns
    -------
    Grouping
        The same object if nothing is split.

    Notes
    -----
    Members of a split group that are in no part large enough fit none from now on: their parent is gone.
    """
    parts: list[tuple[str, ...]] = []
    fits_none = list(grouping.fits_none)
    best = 0.0
    split = False
    for group in grouping.groups:
        labels, score = concept_labels([prototypes.get(d, {}) for d in group.members], settings, rng)
        best = max(best, score)
        if labels is None:
            parts.append(group.members)
            continue
        split = True
        parts += _members(group.members, labels)
        fits_none += [d for d, label in zip(group.members, labels, strict=True) if label == REST]
    strays = tuple(sorted(grouping.fits_none))
    if len(strays) >= 2 * settings.min_part:
        labels, score = concept_labels([prototypes.get(d, {}) for d in strays], settings, rng)
        if labels is not None:
            split = True
            best = max(best, score)
            parts += _members(strays, labels)
            fits_none = [d for d in fits_none if d not in set(strays)]
            fits_none += [d for d, label in zip(strays, labels, strict=True) if label == REST]
    if not split:
        return replace(grouping, measures={**grouping.measures, "concept": best})
    kept = match_families([frozenset(p) for p in parts], earlier or {})
    groups = tuple(_group(p, vectors, grouping, k) for p, k in zip(parts, kept, strict=True))
    before = grouping.reason if grouping.accepted else "alike in traffic"
    reason = f"{before}; {len(groups)} families by attack, separation {best:.2f}"
    measures = {**grouping.measures, "concept": best, "families": float(len(groups))}
    return Grouping(True, groups, tuple(sorted(fits_none)), reason, measures, grouping.scaling, by_concept=True)


def concept_labels(
    prototypes: Sequence[Mapping[str, Prototype]], settings: ConceptSettings, rng: np.random.Generator
) -> tuple[Labels | None, float]:
    """Return a part number per device (-1: in no part), ``None`` for no split; and the best separation seen."""
    n = len(prototypes)
    if n < 2 * settings.min_part or n > _LARGEST:
        return (None, 0.0) if n <= _LARGEST else _sampled(prototypes, settings, rng)
    distances, shared = concept_distances(prototypes)
    if shared < settings.shared_share:
        return None, 0.0
    tree = linkage(squareform(distances, checks=False), method="average")
    best: tuple[float, Labels | None] = (0.0, None)
    for count in range(2, min(n, _MOST_CUTS)):  # devices like nobody take cuts of their own
        labels = without_small(fcluster(tree, count, criterion="maxclust").astype(np.int64), settings.min_part)
        clustered = labels != REST
        if not 1 <= labels.max() < _MOST_PARTS:
            continue
        inner = distances[np.ix_(clustered, clustered)]
        score = float(silhouette_score(inner, labels[clustered], metric="precomputed")) * float(clustered.mean())
        if score > best[0]:
            best = (score, labels)
    if best[1] is None or best[0] < settings.silhouette:
        return None, best[0]
    return refined(distances, comparable(prototypes), best[1], settings.min_part), best[0]


def concept_conflict(grouping: Grouping, prototypes: Mapping[str, Mapping[str, Prototype]]) -> float | None:
    """Return how much the groups of a search disagree on what attacks look like.

    The silhouette of the groups under the concept distances: near 0 when devices of one group agree no more with each
    other than with the rest, so that a common model costs them nothing; 0.2 to 0.5 when the same attack looks
    different from group to group, so that a common model is a compromise. Label skew hardly moves it.

    Returns
    -------
    float or None
        In ``[-1, 1]``; ``None`` with fewer than two groups or too few shared classes to tell.
    """
    pairs = [(d, k) for k, group in enumerate(grouping.groups) for d in group.members if prototypes.get(d)]
    pairs = pairs[:: -(-len(pairs) // _LARGEST)] if pairs else pairs
    labels = np.array([k for _, k in pairs])
    if len(np.unique(labels)) < 2 or len(np.unique(labels)) >= len(labels):
        return None
    distances, shared = concept_distances([prototypes[d] for d, _ in pairs])
    if shared < ConceptSettings().shared_share:
        return None
    return float(silhouette_score(distances, labels, metric="precomputed"))


def one_family_if_agreed(
    grouping: Grouping,
    vectors: Mapping[str, Vector],
    prototypes: Mapping[str, Mapping[str, Prototype]],
    least: float,
) -> Grouping:
    """Measure the conflict of a search, and join its groups into one if they agree on what attacks look like.

    Parameters
    ----------
    grouping, vectors, prototypes
        A search and what it was made from. Groups that were split by attack are never joined.
    least
        Conflict below which groups agree; 0 or less joins nothing.
    """
    if not grouping.accepted:
        return grouping
    conflict = concept_conflict(grouping, prototypes)
    if conflict is None:
        return grouping
    measures = {**grouping.measures, "conflict": conflict}
    if least > 0.0 and conflict < least and not grouping.by_concept:
        reason = (
            f"{len(grouping.groups)} kinds of traffic that agree on attacks (conflict {conflict:.2f}) share a model"
        )
        return one_group(vectors, reason, measures)
    return replace(grouping, measures=measures)


def concept_distances(prototypes: Sequence[Mapping[str, Prototype]]) -> tuple[Vector, float]:
    """Return distances between devices, shape ``(n, n)``, and the share of pairs with a class in common.

    The distance is the mean over shared classes of the standardised distance of their prototypes, each class weighted
    by the rows behind it (the lesser of both, at most 50). Pairs without a shared class get the median of the others.
    """
    n = len(prototypes)
    classes = sorted({name for held in prototypes for name in held})
    total, weight = np.zeros((n, n)), np.zeros((n, n))
    scale = _scale(prototypes)
    for name in classes:
        rows = [i for i, held in enumerate(prototypes) if name in held]
        vectors = np.stack([prototypes[i][name].vector for i in rows]) / scale
        counts = np.array([min(prototypes[i][name].rows, _ROWS_CAP) for i in rows], dtype=np.float64)
        squares = (vectors * vectors).sum(axis=1)
        d = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2.0 * vectors @ vectors.T, 0.0))
        w = np.minimum(counts[:, None], counts[None, :])
        block = np.ix_(rows, rows)
        total[block] += w * d / np.sqrt(vectors.shape[1])
        weight[block] += w
    upper = np.triu_indices(n, 1)
    known = weight > 0.0
    if not known[upper].any():
        return np.zeros((n, n)), 0.0
    distances = np.where(known, total / np.maximum(weight, 1e-12), 0.0)
    filler = float(np.median(distances[upper][known[upper]]))
    distances[~known] = filler
    np.fill_diagonal(distances, 0.0)
    return distances, float(known[upper].mean())


def _scale(prototypes: Sequence[Mapping[str, Prototype]]) -> Vector:
    """Return the spread of each feature over all prototypes, floored, shape ``(D,)``."""
    everything = [p.vector for held in prototypes for p in held.values()]
    if not everything:
        return np.ones(1)
    spread: Vector = np.stack(everything).std(axis=0)
    return np.maximum(spread, max(0.1 * float(spread.mean()), 1e-6))


def _sampled(
    prototypes: Sequence[Mapping[str, Prototype]], settings: ConceptSettings, rng: np.random.Generator
) -> tuple[Labels | None, float]:
    """Split a sample; the others join the part whose mean prototypes are nearest."""
    rows = np.sort(rng.choice(len(prototypes), _LARGEST, replace=False))
    labels, score = concept_labels([prototypes[i] for i in rows], settings, rng)
    if labels is None:
        return None, score
    means = [mean_prototypes([prototypes[i] for i in rows[labels == k]]) for k in range(int(labels.max()) + 1)]
    result = np.full(len(prototypes), REST)
    result[rows] = labels
    for i in np.setdiff1d(np.arange(len(prototypes)), rows):
        gaps = [_gap(prototypes[i], mean) for mean in means]
        if min(gaps) < np.inf:
            result[i] = int(np.argmin(gaps))
    return result, score


def mean_prototypes(held: Sequence[Mapping[str, Prototype]]) -> dict[str, Prototype]:
    """Return the row-weighted mean prototype of each class over devices."""
    result: dict[str, Prototype] = {}
    for name in sorted({n for h in held for n in h}):
        some = [h[name] for h in held if name in h]
        counts = np.array([min(p.rows, _ROWS_CAP) for p in some], dtype=np.float64)
        mean = counts @ np.stack([p.vector for p in some]) / counts.sum()
        result[name] = Prototype(mean, int(sum(p.rows for p in some)))
    return result


def _gap(own: Mapping[str, Prototype], mean: Mapping[str, Prototype]) -> float:
    shared = own.keys() & mean.keys()
    if not shared:
        return float("inf")
    return float(np.mean([np.linalg.norm(own[name].vector - mean[name].vector) for name in sorted(shared)]))


def _members(devices: Sequence[str], labels: Labels) -> list[tuple[str, ...]]:
    return [
        tuple(d for d, label in zip(devices, labels, strict=True) if label == k) for k in range(int(labels.max()) + 1)
    ]


def _group(members: tuple[str, ...], vectors: Mapping[str, Vector], grouping: Grouping, keeps: str | None) -> Group:
    z = grouping.scaling.project(np.stack([vectors[d] for d in members]))
    return make_group(members, z, keeps)
