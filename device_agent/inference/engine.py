"""The one interface to the model's mathematics, and its result types."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from contract.model import ModelSpec

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
        ``sum(wc * cross entropy) / max(sum(wc), 1e-6)``.
    loss_recon
        ``sum(wr * mean_D((z - x)^2)) / max(sum(wr), 1e-6)``.
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
        Shape ``(n, K)``, float32, rows sum to 1.
    err
        Shape ``(n,)``, float32: mean squared reconstruction error over the features.
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
    """Stateless mathematics of one spec; weights come in with every call and are never written.

    Rows are model inputs (``contract.transform``), finite float32. A label outside ``0..K-1`` (an unlabelled row is
    -1) counts with class weight 0. An engine belongs to one thread: two threads need two engines.
    """

    @property
    def spec(self) -> ModelSpec:
        """The architecture."""

    @property
    def name(self) -> str:
        """``litert`` or ``numpy``."""

    def gradient(
        self, theta: Floats, x: Floats, y: Labels, wc: Floats, wr: Floats, recon_weight: float
    ) -> Gradient:
        """Return the gradient of one batch of 1 to ``spec.train_batch`` rows.

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

        Raises
        ------
        ValueError
            If a shape does not fit the spec.
        """

    def infer(self, theta: Floats, x: Floats) -> Inference:
        """Return probabilities and reconstruction errors of any number of rows, also none.

        Raises
        ------
        ValueError
            If a shape does not fit the spec.
        """

    def evaluate(self, theta: Floats, x: Floats, y: Labels, wc: Floats, wr: Floats) -> Evaluation:
        """Return loss sums and the confusion matrix of any number of rows, also none.

        Raises
        ------
        ValueError
            If a shape does not fit the spec.
        """


def check_shapes(spec: ModelSpec, theta: npt.NDArray[np.floating], x: npt.NDArray[np.floating], *columns: npt.NDArray[np.generic]) -> None:
    """Raise ``ValueError`` unless the weights, the rows and their columns fit the spec and each other."""
    if theta.shape != (spec.n_parameters,):
        raise ValueError(f"weights have shape {theta.shape}, the spec wants ({spec.n_parameters},)")
    if x.ndim != 2 or x.shape[1] != spec.inputs:
        raise ValueError(f"rows have shape {x.shape}, the spec wants (n, {spec.inputs})")
    for column in columns:
        if column.shape != (len(x),):
            raise ValueError(f"a column has shape {column.shape} beside {len(x)} rows")
