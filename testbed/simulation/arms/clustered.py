"""Clustered federated learning from the literature."""

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]
from scipy.cluster.vq import kmeans2  # type: ignore[import-untyped]
from scipy.spatial.distance import squareform  # type: ignore[import-untyped]

from testbed.simulation.arms.plain import Settings
from testbed.simulation.bench import Bench, Indices, Outcome
from testbed.simulation.fleet import PADDING
from testbed.simulation.local import LocalSettings
from testbed.simulation.net import Floats

Labels = npt.NDArray[np.int64]

_TINY = 1e-12


def cfl(bench: Bench, s: Settings) -> Outcome:
    """Sattler et al. 2019: bipartition by the cosine of updates once a cluster's mean update is small.

    The criterion is relative (mean update below ``eps1`` and largest above ``eps2`` times the first round's), since
    absolute thresholds depend on the model.
    """
    settings = LocalSettings(s["lr"])
    clusters: list[Indices] = [bench.everyone]
    models = [bench.initial]
    scale = 0.0
    for number in range(bench.budget.rounds):
        if number == bench.budget.rounds // 2:
            bench.drift()
        next_clusters: list[Indices] = []
        next_models: list[Floats] = []
        for members, theta in zip(clusters, models, strict=True):
            here = bench.present(members)
            trained = bench.train(bench.stacked(theta, len(here)), here, bench.budget.steps, settings)
            deltas = bench.tampered(trained - theta, here)
            bench.exchange(len(here))
            new, _ = bench.aggregate(theta, deltas, here)
            lengths = np.linalg.norm(deltas, axis=1)
            scale = scale or float(lengths.mean())
            small = float(np.linalg.norm(deltas.mean(axis=0))) < s["eps1"] * scale
            ready = number >= s["after"] and small and float(lengths.max()) > s["eps2"] * scale
            if ready and len(here) >= 4 and len(here) == len(members):
                for part in _bipartition(deltas):
                    next_clusters.append(members[part])
                    next_models.append(new)
            else:
                next_clusters.append(members)
                next_models.append(new)
        clusters, models = next_clusters, next_models
    return _by_cluster(bench, clusters, models)


def ifca(bench: Bench, s: Settings) -> Outcome:
    """Ghosh et al. 2020: each device trains the one of K models with the least loss on its rows.

    K downloads a round: with equal bytes ``2 / (K + 1)`` of the rounds, each with more steps. The first round assigns
    at random what no loss tells apart, since all models start from different weights.
    """
    k = int(s["k"])
    rounds = max(2, 2 * bench.budget.rounds // (k + 1))
    steps = bench.budget.rounds * bench.budget.steps // rounds
    settings = LocalSettings(s["lr"])
    models = np.stack([bench.net.initial(1_000 + 17 * i + int(bench.rng.integers(1 << 20))) for i in range(k)])
    if s["start"] == "devices":
        # Random weights leave all devices with the same model; models of K devices differ in what matters.
        chosen = np.sort(bench.rng.choice(bench.fleet.n, k, replace=False))
        models = bench.train(bench.stacked(bench.initial, k), chosen, steps, settings)
    choice = np.zeros(bench.fleet.n, dtype=np.int64)
    for number in range(rounds):
        if number == rounds // 2:
            bench.drift()
        choice = _least_loss(bench, models)
        here = bench.present(bench.everyone)
        trained = bench.train(models[choice[here]], here, steps, settings)
        deltas = bench.tampered(trained - models[choice[here]], here)
        bench.exchange(len(here), up=1.0, down=float(k))
        for i in range(k):
            mine = choice[here] == i
            if mine.any():
                models[i], _ = bench.aggregate(models[i], deltas[mine], here[mine])
    choice = _least_loss(bench, models)
    return Outcome(models[choice], bench.ledger, choice)


def fedgroup(bench: Bench, s: Settings) -> Outcome:
    """Duan et al. 2021: updates of one pre-training round, cosines to their top singular directions, k-means."""
    k = int(s["k"])
    settings = LocalSettings(s["lr"])
    trained = bench.train(bench.stacked(bench.initial, bench.fleet.n), bench.everyone, bench.budget.steps, settings)
    deltas = bench.tampered(trained - bench.initial, bench.everyone)
    bench.exchange(bench.fleet.n)
    with bench.gateway_work():
        unit = deltas / np.maximum(np.linalg.norm(deltas, axis=1, keepdims=True), _TINY)
        _, _, directions = np.linalg.svd(deltas, full_matrices=False)
        embedded = (unit @ directions[:k].T).astype(np.float64)
        _, labels = kmeans2(embedded, k, minit="++", rng=bench.rng)
    return _train_clusters(bench, np.asarray(labels, dtype=np.int64), settings, bench.budget.rounds - 1)


def pacfl(bench: Bench, s: Settings) -> Outcome:
    """Vahidian et al. 2023: principal angles between bases of the devices' rows per class, average linkage."""
    share = bench.fleet.train
    with bench.gateway_work():
        bases = [_basis(x[y != PADDING], y[y != PADDING]) for x, y in zip(share.x, share.y, strict=True)]
        n = len(bases)
        angles = np.zeros((n, n))
        for i in range(n):
            for j in range(i):
                inner = np.clip(np.linalg.svd(bases[i].T @ bases[j], compute_uv=False), -1.0, 1.0)
                angles[i, j] = angles[j, i] = np.degrees(np.arccos(inner)).mean()
        tree = linkage(squareform(angles, checks=False), method="average")
        cut = float(np.quantile(tree[:, 2], s["quantile"]))
        labels = fcluster(tree, cut, criterion="distance").astype(np.int64) - 1
    return _train_clusters(bench, labels, LocalSettings(s["lr"]), bench.budget.rounds)


def _train_clusters(bench: Bench, labels: Labels, settings: LocalSettings, rounds: int) -> Outcome:
    clusters = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    models = [bench.initial for _ in clusters]
    for number in range(rounds):
        if number == bench.budget.rounds // 2:
            bench.drift()
        for i, members in enumerate(clusters):
            models[i], _ = bench.round(models[i], members, bench.budget.steps, settings)
    return _by_cluster(bench, clusters, models)


def _by_cluster(bench: Bench, clusters: list[Indices], models: list[Floats]) -> Outcome:
    theta = np.empty((bench.fleet.n, bench.net.n_parameters), dtype=np.float32)
    labels = np.empty(bench.fleet.n, dtype=np.int64)
    for i, (members, model) in enumerate(zip(clusters, models, strict=True)):
        theta[members] = model
        labels[members] = i
    return Outcome(theta, bench.ledger, labels)


def _bipartition(deltas: Floats) -> list[Labels]:
    unit = deltas / np.maximum(np.linalg.norm(deltas, axis=1, keepdims=True), _TINY)
    distances = np.clip(1.0 - unit @ unit.T, 0.0, 2.0).astype(np.float64)
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), method="complete")
    labels = fcluster(tree, 2, criterion="maxclust")
    return [np.flatnonzero(labels == k) for k in np.unique(labels)]


def _least_loss(bench: Bench, models: Floats) -> Labels:
    share = bench.fleet.train
    losses = np.empty((len(models), bench.fleet.n))
    for i, model in enumerate(models):
        probs = bench.net.probabilities(bench.stacked(model, bench.fleet.n), share.x)
        own = np.take_along_axis(probs, np.maximum(share.y, 0)[:, :, None], axis=2)[:, :, 0]
        known = share.y != PADDING
        losses[i] = (-np.log(np.maximum(own, 1e-7)) * known).sum(axis=1) / known.sum(axis=1)
    return np.asarray(losses.argmin(axis=0), dtype=np.int64)


def _basis(x: Floats, y: npt.NDArray[np.int32], per_class: int = 3) -> npt.NDArray[np.float64]:
    """Return an orthonormal basis of the leading directions of each class, shape ``(D, r)``."""
    parts = []
    for c in np.unique(y):
        rows = x[y == c].astype(np.float64)
        left, _, _ = np.linalg.svd(rows.T, full_matrices=False)
        parts.append(left[:, : min(per_class, left.shape[1])])
    basis, _ = np.linalg.qr(np.concatenate(parts, axis=1))
    result: npt.NDArray[np.float64] = basis[:, : x.shape[1] // 2]
    return result
