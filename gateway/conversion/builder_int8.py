"""Builds the int8 ``.tflite`` of one release; beside ``builder`` the only module that loads TensorFlow.

Weights are constants, so every release needs a file of its own. One scale covers the whole input, hence rows come in
under the contract's transform, which brings all features to one range. Logits and reconstruction go out in float32;
softmax and error are computed outside, where an int8 result would leave fewer than 200 distinct scores.

Run as ``python -m gateway.conversion.builder_int8 <spec.json> <rows and weights.npz> <out.tflite>``.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contract.model import ModelSpec

Floats = npt.NDArray[np.float32]


class FixedGraph(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """One signature, ``infer``, with the weights of one release inside.

    Parameters
    ----------
    spec
        The architecture.
    theta
        Shape ``(P,)``.
    """

    def __init__(self, spec: ModelSpec, theta: Floats) -> None:
        super().__init__()
        self.spec = spec
        tensors = [theta[where].reshape(shape) for where, shape in spec.slices().values()]
        self.layers = list(zip(tensors[::2], tensors[1::2], strict=True))
        self.depth = len(spec.hidden)

    def infer(self, x: Any) -> dict[str, Any]:
        """Return logits and reconstruction of rows; a missing head has no output."""
        code = x
        for weight, bias in self.layers[: self.depth]:
            code = tf.nn.relu(tf.matmul(code, weight) + bias)
        found = {}
        decoder = self.depth
        if self.spec.layout.classifies:
            weight, bias = self.layers[self.depth]
            found["logits"] = tf.matmul(code, weight) + bias
            decoder += 1
        if self.spec.layout.reconstructs:
            hidden = code
            for weight, bias in self.layers[decoder:-1]:
                hidden = tf.nn.relu(tf.matmul(hidden, weight) + bias)
            weight, bias = self.layers[-1]
            found["reconstruction"] = tf.matmul(hidden, weight) + bias
        return found


def convert(spec: ModelSpec, theta: Floats, rows: Floats) -> bytes:
    """Return the file.

    Parameters
    ----------
    spec
        The architecture.
    theta
        Shape ``(P,)``, float32.
    rows
        Shape ``(n, D)``, float32: transformed inputs on which the ranges of all activations are measured.
    """
    graph = FixedGraph(spec, theta)
    wanted = [tf.TensorSpec((None, spec.inputs), tf.float32, name="x")]
    signature = tf.function(graph.infer, input_signature=wanted).get_concrete_function()

    def representative() -> Iterator[dict[str, Floats]]:
        for start in range(0, len(rows), 64):
            yield {"x": rows[start : start + 64]}

    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(graph, folder, signatures={"infer": signature})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["infer"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        # Nothing may stay in float: a mixed file would be neither small nor fast.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        return bytes(converter.convert())


def main(arguments: list[str]) -> int:
    """Convert what ``arguments`` name and say which TensorFlow did it."""
    spec_file, data_file, out_file = (Path(argument) for argument in arguments)
    spec = ModelSpec.model_validate_json(spec_file.read_text())
    with np.load(data_file) as data:
        out_file.write_bytes(convert(spec, data["theta"], data["rows"]))
    sys.stdout.write(json.dumps({"tensorflow": tf.__version__}) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
