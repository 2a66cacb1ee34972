"""Builds the stateless ``.tflite`` artifact of a model spec; the only module that loads TensorFlow.

The graph holds the signatures ``grad``, ``infer`` and ``evaluate`` and no variable: weights come in as one flat
vector. The backward pass is written by hand, since the gradients of ``relu`` and of broadcasting have no built-in
operator; the weight vector is cut with ``tf.split``, since the gradient and older kernels of slices have none either.

Run as ``python -m gateway.conversion.builder <spec.json> <out.tflite>`` in an environment that has TensorFlow.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from contract.model import ModelSpec

_EPSILON = 1e-6


class TwoHeadGraph(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """The three signatures of one spec.

    Parameters
    ----------
    spec
        The architecture; only its widths enter the graph.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.shapes = [(a, b) for _, a, b in spec.layers()]
        self.depth = len(spec.hidden)

    def grad(  # noqa: PLR0917 - TensorFlow maps signatures by position
        self, theta: Any, x: Any, y: Any, wc: Any, wr: Any, recon_weight: Any
    ) -> dict[str, Any]:
        """Return the gradient of the joint loss and both head losses of one static batch."""
        layers = self._layers(theta)
        hidden, logits, decoded = self._forward(layers, x)
        onehot, wc = self._labels(y, wc)
        scale_c = wc / tf.maximum(tf.reduce_sum(wc), _EPSILON)
        scale_r = wr / tf.maximum(tf.reduce_sum(wr), _EPSILON)
        residual = decoded[-1] - x
        losses = {
            "loss_class": tf.reduce_sum(self._cross_entropy(onehot, logits) * scale_c),
            "loss_recon": tf.reduce_sum(tf.reduce_mean(residual * residual, -1) * scale_r),
        }
        d_logits = (tf.nn.softmax(logits) - onehot) * tf.expand_dims(scale_c, -1)
        d_recon = residual * (2.0 / self.spec.inputs) * tf.expand_dims(scale_r, -1) * recon_weight
        parts: list[list[Any]] = [[] for _ in layers]
        d_decoder = self._backward(layers, parts, range(self.depth + 1, len(layers)), decoded, d_recon)
        parts[self.depth] = self._weight_gradients(hidden[-1], d_logits)
        d_class = tf.matmul(d_logits, layers[self.depth][0], transpose_b=True)
        delta = tf.where(hidden[-1] > 0.0, d_class + d_decoder, 0.0)
        self._backward(layers, parts, range(self.depth), hidden, delta)
        return {"grad": tf.concat([p for pair in parts for p in pair], 0), **losses}

    def infer(self, theta: Any, x: Any) -> dict[str, Any]:
        """Return class probabilities and the reconstruction error of every row."""
        _, logits, decoded = self._forward(self._layers(theta), x)
        residual = decoded[-1] - x
        return {"probs": tf.nn.softmax(logits), "err": tf.reduce_mean(residual * residual, -1)}

    def evaluate(self, theta: Any, x: Any, y: Any, wc: Any, wr: Any) -> dict[str, Any]:
        """Return loss sums, weight sums and the confusion matrix (rows: truth) of the rows."""
        _, logits, decoded = self._forward(self._layers(theta), x)
        onehot, wc = self._labels(y, wc)
        residual = decoded[-1] - x
        counted = tf.expand_dims(tf.cast(wc > 0.0, tf.float32), -1)
        predicted = tf.one_hot(tf.argmax(logits, -1, output_type=tf.int32), self.spec.classes)
        return {
            "loss_class_sum": tf.reduce_sum(self._cross_entropy(onehot, logits) * wc),
            "wc_sum": tf.reduce_sum(wc),
            "loss_recon_sum": tf.reduce_sum(tf.reduce_mean(residual * residual, -1) * wr),
            "wr_sum": tf.reduce_sum(wr),
            "confusion": tf.matmul(onehot * counted, predicted, transpose_a=True),
        }

    def concrete_signatures(self) -> dict[str, Any]:
        """Return the traced functions by signature name."""
        d, batch = self.spec.inputs, self.spec.train_batch
        theta = _tensor("theta", self.spec.n_parameters)

        def rows(n: int | None) -> list[Any]:
            return [
                theta,
                _tensor("x", n, d),
                _tensor("y", n, dtype=tf.int32),
                _tensor("wc", n),
                _tensor("wr", n),
            ]

        wanted = {
            "grad": (self.grad, [*rows(batch), _tensor("recon_weight")]),
            "infer": (self.infer, [theta, _tensor("x", None, d)]),
            "evaluate": (self.evaluate, rows(None)),
        }
        return {
            name: tf.function(function, input_signature=signature).get_concrete_function()
            for name, (function, signature) in wanted.items()
        }

    def _layers(self, theta: Any) -> list[tuple[Any, Any]]:
        parts = tf.split(theta, [n for a, b in self.shapes for n in (a * b, b)])
        return [(tf.reshape(parts[2 * i], shape), parts[2 * i + 1]) for i, shape in enumerate(self.shapes)]

    def _forward(self, layers: list[tuple[Any, Any]], x: Any) -> tuple[list[Any], Any, list[Any]]:
        """Return activations of the encoder (input first), the logits, activations of the decoder."""
        hidden = [x]
        for weight, bias in layers[: self.depth]:
            hidden.append(tf.maximum(hidden[-1] @ weight + bias, 0.0))
        weight, bias = layers[self.depth]
        logits = hidden[-1] @ weight + bias
        decoded = [hidden[-1]]
        for index in range(self.depth + 1, len(layers)):
            weight, bias = layers[index]
            z = decoded[-1] @ weight + bias
            decoded.append(z if index == len(layers) - 1 else tf.maximum(z, 0.0))
        return hidden, logits, decoded

    def _labels(self, y: Any, wc: Any) -> tuple[Any, Any]:
        """Return one-hot labels and class weights that are 0 where the label names no class."""
        onehot = tf.one_hot(y, self.spec.classes)
        return onehot, wc * tf.reduce_sum(onehot, -1)

    @staticmethod
    def _cross_entropy(onehot: Any, logits: Any) -> Any:
        return -tf.reduce_sum(onehot * tf.nn.log_softmax(logits), -1)

    @staticmethod
    def _weight_gradients(incoming: Any, delta: Any) -> list[Any]:
        return [tf.reshape(tf.matmul(incoming, delta, transpose_a=True), [-1]), tf.reduce_sum(delta, 0)]

    def _backward(
        self, layers: list[tuple[Any, Any]], parts: list[list[Any]], span: range, activations: list[Any], delta: Any
    ) -> Any:
        """Fill ``parts`` for a stack of layers; return the gradient at the stack's input, before any ReLU."""
        for position in reversed(range(len(span))):
            index = span[position]
            parts[index] = self._weight_gradients(activations[position], delta)
            if index == 0:
                return delta  # nobody wants the gradient at x
            delta = tf.matmul(delta, layers[index][0], transpose_b=True)
            if position:
                delta = tf.where(activations[position] > 0.0, delta, 0.0)
        return delta


def _tensor(name: str, *shape: int | None, dtype: Any = tf.float32) -> Any:
    return tf.TensorSpec(shape, dtype, name=name)


def convert(spec: ModelSpec) -> bytes:
    """Build the ``.tflite`` bytes of a spec.

    Parameters
    ----------
    spec
        The architecture.

    Returns
    -------
    bytes
        A flat-buffer file of built-in operators only; the converter fails if one were missing.
    """
    graph = TwoHeadGraph(spec)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(graph, folder, signatures=graph.concrete_signatures())
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return bytes(converter.convert())


def main(arguments: list[str]) -> int:
    """Convert the spec in the JSON file ``arguments[0]``, write ``arguments[1]``, name the version on stdout."""
    spec_file, out_file = (Path(argument) for argument in arguments)
    spec = ModelSpec.model_validate_json(spec_file.read_text())
    out_file.write_bytes(convert(spec))
    sys.stdout.write(json.dumps({"tensorflow": tf.__version__}) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
