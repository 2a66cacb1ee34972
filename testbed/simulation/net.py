"""The model of the devices for many devices at once: a stack of weight vectors in, a stack of gradients out."""

from typing import Any

import numpy as np
import numpy.typing as npt

from contract.initial import initial_theta
from contract.layout import Layout

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Real = npt.NDArray[np.floating[Any]]

_EPSILON = 1e-6
_CHUNK_DEVICES = 64


class BatchedNet:
    """The two-headed net of the contract on stacked weights; the same mathematics as the device's NumPy engine.

    Parameters
    ----------
    layout
        Architecture.
    decoder
        Whether the reconstruction head takes part. Without it the weights are the leading part of the flat vector:
        encoder and classifier.
    """

    def __init__(self, layout: Layout, *, decoder: bool = False) -> None:
        self.layout = layout
        self._depth = len(layout.hidden)
        layers = 2 * (len(layout.layers()) if decoder else self._depth + 1)
        self._cuts = list(layout.slices().values())[:layers]
        self.n_parameters = int(self._cuts[-1][0].stop)
        self.head = slice(int(self._cuts[2 * self._depth][0].start), int(self._cuts[2 * self._depth + 1][0].stop))
        self._decoder = decoder

    def initial(self, seed: int) -> Floats:
        """Return initial weights, shape ``(P,)``."""
        return initial_theta(self.layout, seed)[: self.n_parameters]

    def gradient(
        self,
        theta: Floats,
        x: Floats,
        y: Labels,
        wc: Floats,
        wr: Floats | None = None,
        *,
        recon_weight: float = 0.0,
        offset: Floats | None = None,
    ) -> Floats:
        """Return the gradient of each device's batch.

        Parameters
        ----------
        theta
            Shape ``(n, P)``.
        x, y
            Shapes ``(n, b, D)`` and ``(n, b)``; a label of -1 has class weight 0.
        wc, wr
            Shape ``(n, b)``: weights in both losses; ``wr`` only with a decoder.
        recon_weight
            Factor of the reconstruction loss.
        offset
            Shape ``(n, K)``: added to the logits of each device.

        Returns
        -------
        numpy.ndarray
            Shape ``(n, P)``.
        """
        layers = self._layers(theta)
        hidden, logits = self._encode(layers, x)
        if offset is not None:
            logits += offset[:, None, :]
        known = y >= 0
        wc_known = np.where(known, wc, np.float32(0.0))
        scale = wc_known / np.maximum(wc_known.sum(axis=1, keepdims=True), _EPSILON)
        delta_logits = _softmax(logits)
        device, row = np.nonzero(known)
        delta_logits[device, row, y[device, row]] -= 1.0
        delta_logits *= scale[:, :, None]
        grad = np.empty_like(theta)
        back = delta_logits @ layers[self._depth][0].transpose(0, 2, 1)
        self._put(grad, self._depth, hidden[-1], delta_logits)
        if self._decoder and wr is not None:
            back = back + self._decode_back(grad, layers, hidden[-1], x, wr, recon_weight)
        for index in range(self._depth - 1, -1, -1):
            back *= hidden[index + 1] > 0.0
            self._put(grad, index, hidden[index], back)
            if index:
                back = back @ layers[index][0].transpose(0, 2, 1)
        return grad

    def probabilities(self, theta: Floats, x: Floats) -> Floats:
        """Return class probabilities, shape ``(n, m, K)``, of rows ``(n, m, D)`` under weights ``(n, P)``."""
        parts = []
        for start in range(0, len(theta), _CHUNK_DEVICES):  # activations of a chunk stay small
            some = slice(start, start + _CHUNK_DEVICES)
            parts.append(_softmax(self._encode(self._layers(theta[some]), x[some])[1]))
        return np.concatenate(parts)

    def _layers(self, theta: Real) -> list[tuple[Real, Real]]:
        tensors = [theta[:, where].reshape(len(theta), *shape) for where, shape in self._cuts]
        return list(zip(tensors[::2], tensors[1::2], strict=True))

    def _encode(self, layers: list[tuple[Real, Real]], x: Real) -> tuple[list[Real], Real]:
        hidden = [x]
        for weight, bias in layers[: self._depth]:
            z = hidden[-1] @ weight
            z += bias[:, None, :]
            hidden.append(np.maximum(z, 0.0, out=z))
        weight, bias = layers[self._depth]
        logits = hidden[-1] @ weight
        logits += bias[:, None, :]
        return hidden, logits

    def _decode_back(
        self, grad: Real, layers: list[tuple[Real, Real]], code: Real, x: Real, wr: Real, recon_weight: float
    ) -> Real:
        """Write the decoder's gradients; return the one that flows back into the code."""
        decoded = [code]
        for index in range(self._depth + 1, len(layers)):
            weight, bias = layers[index]
            z = decoded[-1] @ weight + bias[:, None, :]
            decoded.append(z if index == len(layers) - 1 else np.maximum(z, 0.0))
        scale = wr / np.maximum(wr.sum(axis=1, keepdims=True), _EPSILON)
        delta: Real = (decoded[-1] - x) * np.float32(2.0 / self.layout.inputs * recon_weight) * scale[:, :, None]
        for index in range(len(layers) - 1, self._depth, -1):
            incoming = decoded[index - self._depth - 1]
            self._put(grad, index, incoming, delta)
            delta = delta @ layers[index][0].transpose(0, 2, 1)
            if index > self._depth + 1:
                delta = np.where(incoming > 0.0, delta, np.float32(0.0))
        return delta

    def _put(self, grad: Real, layer: int, incoming: Real, delta: Real) -> None:
        """Write the gradients of one dense layer of all devices to their places."""
        n = len(grad)
        grad[:, self._cuts[2 * layer][0]] = (incoming.transpose(0, 2, 1) @ delta).reshape(n, -1)
        grad[:, self._cuts[2 * layer + 1][0]] = delta.sum(axis=1)


def _softmax(logits: Real) -> Real:
    z: Real = logits - logits.max(axis=-1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=-1, keepdims=True)
    return z
