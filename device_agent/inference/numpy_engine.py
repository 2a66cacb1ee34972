"""The NumPy engine: for boards without a LiteRT wheel, and the oracle of the tests."""

from typing import Any

import numpy as np
import numpy.typing as npt

from contract.layout import Layout
from device_agent.inference.engine import Evaluation, Floats, Gradient, Inference, Labels, check_shapes

_EPSILON = 1e-6
_CHUNK_ROWS = 1024

Real = npt.NDArray[np.floating[Any]]
Layers = list[tuple[Real, Real]]


class NumpyEngine:
    """Engine in plain NumPy; takes batches of any size and computes in the dtype of its inputs.

    Parameters
    ----------
    layout
        The architecture.

    Notes
    -----
    float64 inputs give a float64 gradient, which the tests compare with numerical differentiation.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._cuts = list(layout.slices().values())
        self._depth = len(layout.hidden)

    @property
    def layout(self) -> Layout:
        """The architecture."""
        return self._layout

    @property
    def name(self) -> str:
        """``numpy``."""
        return "numpy"

    def gradient(self, theta: Floats, x: Floats, y: Labels, wc: Floats, wr: Floats, *, recon_weight: float) -> Gradient:
        """Return the gradient of one batch; see :class:`~device_agent.inference.engine.Engine`."""
        check_shapes(self._layout, theta, x, y, wc, wr)
        layers = self._layers(theta)
        hidden, logits, decoded = self._forward(layers, x)
        onehot, wc_known = self._labels(y, wc)
        scale_c = wc_known / max(wc_known.sum(), _EPSILON)
        scale_r = wr / max(wr.sum(), _EPSILON)
        log_probs = _log_softmax(logits)
        residual = decoded[-1] - x
        loss_class = float(-((onehot * log_probs).sum(axis=1) * scale_c).sum())
        loss_recon = float(((residual * residual).mean(axis=1) * scale_r).sum())

        d_logits = (np.exp(log_probs) - onehot) * scale_c[:, None]
        delta = residual * (2.0 / self._layout.inputs * recon_weight) * scale_r[:, None]
        grad = np.empty_like(theta)
        for index in range(len(layers) - 1, self._depth, -1):
            incoming = decoded[index - self._depth - 1]
            self._put(grad, index, incoming, delta)
            delta = delta @ layers[index][0].T
            if index > self._depth + 1:
                delta = np.where(incoming > 0.0, delta, 0.0)
        self._put(grad, self._depth, hidden[-1], d_logits)
        delta = delta + d_logits @ layers[self._depth][0].T
        for index in range(self._depth - 1, -1, -1):
            delta = np.where(hidden[index + 1] > 0.0, delta, 0.0)
            self._put(grad, index, hidden[index], delta)
            if index:
                delta = delta @ layers[index][0].T
        return Gradient(grad, loss_class, loss_recon)

    def infer(self, theta: Floats, x: Floats) -> Inference:
        """Return probabilities and errors; see :class:`~device_agent.inference.engine.Engine`."""
        check_shapes(self._layout, theta, x)
        layers = self._layers(theta)
        probs = np.empty((len(x), self._layout.classes), dtype=np.float32)
        err = np.empty(len(x), dtype=np.float32)
        for start in range(0, len(x), _CHUNK_ROWS):  # activations of one chunk stay in the cache
            rows = slice(start, start + _CHUNK_ROWS)
            self._score(layers, x[rows], probs[rows], err[rows])
        return Inference(probs, err)

    def _score(self, layers: Layers, x: Real, probs: Real, err: Real) -> None:
        """Write what :meth:`infer` returns for a few rows; no activation is kept, and arrays are reused."""
        hidden = x
        for weight, bias in layers[: self._depth]:
            hidden = hidden @ weight
            hidden += bias
            np.maximum(hidden, 0.0, out=hidden)
        weight, bias = layers[self._depth]
        np.matmul(hidden, weight, out=probs)
        probs += bias
        probs -= probs.max(axis=1, keepdims=True)
        np.exp(probs, out=probs)
        probs /= probs.sum(axis=1, keepdims=True)
        for weight, bias in layers[self._depth + 1 : -1]:
            hidden = hidden @ weight
            hidden += bias
            np.maximum(hidden, 0.0, out=hidden)
        weight, bias = layers[-1]
        residual = hidden @ weight
        residual += bias
        residual -= x
        np.einsum("ij,ij->i", residual, residual, out=err)
        err /= self._layout.inputs

    def evaluate(self, theta: Floats, x: Floats, y: Labels, wc: Floats, wr: Floats) -> Evaluation:
        """Return sums over rows; see :class:`~device_agent.inference.engine.Engine`."""
        check_shapes(self._layout, theta, x, y, wc, wr)
        _, logits, decoded = self._forward(self._layers(theta), x)
        onehot, wc_known = self._labels(y, wc)
        row_class = -(onehot * _log_softmax(logits)).sum(axis=1)
        row_recon = np.square(decoded[-1] - x).mean(axis=1)
        confusion = np.zeros((self._layout.classes, self._layout.classes))
        counted = wc_known > 0.0
        np.add.at(confusion, (y[counted], logits[counted].argmax(axis=1)), 1.0)
        return Evaluation(
            loss_class_sum=float((row_class * wc_known).sum()),
            wc_sum=float(wc_known.sum()),
            loss_recon_sum=float((row_recon * wr).sum()),
            wr_sum=float(wr.sum()),
            confusion=confusion,
        )

    def _layers(self, theta: Real) -> Layers:
        tensors = [theta[where].reshape(shape) for where, shape in self._cuts]
        return list(zip(tensors[::2], tensors[1::2], strict=True))

    def _forward(self, layers: Layers, x: Real) -> tuple[list[Real], Real, list[Real]]:
        """Return activations of the encoder (input first), the logits, activations of the decoder."""
        hidden = [x]
        for weight, bias in layers[: self._depth]:
            hidden.append(np.maximum(hidden[-1] @ weight + bias, 0.0))
        weight, bias = layers[self._depth]
        logits = hidden[-1] @ weight + bias
        decoded = [hidden[-1]]
        for index in range(self._depth + 1, len(layers)):
            weight, bias = layers[index]
            z = decoded[-1] @ weight + bias
            decoded.append(z if index == len(layers) - 1 else np.maximum(z, 0.0))
        return hidden, logits, decoded

    def _labels(self, y: Labels, wc: Real) -> tuple[Real, Real]:
        """Return one-hot labels and class weights that are 0 where the label names no class."""
        known = (y >= 0) & (y < self._layout.classes)
        onehot = np.zeros((len(y), self._layout.classes), dtype=wc.dtype)
        rows = np.flatnonzero(known)
        onehot[rows, y[rows]] = 1.0
        return onehot, np.where(known, wc, wc.dtype.type(0.0))

    def _put(self, grad: Real, layer: int, incoming: Real, delta: Real) -> None:
        """Write the gradients of one dense layer to their places."""
        grad[self._cuts[2 * layer][0]] = (incoming.T @ delta).ravel()
        grad[self._cuts[2 * layer + 1][0]] = delta.sum(axis=0)


def _log_softmax(logits: Real) -> Real:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Real = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
