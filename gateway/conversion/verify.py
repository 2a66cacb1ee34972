"""The gate that a ``.tflite`` artifact passes before it is written or shipped; needs LiteRT, not TensorFlow.

::

    ArtifactError            the artifact must not be used; the message names the check that failed
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.canonical import sha256_hex
from contract.export import ExportManifest
from contract.initial import initial_theta
from contract.model import ArtifactManifest, ModelSpec
from gateway.conversion.reference import Arrays, reference_gradient, reference_inference, reference_sums

MAX_OPERATOR_VERSION = 1
"""Newer operator versions do not load on the oldest supported runtime."""

GRADIENT_TOLERANCE = 1e-5
"""Relative; float32 rounding stays below 1e-6."""

_STATEFUL = {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"}
_PROBE_ROWS = 7


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


def check_bytes(blob: bytes, manifest: ArtifactManifest | ExportManifest) -> str:
    """Return the line that says that size and digest are those of the manifest; comes before any parser.

    Raises
    ------
    ArtifactError
        If one is not.
    """
    if len(blob) != manifest.size_bytes:
        raise ArtifactError(f"size: {len(blob)} bytes, the manifest says {manifest.size_bytes}")
    if sha256_hex(blob) != manifest.sha256:
        raise ArtifactError("digest: the file's SHA-256 differs from the manifest's")
    return f"size and digest: {len(blob)} bytes, {manifest.sha256[:12]}"


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
    passed = [check_bytes(blob, manifest)]
    found = stated_operators(blob, manifest)
    passed.append(f"operators: {len(found)}, all built in, none above version {MAX_OPERATOR_VERSION}")
    interpreter = open_interpreter(blob)
    check_signatures(interpreter, manifest.spec)
    passed.append("signatures: grad, infer, evaluate with the expected names, types and shapes")
    passed += check_mathematics(interpreter, manifest.spec)
    return passed


def check_operators(found: tuple[str, ...], newer: Mapping[str, int] = MappingProxyType({})) -> None:
    """Refuse custom, stateful and too new operators; ``newer`` names those that may be above version 1, and how far."""
    for operator in found:
        name, version = operator.rsplit("/", 1)
        if name.startswith("CUSTOM"):
            raise ArtifactError(f"operators: {name} is not built in")
        if name in _STATEFUL:
            raise ArtifactError(f"operators: {name} keeps state; artifacts are stateless")
        newest = newer.get(name, MAX_OPERATOR_VERSION)
        if int(version) > newest:
            raise ArtifactError(f"operators: {operator} is newer than version {newest}")


def stated_operators(
    blob: bytes, manifest: ArtifactManifest | ExportManifest, newer: Mapping[str, int] = MappingProxyType({})
) -> tuple[str, ...]:
    """Return the operators of a file, as :func:`operators`.

    Raises
    ------
    ArtifactError
        If one is refused by :func:`check_operators`, or they are not those of the manifest.
    """
    found = operators(blob)
    check_operators(found, newer)
    if found != manifest.operators:
        raise ArtifactError("operators: the file's differ from the manifest's")
    return found


def expected_signatures(spec: ModelSpec) -> dict[str, dict[str, tuple[str, tuple[int, ...]]]]:
    """Return the inputs of every signature: name, NumPy type and shape, -1 for any number of rows."""
    d, batch = spec.inputs, spec.train_batch

    layout = spec.layout

    def rows(n: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        found: dict[str, tuple[str, tuple[int, ...]]] = {
            "theta": ("float32", (spec.n_parameters,)),
            "x": ("float32", (n, d)),
        }
        if layout.classifies:
            found |= {"y": ("int32", (n,)), "wc": ("float32", (n,))}
        return found | ({"wr": ("float32", (n,))} if layout.reconstructs else {})

    numbers = ["recon_weight"] * layout.reconstructs + ["gamma"] * layout.classifies
    return {
        "grad": {**rows(batch), **dict.fromkeys(numbers, ("float32", (1,)))},
        "infer": {name: rows(-1)[name] for name in ("theta", "x")},
        "evaluate": rows(-1),
    }


def expected_outputs(spec: ModelSpec) -> dict[str, set[str]]:
    """Return the names of what every signature gives."""
    outputs: dict[str, set[str]] = {"grad": {"grad"}, "infer": set(), "evaluate": set()}
    if spec.layout.classifies:
        outputs["grad"].add("loss_class")
        outputs["infer"].add("probs")
        outputs["evaluate"] |= {"loss_class_sum", "wc_sum", "confusion"}
    if spec.layout.reconstructs:
        outputs["grad"].add("loss_recon")
        outputs["infer"].add("err")
        outputs["evaluate"] |= {"loss_recon_sum", "wr_sum"}
    return outputs


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
        if set(runner.get_output_details()) != expected_outputs(spec)[name]:
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
    probe = _rows(rng, spec, _PROBE_ROWS)
    wanted_inputs = expected_signatures(spec)

    def run(name: str, **given: Any) -> Arrays:
        taken = {key: value for key, value in given.items() if key in wanted_inputs[name]}
        return dict(interpreter.get_signature_runner(name)(theta=theta, **taken))

    weight = np.array([0.6], dtype=np.float32)
    grad, focal = (
        run("grad", **batch, recon_weight=weight, gamma=np.array([gamma], dtype=np.float32)) for gamma in (0.0, 2.0)
    )
    seen, sums = run("infer", x=probe["x"]), run("evaluate", **probe)
    comparisons: list[tuple[str, Arrays, Arrays]] = [
        ("grad", grad, reference_gradient(spec, theta, batch, recon_weight=0.6)),
        ("grad with focal exponent 2", focal, reference_gradient(spec, theta, batch, recon_weight=0.6, gamma=2.0)),
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


def open_interpreter(blob: bytes) -> Any:
    """Return a LiteRT interpreter on checked bytes.

    Raises
    ------
    ArtifactError
        If LiteRT is missing or refuses the file.
    """
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
