"""The gate that a ``.tflite`` artifact passes before it is written or shipped; needs LiteRT, not TensorFlow.

::

    ArtifactError            the artifact must not be used; the message names the check that failed
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.canonical import sha256_hex
from contract.initial import initial_theta
from contract.model import ArtifactManifest, ModelSpec

MAX_OPERATOR_VERSION = 1
"""Newer operator versions do not load on the oldest supported runtime."""

GRADIENT_TOLERANCE = 1e-5
"""Relative; float32 rounding stays below 1e-6."""

_STATEFUL = {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"}
_PROBE_ROWS = 7

Arrays = dict[str, npt.NDArray[Any]]
Tensors = list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]


class ArtifactError(ValueError):
    """An artifact failed a check; the message names it."""


def operators(blob: bytes) -> tuple[str, ...]:
    """Return ``NAME/version`` of every operator code in a file, sorted; custom ones are ``CUSTOM:<code>/version``.

    Raises
    ------
    ArtifactError
        If LiteRT's schema module or flatbuffers is missing, or the bytes are no flat-buffer model.
    """
    try:
        from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415 - optional dependency
    except ImportError as error:
        raise ArtifactError(f"cannot read the file's operators: {error}; install the extra 'convert'") from error
    if blob[4:8] != b"TFL3":
        raise ArtifactError("the file is no .tflite model (its identifier is not TFL3)")
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(blob, 0))
    result = set()
    for entry in model.operatorCodes:
        name = names[max(entry.builtinCode, entry.deprecatedBuiltinCode)]
        if name == "CUSTOM":
            name = f"CUSTOM:{entry.customCode.decode()}"
        result.add(f"{name}/{entry.version}")
    return tuple(sorted(result))


def verify_artifact(blob: bytes, manifest: ArtifactManifest) -> list[str]:
    """Check a file against its manifest and its spec's mathematics.

    Parameters
    ----------
    blob
        The ``.tflite`` file.
    manifest
        What it claims to be.

    Returns
    -------
    list of str
        One line per check that passed, with its figure.

    Raises
    ------
    ArtifactError
        At the first check that fails; size and digest are checked before the file reaches a parser.
    """
    if len(blob) != manifest.size_bytes:
        raise ArtifactError(f"size: {len(blob)} bytes, the manifest says {manifest.size_bytes}")
    if sha256_hex(blob) != manifest.sha256:
        raise ArtifactError("digest: the file's SHA-256 differs from the manifest's")
    passed = [f"size and digest: {len(blob)} bytes, {manifest.sha256[:12]}"]
    found = operators(blob)
    check_operators(found)
    if found != manifest.operators:
        raise ArtifactError("operators: the file's differ from the manifest's")
    passed.append(f"operators: {len(found)}, all built in, none above version {MAX_OPERATOR_VERSION}")
    interpreter = _interpreter(blob)
    check_signatures(interpreter, manifest.spec)
    passed.append("signatures: grad, infer, evaluate with the expected names, types and shapes")
    passed += check_mathematics(interpreter, manifest.spec)
    return passed


def check_operators(found: tuple[str, ...]) -> None:
    """Refuse custom, stateful and too new operators."""
    for operator in found:
        name, version = operator.rsplit("/", 1)
        if name.startswith("CUSTOM"):
            raise ArtifactError(f"operators: {name} is not built in")
        if name in _STATEFUL:
            raise ArtifactError(f"operators: {name} keeps state; artifacts are stateless")
        if int(version) > MAX_OPERATOR_VERSION:
            raise ArtifactError(f"operators: {operator} is newer than version {MAX_OPERATOR_VERSION}")


def expected_signatures(spec: ModelSpec) -> dict[str, dict[str, tuple[str, tuple[int, ...]]]]:
    """Return the inputs of every signature: name, NumPy type and shape, -1 for any number of rows."""
    d, batch = spec.inputs, spec.train_batch

    def rows(n: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {
            "theta": ("float32", (spec.n_parameters,)),
            "x": ("float32", (n, d)),
            "y": ("int32", (n,)),
            "wc": ("float32", (n,)),
            "wr": ("float32", (n,)),
        }

    return {
        "grad": {**rows(batch), "recon_weight": ("float32", ())},
        "infer": {name: rows(-1)[name] for name in ("theta", "x")},
        "evaluate": rows(-1),
    }


_OUTPUTS = {
    "grad": {"grad", "loss_class", "loss_recon"},
    "infer": {"probs", "err"},
    "evaluate": {"loss_class_sum", "wc_sum", "loss_recon_sum", "wr_sum", "confusion"},
}


def check_signatures(interpreter: Any, spec: ModelSpec) -> None:
    """Refuse an interpreter whose signatures differ from the spec's."""
    expected = expected_signatures(spec)
    if set(interpreter.get_signature_list()) != set(expected):
        raise ArtifactError(f"signatures: found {sorted(interpreter.get_signature_list())}")
    for name, inputs in expected.items():
        runner = interpreter.get_signature_runner(name)
        found = {
            key: (np.dtype(detail["dtype"]).name, tuple(int(n) for n in detail["shape_signature"]))
            for key, detail in runner.get_input_details().items()
        }
        if found != inputs:
            raise ArtifactError(f"signatures: inputs of {name} are {found}, the spec wants {inputs}")
        if set(runner.get_output_details()) != _OUTPUTS[name]:
            raise ArtifactError(f"signatures: outputs of {name} are {sorted(runner.get_output_details())}")


def check_mathematics(interpreter: Any, spec: ModelSpec) -> list[str]:
    """Compare the three signatures with an independent float64 formula on seeded rows.

    Returns
    -------
    list of str
        One line per comparison with its largest relative difference.

    Raises
    ------
    ArtifactError
        If one is not below the tolerance.
    """
    rng = np.random.default_rng(11)
    theta = initial_theta(spec.layout, rng)
    theta += rng.normal(0.0, 0.05, size=theta.shape).astype(np.float32)  # biases take part too
    batch = _rows(rng, spec, spec.train_batch)
    grad = interpreter.get_signature_runner("grad")(theta=theta, **batch, recon_weight=np.float32(0.6))
    reference = reference_gradient(spec, theta, batch, recon_weight=0.6)
    probe = _rows(rng, spec, _PROBE_ROWS)
    seen = interpreter.get_signature_runner("infer")(theta=theta, x=probe["x"])
    sums = interpreter.get_signature_runner("evaluate")(theta=theta, **probe)
    comparisons: list[tuple[str, Arrays, Arrays]] = [
        ("grad", grad, reference),
        ("infer", seen, reference_inference(spec, theta, probe["x"])),
        ("evaluate", sums, reference_sums(spec, theta, probe)),
    ]
    lines = []
    for name, found, wanted in comparisons:
        worst = max(_relative(found[key], wanted[key]) for key in wanted)
        if not worst < GRADIENT_TOLERANCE:
            raise ArtifactError(f"{name}: differs from the reference formula by {worst:.1e} relative")
        lines.append(f"{name}: within {worst:.1e} of the reference formula")
    return lines


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


def _rows(rng: np.random.Generator, spec: ModelSpec, n: int) -> Arrays:
    y = rng.integers(0, spec.classes, size=n).astype(np.int32)
    y[::3] = -1
    return {
        "x": rng.uniform(0.0, 3.0, size=(n, spec.inputs)).astype(np.float32),
        "y": y,
        "wc": rng.uniform(0.1, 2.0, size=n).astype(np.float32),
        "wr": rng.uniform(0.1, 2.0, size=n).astype(np.float32),
    }


def _relative(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    if np.shape(found) != np.shape(wanted):
        return float("inf")
    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-6))


def _interpreter(blob: bytes) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - optional dependency
    except ImportError as error:
        raise ArtifactError(f"cannot run the file: {error}; install the extra 'convert'") from error
    try:
        interpreter = Interpreter(model_content=blob, num_threads=1)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(f"the runtime refuses the file: {error}") from error
    return interpreter
