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


class HeadsGraph(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """The three signatures of one spec; a missing head has neither inputs nor outputs.

    Parameters
    ----------
    spec
        The architecture; only its widths and heads enter the graph.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.shapes = [(a, b) for _, a, b in spec.layers()]
        self.depth = len(spec.hidden)
        self.classifies, self.reconstructs = spec.layout.classifies, spec.layout.reconstructs
        self.decoder = range(self.depth + self.classifies, len(self.shapes))

    def grad(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the gradient of the joint loss and the losses of the heads, of one static batch."""
        x, layers = given["x"], self._layers(given["theta"])
        hidden = self._encode(layers, x)
        parts: list[list[Any]] = [[] for _ in layers]
        found: dict[str, Any] = {}
        at_code = []
        if self.reconstructs:
            decoded = self._decode(layers, hidden[-1])
            scale = given["wr"] / tf.maximum(tf.reduce_sum(given["wr"]), _EPSILON)
            residual = decoded[-1] - x
            found["loss_recon"] = tf.reduce_sum(tf.reduce_mean(residual * residual, -1) * scale)
            upstream = residual * (2.0 / self.spec.inputs) * tf.expand_dims(scale * given["recon_weight"], -1)
            at_code.append(self._backward(layers, parts, self.decoder, decoded, upstream))
        if self.classifies:
            found["loss_class"], d_logits = self._class_loss(layers, hidden[-1], given)
            parts[self.depth] = self._weight_gradients(hidden[-1], d_logits)
            at_code.append(tf.matmul(d_logits, layers[self.depth][0], transpose_b=True))
        delta = tf.where(hidden[-1] > 0.0, sum(at_code[1:], at_code[0]), 0.0)
        self._backward(layers, parts, range(self.depth), hidden, delta)
        return {"grad": tf.concat([p for pair in parts for p in pair], 0), **found}

    def infer(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return class probabilities and the reconstruction error of every row."""
        x, layers = given["x"], self._layers(given["theta"])
        code = self._encode(layers, x)[-1]
        found = {}
        if self.classifies:
            found["probs"] = tf.nn.softmax(self._logits(layers, code))
        if self.reconstructs:
            residual = self._decode(layers, code)[-1] - x
            found["err"] = tf.reduce_mean(residual * residual, -1)
        return found

    def evaluate(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return loss sums, weight sums and the confusion matrix (rows: truth) of the rows."""
        x, layers = given["x"], self._layers(given["theta"])
        code = self._encode(layers, x)[-1]
        found = {}
        if self.classifies:
            logits = self._logits(layers, code)
            onehot, wc = self._labels(given["y"], given["wc"])
            counted = tf.expand_dims(tf.cast(wc > 0.0, tf.float32), -1)
            predicted = tf.one_hot(tf.argmax(logits, -1, output_type=tf.int32), self.spec.classes)
            found["loss_class_sum"] = tf.reduce_sum(-tf.reduce_sum(onehot * tf.nn.log_softmax(logits), -1) * wc)
            found["wc_sum"] = tf.reduce_sum(wc)
            found["confusion"] = tf.matmul(onehot * counted, predicted, transpose_a=True)
        if self.reconstructs:
            residual = self._decode(layers, code)[-1] - x
            found["loss_recon_sum"] = tf.reduce_sum(tf.reduce_mean(residual * residual, -1) * given["wr"])
            found["wr_sum"] = tf.reduce_sum(given["wr"])
        return found

    def concrete_signatures(self) -> dict[str, Any]:
        """Return the traced functions by signature name."""
        batch = self.spec.train_batch
        # Vectors of one: LiteRT on aarch64 dies of an input without dimensions.
        numbers = ["recon_weight"] * self.reconstructs + ["gamma"] * self.classifies
        wanted = {
            "grad": (self.grad, [*self._rows(batch), *(_tensor(name, 1) for name in numbers)]),
            "infer": (self.infer, self._rows(None)[:2]),
            "evaluate": (self.evaluate, self._rows(None)),
        }
        return {name: self._trace(function, inputs) for name, (function, inputs) in wanted.items()}

    def _rows(self, n: int | None) -> list[Any]:
        labelled = [_tensor("y", n, dtype=tf.int32), _tensor("wc", n)] if self.classifies else []
        reconstructed = [_tensor("wr", n)] if self.reconstructs else []
        return [_tensor("theta", self.spec.n_parameters), _tensor("x", n, self.spec.inputs), *labelled, *reconstructed]

    @staticmethod
    def _trace(function: Any, inputs: list[Any]) -> Any:
        names = [tensor.name for tensor in inputs]

        def by_position(*values: Any) -> dict[str, Any]:
            return dict(function(dict(zip(names, values, strict=True))))

        return tf.function(by_position, input_signature=inputs).get_concrete_function()

    def _class_loss(self, layers: list[tuple[Any, Any]], code: Any, given: dict[str, Any]) -> tuple[Any, Any]:
        """Return the focal loss, which is cross entropy at gamma 0, and its gradient at the logits."""
        logits = self._logits(layers, code)
        onehot, wc = self._labels(given["y"], given["wc"])
        scale = wc / tf.maximum(tf.reduce_sum(wc), _EPSILON)
        log_p = tf.reduce_sum(onehot * tf.nn.log_softmax(logits), -1)
        p, gamma = tf.exp(log_p), given["gamma"]
        rest = tf.maximum(1.0 - p, _EPSILON)
        focus = tf.exp(gamma * tf.math.log(rest))
        slope = focus * (1.0 - gamma * p * log_p / rest)
        d_logits = (tf.nn.softmax(logits) - onehot) * tf.expand_dims(scale * slope, -1)
        return -tf.reduce_sum(log_p * focus * scale), d_logits

    def _layers(self, theta: Any) -> list[tuple[Any, Any]]:
        parts = tf.split(theta, [n for a, b in self.shapes for n in (a * b, b)])
        return [(tf.reshape(parts[2 * i], shape), parts[2 * i + 1]) for i, shape in enumerate(self.shapes)]

    def _encode(self, layers: list[tuple[Any, Any]], x: Any) -> list[Any]:
        """Return the activations of the encoder, input first."""
        hidden = [x]
        for weight, bias in layers[: self.depth]:
            hidden.append(tf.maximum(hidden[-1] @ weight + bias, 0.0))
        return hidden

    def _logits(self, layers: list[tuple[Any, Any]], code: Any) -> Any:
        weight, bias = layers[self.depth]
        return code @ weight + bias

    def _decode(self, layers: list[tuple[Any, Any]], code: Any) -> list[Any]:
        """Return the activations of the decoder, the code first; the last layer is linear."""
        decoded = [code]
        for index in self.decoder:
            weight, bias = layers[index]
            z = decoded[-1] @ weight + bias
            decoded.append(z if index == self.decoder[-1] else tf.maximum(z, 0.0))
        return decoded

    def _labels(self, y: Any, wc: Any) -> tuple[Any, Any]:
        """Return one-hot labels and class weights that are 0 where the label names no class."""
        onehot = tf.one_hot(y, self.spec.classes)
        return onehot, wc * tf.reduce_sum(onehot, -1)

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
    graph = HeadsGraph(spec)
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
