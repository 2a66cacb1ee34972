"""The mathematics of the two-headed net in float64, written apart from the graph, as the gate's yardstick."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.model import ModelSpec

Arrays = dict[str, npt.NDArray[Any]]
Tensors = list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]


def reference_inference(spec: ModelSpec, theta: npt.NDArray[np.float32], x: npt.NDArray[np.float32]) -> Arrays:
    """Return probabilities and errors in float64."""
    pass_ = _forward(_tensors(spec, theta), len(spec.hidden), x.astype(np.float64))
    return {"probs": pass_.probs, "err": np.square(pass_.decoded[-1] - x).mean(axis=1)}


def reference_sums(spec: ModelSpec, theta: npt.NDArray[np.float32], rows: Arrays) -> Arrays:
    """Return what ``evaluate`` must give, in float64."""
    seen = reference_inference(spec, theta, rows["x"])
    known = rows["y"] >= 0
    wc = rows["wc"] * known
    own = seen["probs"][np.arange(len(known)), np.maximum(rows["y"], 0)]
    confusion = np.zeros((spec.classes, spec.classes))
    for truth, guess, weight in zip(rows["y"], seen["probs"].argmax(axis=1), wc, strict=True):
        if weight > 0:
            confusion[truth, guess] += 1.0
    return {
        "loss_class_sum": np.array(-(np.log(own) * wc).sum()),
        "wc_sum": np.array(wc.sum()),
        "loss_recon_sum": np.array((seen["err"] * rows["wr"]).sum()),
        "wr_sum": np.array(rows["wr"].sum()),
        "confusion": confusion,
    }


def reference_gradient(spec: ModelSpec, theta: npt.NDArray[np.float32], rows: Arrays, *, recon_weight: float) -> Arrays:
    """Return gradient and losses in float64, by the chain rule written apart from the graph's."""
    tensors, depth = _tensors(spec, theta), len(spec.hidden)
    x = rows["x"].astype(np.float64)
    pass_ = _forward(tensors, depth, x)
    known = rows["y"] >= 0
    wc = rows["wc"] * known
    wc, wr = wc / max(wc.sum(), 1e-6), rows["wr"] / max(rows["wr"].sum(), 1e-6)
    truth = np.eye(spec.classes)[np.maximum(rows["y"], 0)]
    error = pass_.decoded[-1] - x
    pieces: dict[int, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = {}

    def descend(upstream: npt.NDArray[np.float64], chain: list[int], inputs: list[Any]) -> npt.NDArray[np.float64]:
        """Walk a chain of dense layers from its end; every layer but the last one ends in a ReLU."""
        for step, layer in reversed(list(enumerate(chain))):
            pieces[layer] = (np.einsum("ni,no->io", inputs[step], upstream), upstream.sum(axis=0))
            upstream = np.einsum("no,io->ni", upstream, tensors[layer][0])
            if step:
                upstream = upstream * (inputs[step] > 0)
        return upstream

    at_bottleneck = descend((pass_.probs - truth) * wc[:, None], [depth], [pass_.hidden[-1]])
    at_bottleneck += descend(
        error * wr[:, None] * (2.0 * recon_weight / spec.inputs),
        list(range(depth + 1, len(tensors))),
        pass_.decoded[:-1],
    )
    descend(at_bottleneck * (pass_.hidden[-1] > 0), list(range(depth)), pass_.hidden[:-1])
    own = pass_.probs[np.arange(len(x)), np.maximum(rows["y"], 0)]
    return {
        "grad": np.concatenate([part.ravel() for i in range(len(tensors)) for part in pieces[i]]),
        "loss_class": np.array(-(np.log(own) * wc).sum()),
        "loss_recon": np.array((np.square(error).mean(axis=1) * wr).sum()),
    }


@dataclass(frozen=True, slots=True)
class _Pass:
    """Activations of one forward pass: encoder (input first), probabilities, decoder (bottleneck first)."""

    hidden: list[npt.NDArray[np.float64]]
    probs: npt.NDArray[np.float64]
    decoded: list[npt.NDArray[np.float64]]


def _forward(tensors: Tensors, depth: int, x: npt.NDArray[np.float64]) -> _Pass:
    hidden = [x]
    for weight, bias in tensors[:depth]:
        hidden.append(np.clip(hidden[-1] @ weight + bias, 0.0, None))
    weight, bias = tensors[depth]
    odds = np.exp(hidden[-1] @ weight + bias)
    decoded = [hidden[-1]]
    for weight, bias in tensors[depth + 1 : -1]:
        decoded.append(np.clip(decoded[-1] @ weight + bias, 0.0, None))
    weight, bias = tensors[-1]
    return _Pass(hidden, odds / odds.sum(axis=1, keepdims=True), [*decoded, decoded[-1] @ weight + bias])


def _tensors(spec: ModelSpec, theta: npt.NDArray[np.float32]) -> Tensors:
    wide = theta.astype(np.float64)
    tensors, start = [], 0
    for _, fan_in, fan_out in spec.layers():
        end = start + fan_in * fan_out
        tensors.append((wide[start:end].reshape(fan_in, fan_out), wide[end : end + fan_out]))
        start = end + fan_out
    return tensors
