"""The one interface to the model's mathematics, and its result types."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from contract.layout import Layout
from contract.taxonomy import BENIGN_INDEX

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Gradient:
    """Gradient of the joint loss of one batch.

    Attributes
    ----------
    grad
        Shape ``(P,)``, float32: of ``loss_class + recon_weight * loss_recon``.
    loss_class
        ``sum(wc * (1 - p)^gamma * cross entropy) / max(sum(wc), 1e-6)`` with ``p`` the probability of the true class;
        0 without a classifier.
    loss_recon
        ``sum(wr * mean_D((z - x)^2)) / max(sum(wr), 1e-6)``; 0 without a decoder.
    """

    grad: Floats
    loss_class: float
    loss_recon: float


@dataclass(frozen=True, slots=True)
class Inference:
    """What the model says about rows.

    Attributes
    ----------
    probs
        Shape ``(n, K)``, float32, rows sum to 1; all benign where the net has no classifier.
    err
        Shape ``(n,)``, float32: mean squared reconstruction error over the features; 0 without a decoder.
    """

    probs: Floats
    err: Floats


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Sums over rows; the sums of two row sets add up to those of their union.

    Attributes
    ----------
    loss_class_sum, wc_sum, loss_recon_sum, wr_sum
        Weighted losses of both heads and the sums of their weights.
    confusion
        Shape ``(K, K)``, float64 holding counts: rows are the truth, columns the most probable class; a row counts
        when its label names a class and its class weight is positive.
    """

    loss_class_sum: float
    wc_sum: float
    loss_recon_sum: float
    wr_sum: float
    confusion: npt.NDArray[np.float64]


class Engine(Protocol):
    """Stateless mathematics of one architecture; weights come in with every call and are never written.

    Rows are model inputs (``contract.transform``), finite float32. A label outside ``0..K-1`` (an unlabelled row is
    -1) counts with class weight 0. An engine belongs to one thread: two threads need two engines.
    """

    @property
    def layout(self) -> Layout:
        """The architecture."""

    @property
    def name(self) -> str:
        """``litert`` or ``numpy``."""

    def gradient(
        self,
        theta: Floats,
        x: Floats,
        y: Labels,
        wc: Floats,
        wr: Floats,
        *,
        recon_weight: float,
        gamma: float = 0.0,
    ) -> Gradient:
        """Return the gradient of one batch of 1 to ``layout.train_batch`` rows.

        Parameters
        ----------
        theta
            Shape ``(P,)``.
        x
            Shape ``(n, D)``.
        y
            Shape ``(n,)``, int32.
        wc, wr
            Shape ``(n,)``: weights of the rows in the classification and the reconstruction loss, >= 0.
        recon_weight
            Factor of the reconstruction loss, >= 0.
        gamma
            Focal exponent of the classification loss, >= 0; 0 is plain cross entropy.

        Raises
        ------
        ValueError
            If a shape does not fit the layout.
        """

    def infer(self, theta: Floats, x: Floats) -> Inference:
        """Return probabilities and reconstruction errors of any number of rows, also none.

        Raises
        ------
        ValueError
            If a shape does not fit the layout.
        """

    def evaluate(self, theta: Floats, x: Floats, y: Labels, wc: Floats, wr: Floats) -> Evaluation:
        """Return loss sums and the confusion matrix of any number of rows, also none.

        Raises
        ------
        ValueError
            If a shape does not fit the layout.
        """


def as_inference(
    layout: Layout, rows: int, probs: npt.NDArray[np.floating[Any]] | None, err: npt.NDArray[np.floating[Any]] | None
) -> Inference:
    """Return what a net says about so many rows; ``None`` stands for a head that it does not have."""
    if probs is None:
        probs = np.zeros((rows, layout.classes), dtype=np.float32)
        probs[:, BENIGN_INDEX] = 1.0
    if err is None:
        err = np.zeros(rows, dtype=np.float32)
    return Inference(probs.astype(np.float32, copy=False), err.astype(np.float32, copy=False))


def check_shapes(
    layout: Layout,
    theta: npt.NDArray[np.floating[Any]],
    x: npt.NDArray[np.floating[Any]],
    *columns: npt.NDArray[np.generic],
) -> None:
    """Raise ``ValueError`` unless the weights, the rows and their columns fit the layout and each other."""
    if theta.shape != (layout.n_parameters,):
        raise ValueError(f"weights have shape {theta.shape}, the layout wants ({layout.n_parameters},)")
    if x.ndim != 2 or x.shape[1] != layout.inputs:
        raise ValueError(f"rows have shape {x.shape}, the layout wants (n, {layout.inputs})")
    for column in columns:
        if column.shape != (len(x),):
            raise ValueError(f"a column has shape {column.shape} beside {len(x)} rows")
