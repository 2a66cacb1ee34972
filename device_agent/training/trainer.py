"""The training loop: pure, seeded, on any engine."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from contract.taxonomy import BENIGN_INDEX, UNLABELLED
from device_agent.inference.engine import Engine, Floats, Labels
from device_agent.training.absent import absent_offset, shifted
from device_agent.training.checkpoint import Checkpoint
from device_agent.training.optimizer import Optimizer, OptimizerSettings

_BLOCK_BATCHES = 64
"""Batches whose rows are gathered at once."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How to train.

    Attributes
    ----------
    epochs
        Passes over the rows, 1 to 100.
    recon_weight
        Factor of the reconstruction loss, >= 0.
    seed
        Of the shuffling; the same seed, rows and engine give the same weights.
    class_weight_cap
        Largest ratio of two class weights, >= 1; 1 switches class weights off.
    focal_gamma
        Focal exponent of the classification loss, 0 to 10; 0 is plain cross entropy.
    max_steps
        Upper bound on steps, 0 = none.
    mask_absent
        Whether the classification loss is taken over the classes that the rows have, so that a device says nothing
        about classes it never saw (``device_agent.training.absent``).
    optimizer
        Settings of the optimiser.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    epochs: int = 2
    recon_weight: float = 0.5
    seed: int = 0
    class_weight_cap: float = 10.0
    focal_gamma: float = 0.0
    max_steps: int = 0
    mask_absent: bool = False
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    def __post_init__(self) -> None:
        if not 1 <= self.epochs <= 100:
            raise ValueError(f"epochs {self.epochs} is outside 1..100")
        if not 0.0 <= self.recon_weight <= 100.0:
            raise ValueError(f"recon_weight {self.recon_weight} is outside [0, 100]")
        if not 1.0 <= self.class_weight_cap <= 1e6:
            raise ValueError(f"class_weight_cap {self.class_weight_cap} is outside [1, 1e6]")
        if not 0.0 <= self.focal_gamma <= 10.0:
            raise ValueError(f"focal_gamma {self.focal_gamma} is outside [0, 10]")
        if self.seed < 0 or self.max_steps < 0:
            raise ValueError("seed and max_steps are not negative")


@dataclass(frozen=True, slots=True)
class TrainData:
    """Rows to train on.

    Attributes
    ----------
    x
        Shape ``(n, D)``, float32, finite model inputs.
    y
        Shape ``(n,)``, int32: class index, or -1 for an unlabelled row.
    """

    x: Floats
    y: Labels


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What came out.

    Attributes
    ----------
    theta
        Shape ``(P,)``, float32, finite; the starting point if the training diverged.
    steps, skipped_steps
        Steps taken, and batches left out because their gradient was not finite.
    losses
        Joint training loss of every epoch begun: mean over its batches.
    diverged
        The weights were not finite at the end, or no batch gave a step.
    stopped
        The loop was told to stop before its end; ``theta`` is what it had by then.
    """

    theta: Floats
    steps: int
    skipped_steps: int
    losses: tuple[float, ...]
    diverged: bool
    stopped: bool


def class_weights(y: Labels, classes: int, *, cap: float) -> npt.NDArray[np.float32]:
    """Return a weight per class: inverse square root of its frequency, capped, with mean 1 over the labelled rows.

    Parameters
    ----------
    y
        Labels; -1 is left out.
    classes
        K.
    cap
        Largest ratio of two weights.

    Returns
    -------
    numpy.ndarray
        Shape ``(K,)``, float32; 0 for classes without rows.
    """
    counts = np.bincount(y[y >= 0], minlength=classes).astype(np.float64)
    present = counts > 0
    weights = np.zeros(classes)
    if present.any():
        weights[present] = np.minimum(np.sqrt(counts.max() / counts[present]), cap)
        weights *= counts.sum() / (weights * counts).sum()
    return weights.astype(np.float32)


def row_weights(y: Labels, classes: int, *, cap: float) -> tuple[Floats, Floats]:
    """Return the weights of rows in both losses.

    Returns
    -------
    wc
        Shape ``(n,)``: the class weight, 0 for unlabelled rows.
    wr
        Shape ``(n,)``: 1 for benign and unlabelled rows, 0 for attacks: the reconstruction learns normal traffic.
    """
    by_class = class_weights(y, classes, cap=cap)
    wc = np.where(y >= 0, by_class[np.maximum(y, 0)], np.float32(0.0))
    wr = ((y == BENIGN_INDEX) | (y == UNLABELLED)).astype(np.float32)
    return wc, wr


def check_rows(data: TrainData, classes: int) -> None:
    """Raise ``ValueError`` for rows that must not be trained on: no rows, odd labels, values not finite."""
    if not len(data.x):
        raise ValueError("there are no rows to train on")
    if data.y.shape != (len(data.x),):
        raise ValueError(f"{len(data.x)} rows have labels of shape {data.y.shape}")
    if data.y.min() < UNLABELLED or data.y.max() >= classes:
        raise ValueError(f"labels {data.y.min()}..{data.y.max()} are outside -1..{classes - 1}")
    if not np.isfinite(data.x).all():
        raise ValueError("rows hold values that are not finite")


def train(
    engine: Engine,
    theta0: Floats,
    data: TrainData,
    settings: TrainSettings,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    resume: Checkpoint | None = None,
    on_epoch: Callable[[Callable[[], Checkpoint]], None] = lambda _: None,
) -> TrainResult:
    """Train from ``theta0``.

    Parameters
    ----------
    engine
        Does the mathematics; its layout fixes the batch size.
    theta0
        Shape ``(P,)``, float32, finite; not written.
    data
        Rows; they are not written.
    settings
        How to train.
    should_stop
        Asked before every batch.
    resume
        State after some epochs of a training with the same engine, weights, rows and settings; the result is that of
        the training that was never interrupted.
    on_epoch
        Told after every whole epoch; what it is given makes the checkpoint, which costs copies of three vectors.

    Returns
    -------
    TrainResult
        Weights and figures.

    Raises
    ------
    ValueError
        If rows, weights or the saved state are not fit to train with.
    """
    check_rows(data, engine.layout.classes)
    if not np.isfinite(theta0).all():
        raise ValueError("the starting weights hold values that are not finite")
    wc, wr = row_weights(data.y, engine.layout.classes, cap=settings.class_weight_cap)
    classes = engine.layout.classes
    offset = absent_offset(data.y, classes) if settings.mask_absent else np.zeros(classes, dtype=np.float32)
    masked = bool(offset.any())
    rng = np.random.default_rng(settings.seed)
    optimizer = Optimizer(theta0, settings.optimizer)
    losses: list[float] = []
    stopped = False
    done = 0
    if resume is not None:
        optimizer.restore(resume.theta, (resume.m, resume.v), resume.steps, resume.skipped)
        losses, done = list(resume.losses), resume.epochs
        for _ in range(done):
            rng.permutation(len(data.x))
    for epoch in range(done, settings.epochs):
        total, batches = 0.0, 0
        order = rng.permutation(len(data.x))
        for batch in _batches((data.x, data.y, wc, wr), order, engine.layout.train_batch):
            if should_stop() or (settings.max_steps and optimizer.steps >= settings.max_steps):
                stopped = True
                break
            out = engine.gradient(
                shifted(optimizer.theta, offset, engine.layout) if masked else optimizer.theta,
                *batch,
                recon_weight=settings.recon_weight,
                gamma=settings.focal_gamma,
            )
            if optimizer.step(out.grad):
                total += out.loss_class + settings.recon_weight * out.loss_recon
                batches += 1
        if batches:
            losses.append(total / batches)
        if stopped:
            break
        on_epoch(partial(_checkpoint, epoch + 1, optimizer, tuple(losses)))
    # Stopped before the first batch is no divergence: nothing was tried.
    tried = optimizer.steps + optimizer.skipped > 0
    diverged = not np.isfinite(optimizer.theta).all() or (tried and optimizer.steps == 0)
    return TrainResult(
        theta=theta0.copy() if diverged else optimizer.theta,
        steps=optimizer.steps,
        skipped_steps=optimizer.skipped,
        losses=tuple(losses),
        diverged=bool(diverged),
        stopped=stopped,
    )


def _checkpoint(epochs: int, optimizer: Optimizer, losses: tuple[float, ...]) -> Checkpoint:
    m, v = optimizer.moments()
    return Checkpoint(epochs, optimizer.theta.copy(), m, v, optimizer.steps, optimizer.skipped, losses)


def _batches(
    columns: tuple[Floats, Labels, Floats, Floats], order: npt.NDArray[np.int64], size: int
) -> Iterator[tuple[Floats, Labels, Floats, Floats]]:
    """Yield the rows in this order by so many at a time; they are gathered by larger blocks, which is faster."""
    x_all, y_all, wc_all, wr_all = columns
    for start in range(0, len(order), size * _BLOCK_BATCHES):
        rows = order[start : start + size * _BLOCK_BATCHES]
        x, y, wc, wr = x_all.take(rows, axis=0), y_all[rows], wc_all[rows], wr_all[rows]
        for at in range(0, len(rows), size):
            batch = slice(at, at + size)
            yield x[batch], y[batch], wc[batch], wr[batch]
