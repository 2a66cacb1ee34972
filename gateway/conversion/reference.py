"""The mathematics of the nets in float64, written apart from the graph, as the gate's yardstick."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.model import ModelSpec

Arrays = dict[str, npt.NDArray[Any]]
Tensors = list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]


def reference_inference(spec: ModelSpec, theta: npt.NDArray[np.float32], x: npt.NDArray[np.float32]) -> Arrays:
    """Return probabilities and errors in float64."""
    pass_ = _forward(spec, _tensors(spec, theta), x.astype(np.float64))
    found: Arrays = {}
    if spec.layout.classifies:
        found["probs"] = pass_.probs
    if spec.layout.reconstructs:
        found["err"] = np.square(pass_.decoded[-1] - x).mean(axis=1)
    return found


def reference_sums(spec: ModelSpec, theta: npt.NDArray[np.float32], rows: Arrays) -> Arrays:
    """Return what ``evaluate`` must give, in float64."""
    seen = reference_inference(spec, theta, rows["x"])
    found: Arrays = {}
    if spec.layout.reconstructs:
        found |= {"loss_recon_sum": np.array((seen["err"] * rows["wr"]).sum()), "wr_sum": np.array(rows["wr"].sum())}
    if not spec.layout.classifies:
        return found
    known = rows["y"] >= 0
    wc = rows["wc"] * known
    own = seen["probs"][np.arange(len(known)), np.maximum(rows["y"], 0)]
    confusion = np.zeros((spec.classes, spec.classes))
    for truth, guess, weight in zip(rows["y"], seen["probs"].argmax(axis=1), wc, strict=True):
        if weight > 0:
            confusion[truth, guess] += 1.0
    classified = {"loss_class_sum": np.array(-(np.log(own) * wc).sum()), "wc_sum": np.array(wc.sum())}
    return found | classified | {"confusion": confusion}


def reference_gradient(
    spec: ModelSpec, theta: npt.NDArray[np.float32], rows: Arrays, *, recon_weight: float, gamma: float = 0.0
) -> Arrays:
    """Return gradient and losses in float64, by the chain rule written apart from the graph's."""
    tensors, depth = _tensors(spec, theta), len(spec.hidden)
    x = rows["x"].astype(np.float64)
    pass_ = _forward(spec, tensors, x)
    pieces: dict[int, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = {}

    def descend(upstream: npt.NDArray[np.float64], chain: list[int], inputs: list[Any]) -> npt.NDArray[np.float64]:
        """Walk a chain of dense layers from its end; every layer but the last one ends in a ReLU."""
        for step, layer in reversed(list(enumerate(chain))):
            pieces[layer] = (np.einsum("ni,no->io", inputs[step], upstream), upstream.sum(axis=0))
            upstream = np.einsum("no,io->ni", upstream, tensors[layer][0])
            if step:
                upstream = upstream * (inputs[step] > 0)
        return upstream

    found: Arrays = {}
    at_code = np.zeros_like(pass_.hidden[-1])
    if spec.layout.classifies:
        known = rows["y"] >= 0
        wc = rows["wc"] * known / max((rows["wc"] * known).sum(), 1e-6)
        truth = np.eye(spec.classes)[np.maximum(rows["y"], 0)]
        own = (pass_.probs * truth).sum(axis=1)
        found["loss_class"] = np.array(-((1.0 - own) ** gamma * np.log(own) * wc).sum())
        # The chain rule over p of the true class: dL/dp, then dp/dlogits = p (truth - probs).
        by_p = gamma * (1.0 - own) ** (gamma - 1.0) * np.log(own) - (1.0 - own) ** gamma / own
        at_code += descend((by_p * own * wc)[:, None] * (truth - pass_.probs), [depth], [pass_.hidden[-1]])
    if spec.layout.reconstructs:
        error = pass_.decoded[-1] - x
        wr = rows["wr"] / max(rows["wr"].sum(), 1e-6)
        found["loss_recon"] = np.array((np.square(error).mean(axis=1) * wr).sum())
        upstream = error * wr[:, None] * (2.0 * recon_weight / spec.inputs)
        at_code += descend(upstream, list(_decoder(spec)), pass_.decoded[:-1])
    descend(at_code * (pass_.hidden[-1] > 0), list(range(depth)), pass_.hidden[:-1])
    gradient = np.concatenate([part.ravel() for i in range(len(tensors)) for part in pieces[i]])
    return found | {"grad": gradient}


@dataclass(frozen=True, slots=True)
class _Pass:
    """Activations of one forward pass: encoder (input first), probabilities, decoder (bottleneck first)."""

    hidden: list[npt.NDArray[np.float64]]
    probs: npt.NDArray[np.float64]
    decoded: list[npt.NDArray[np.float64]]


def _decoder(spec: ModelSpec) -> range:
    """Return the numbers of the decoder's layers."""
    return range(len(spec.hidden) + spec.layout.classifies, len(spec.layers()))


def _forward(spec: ModelSpec, tensors: Tensors, x: npt.NDArray[np.float64]) -> _Pass:
    depth = len(spec.hidden)
    hidden = [x]
    for weight, bias in tensors[:depth]:
        hidden.append(np.clip(hidden[-1] @ weight + bias, 0.0, None))
    probs = np.zeros((len(x), 0))
    if spec.layout.classifies:
        weight, bias = tensors[depth]
        odds = np.exp(hidden[-1] @ weight + bias)
        probs = odds / odds.sum(axis=1, keepdims=True)
    decoded = [hidden[-1]]
    for layer in _decoder(spec):
        weight, bias = tensors[layer]
        z = decoded[-1] @ weight + bias
        decoded.append(z if layer == len(tensors) - 1 else np.clip(z, 0.0, None))
    return _Pass(hidden, probs, decoded)


def _tensors(spec: ModelSpec, theta: npt.NDArray[np.float32]) -> Tensors:
    wide = theta.astype(np.float64)
    tensors, start = [], 0
    for _, fan_in, fan_out in spec.layers():
        end = start + fan_in * fan_out
        tensors.append((wide[start:end].reshape(fan_in, fan_out), wide[end : end + fan_out]))
        start = end + fan_out
    return tensors
