"""The NumPy engine: for detection, for boards without a LiteRT wheel, and the oracle of the tests."""

import numpy as np

from contract.layout import Layout
from device_agent.inference.engine import Evaluation, Floats, Gradient, Inference, Labels, as_inference, check_shapes
from device_agent.inference.scoring import CHUNK_ROWS, Layers, Real, ScoringPlan

_EPSILON = 1e-6


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
        n_layers = len(self._cuts) // 2
        self._classifier = self._depth if layout.classifies else None
        self._decoder = range(self._depth + layout.classifies, n_layers)
        self._planned_theta: Real | None = None
        self._cut_theta: Real | None = None
        self._pieces: Layers = []
        self._kept_plan: ScoringPlan

    @property
    def layout(self) -> Layout:
        """The architecture."""
        return self._layout

    @property
    def name(self) -> str:
        """``numpy``."""
        return "numpy"

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
        """Return the gradient of one batch; see :class:`~device_agent.inference.engine.Engine`."""
        check_shapes(self._layout, theta, x, y, wc, wr)
        layers = self._layers(theta)
        hidden = self._encode(layers, x)
        grad = np.empty_like(theta)
        delta = np.zeros_like(hidden[-1])
        loss_class = loss_recon = 0.0
        if len(self._decoder):
            decoded = self._decode(layers, hidden[-1])
            scale_r = wr / max(wr.sum(), _EPSILON)
            residual = decoded[-1] - x
            loss_recon = float(((residual * residual).mean(axis=1) * scale_r).sum())
            upstream = residual * (2.0 / self._layout.inputs * recon_weight) * scale_r[:, None]
            delta = self._descend(grad, layers, self._decoder, decoded, upstream)
        if self._classifier is not None:
            logits = hidden[-1] @ layers[self._classifier][0] + layers[self._classifier][1]
            onehot, wc_known = self._labels(y, wc)
            scale_c = wc_known / max(wc_known.sum(), _EPSILON)
            log_probs = _log_softmax(logits)
            log_p = (onehot * log_probs).sum(axis=1)
            if gamma:
                focus, slope = _focal(log_p, gamma)
                loss_class = float(-(log_p * focus * scale_c).sum())
                scale_c = scale_c * slope
            else:
                loss_class = float(-(log_p * scale_c).sum())
            d_logits = (np.exp(log_probs) - onehot) * scale_c[:, None]
            self._put(grad, self._classifier, hidden[-1], d_logits)
            delta = delta + d_logits @ layers[self._classifier][0].T
        delta = np.where(hidden[-1] > 0.0, delta, 0.0)
        self._descend(grad, layers, range(self._depth), hidden, delta)
        return Gradient(grad, loss_class, loss_recon)

    def infer(self, theta: Floats, x: Floats) -> Inference:
        """Return probabilities and errors; see :class:`~device_agent.inference.engine.Engine`."""
        check_shapes(self._layout, theta, x)
        plan = self._plan(theta)
        if len(x) <= CHUNK_ROWS:
            return as_inference(self._layout, len(x), *plan.score(x))
        probs = np.empty((len(x), self._layout.classes), dtype=np.float32)
        err = np.empty(len(x), dtype=np.float32)
        for start in range(0, len(x), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            part = as_inference(self._layout, len(x[rows]), *plan.score(x[rows]))
            probs[rows], err[rows] = part.probs, part.err
        return Inference(probs, err)

    def evaluate(self, theta: Floats, x: Floats, y: Labels, wc: Floats, wr: Floats) -> Evaluation:
        """Return sums over rows; see :class:`~device_agent.inference.engine.Engine`."""
        check_shapes(self._layout, theta, x, y, wc, wr)
        layers = self._layers(theta)
        code = self._encode(layers, x)[-1]
        row_class, row_recon = np.zeros(len(x)), np.zeros(len(x))
        onehot, wc_known = self._labels(y, wc)
        confusion = np.zeros((self._layout.classes, self._layout.classes))
        if self._classifier is not None:
            logits = code @ layers[self._classifier][0] + layers[self._classifier][1]
            row_class = -(onehot * _log_softmax(logits)).sum(axis=1)
            counted = wc_known > 0.0
            np.add.at(confusion, (y[counted], logits[counted].argmax(axis=1)), 1.0)
        if len(self._decoder):
            row_recon = np.square(self._decode(layers, code)[-1] - x).mean(axis=1)
        return Evaluation(
            loss_class_sum=float((row_class * wc_known).sum()),
            wc_sum=float(wc_known.sum()),
            loss_recon_sum=float((row_recon * wr).sum()),
            wr_sum=float(wr.sum()),
            confusion=confusion,
        )

    def _plan(self, theta: Real) -> ScoringPlan:
        """Return the matrices for scoring; they are kept for weights that cannot change behind their back."""
        if theta is not self._planned_theta or theta.flags.writeable:
            layers = self._layers(theta)
            classifier = None if self._classifier is None else layers[self._classifier]
            self._kept_plan = ScoringPlan(layers[: self._depth], classifier, [layers[index] for index in self._decoder])
            self._planned_theta = theta
        return self._kept_plan

    def _layers(self, theta: Real) -> Layers:
        if theta is not self._cut_theta:  # the pieces are views: they follow a vector that is trained in place
            tensors = [theta[where].reshape(shape) for where, shape in self._cuts]
            self._pieces = list(zip(tensors[::2], tensors[1::2], strict=True))
            self._cut_theta = theta
        return self._pieces

    def _encode(self, layers: Layers, x: Real) -> list[Real]:
        """Return the activations of the encoder, input first."""
        hidden = [x]
        for weight, bias in layers[: self._depth]:
            hidden.append(np.maximum(hidden[-1] @ weight + bias, 0.0))
        return hidden

    def _decode(self, layers: Layers, code: Real) -> list[Real]:
        """Return the activations of the decoder, the code first; the last layer is linear."""
        decoded = [code]
        for index in self._decoder:
            weight, bias = layers[index]
            z = decoded[-1] @ weight + bias
            decoded.append(z if index == self._decoder[-1] else np.maximum(z, 0.0))
        return decoded

    def _labels(self, y: Labels, wc: Real) -> tuple[Real, Real]:
        """Return one-hot labels and class weights that are 0 where the label names no class."""
        known = (y >= 0) & (y < self._layout.classes)
        onehot = np.zeros((len(y), self._layout.classes), dtype=wc.dtype)
        rows = np.flatnonzero(known)
        onehot[rows, y[rows]] = 1.0
        return onehot, np.where(known, wc, wc.dtype.type(0.0))

    def _descend(self, grad: Real, layers: Layers, span: range, activations: list[Real], delta: Real) -> Real:
        """Write the gradients of a stack of layers; return that of the stack's input, before any ReLU."""
        for position in reversed(range(len(span))):
            index = span[position]
            self._put(grad, index, activations[position], delta)
            if index == 0:
                return delta  # nobody wants the gradient at the rows
            delta = delta @ layers[index][0].T
            if position:
                delta = np.where(activations[position] > 0.0, delta, 0.0)
        return delta

    def _put(self, grad: Real, layer: int, incoming: Real, delta: Real) -> None:
        """Write the gradients of one dense layer to their places."""
        grad[self._cuts[2 * layer][0]] = (incoming.T @ delta).ravel()
        grad[self._cuts[2 * layer + 1][0]] = delta.sum(axis=0)


def _focal(log_p: Real, gamma: float) -> tuple[Real, Real]:
    """Return ``(1 - p)^gamma`` and the factor that it puts on the gradient at the logits."""
    p = np.exp(log_p)
    rest = np.maximum(1.0 - p, log_p.dtype.type(_EPSILON))
    focus = np.exp(gamma * np.log(rest))
    return focus, focus * (1.0 - gamma * p * log_p / rest)


def _log_softmax(logits: Real) -> Real:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Real = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
