"""Int8 exports: one release, quantised for scoring, with a gate that compares it with the float formula."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import contract
from contract.canonical import sha256_hex
from contract.export import ExportManifest
from contract.model import ModelSpec, weights_digest
from gateway.conversion.artifact import run_builder, stem, write_pair
from gateway.conversion.reference import reference_inference
from gateway.conversion.verify import ArtifactError, check_bytes, open_interpreter, operators, stated_operators

NEWER_OPERATORS = {"FULLY_CONNECTED": 4, "DEQUANTIZE": 2}
"""Versions that full int8 needs; they load on tflite-runtime 2.14. Dynamic-range files (12) would not."""

LEAST_AGREEMENT = 0.98
"""Share of rows whose class must stay the same, of those that float32 decides."""

LEAD = 0.05
"""Probability by which the first class must lead the second for a row to be decided."""

MOST_ERROR = 0.15
"""Mean change of the reconstruction error over its mean that is still a quantisation and no damage."""

_QUANTISED_OPERATORS = {"FULLY_CONNECTED", "QUANTIZE", "DEQUANTIZE"}

Floats = npt.NDArray[np.float32]
Agreement = dict[str, float]


def build_export(
    spec: ModelSpec, theta: Floats, rows: Floats, out_dir: Path, *, representative: str, python: str | None = None
) -> tuple[Path, ExportManifest, list[str]]:
    """Build, check and write the int8 export of one release.

    Parameters
    ----------
    spec
        The architecture.
    theta
        Shape ``(P,)``, float32: the release's weights.
    rows
        Shape ``(n, D)``, float32, under the contract's transform: what the ranges are measured on.
    out_dir
        Where ``<name>_v<version>_int8_<digest>.tflite`` and ``.json`` go.
    representative
        Where the rows came from, for the manifest.
    python
        Interpreter with TensorFlow, as for :func:`~gateway.conversion.artifact.build_artifact`.

    Returns
    -------
    path
        Of the file.
    manifest
        As written.
    passed
        What the gate checked.

    Raises
    ------
    ArtifactError
        If conversion fails or the gate refuses the file; nothing is written then.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data.npz")
        np.savez(data, theta=theta, rows=rows)
        blob, tensorflow = run_builder("gateway.conversion.builder_int8", spec, [data], python=python)
    manifest = ExportManifest(
        sha256=sha256_hex(blob),
        size_bytes=len(blob),
        spec=spec,
        weights_digest=weights_digest(theta),
        representative=representative,
        representative_rows=len(rows),
        operators=operators(blob),
        builder=f"tensorflow {tensorflow}, contract {contract.CONTRACT_VERSION}",
        **compare(open_interpreter(blob), spec, theta, rows),
    )
    passed = verify_export(blob, manifest)
    path = out_dir / f"{stem(spec)}_int8_{manifest.weights_digest[:8]}.tflite"
    write_pair(path, blob, manifest)
    return path, manifest, passed


def verify_export(blob: bytes, manifest: ExportManifest, theta: Floats | None = None) -> list[str]:
    """Check a file against its manifest, and with the release's weights also against the float formula.

    Returns
    -------
    list of str
        One line per check that passed.

    Raises
    ------
    ArtifactError
        At the first check that fails; size and digest come before any parser.
    """
    passed = [check_bytes(blob, manifest)]
    found = stated_operators(blob, manifest, NEWER_OPERATORS)
    odd = {operator.rsplit("/", 1)[0] for operator in found} - _QUANTISED_OPERATORS
    if odd:
        raise ArtifactError(f"operators: {', '.join(sorted(odd))} should not be in a fully quantised file")
    passed.append(f"operators: {' '.join(found)}")
    interpreter = open_interpreter(blob)
    _check_signature(interpreter, manifest.spec)
    passed.append("signature: infer, with the expected names, types and shapes")
    figures = {name: getattr(manifest, name) for name in ("class_agreement", "reconstruction_error")}
    if theta is not None:
        if weights_digest(theta) != manifest.weights_digest:
            raise ArtifactError("weights: those given are not of the release that the manifest names")
        figures = compare(interpreter, manifest.spec, theta, probe_rows(manifest.spec))
    passed.append(_check_agreement(figures, recomputed=theta is not None))
    return passed


def compare(interpreter: Any, spec: ModelSpec, theta: Floats, rows: Floats) -> Agreement:
    """Return how far a file's results on rows are from the float64 formula; names as in the manifest."""
    out = interpreter.get_signature_runner("infer")(x=rows)
    wanted = reference_inference(spec, theta, rows)
    found = {"class_agreement": 1.0, "probability_error": 0.0, "reconstruction_error": 0.0}
    if spec.layout.classifies:
        odds = np.exp(out["logits"].astype(np.float64) - out["logits"].max(axis=1, keepdims=True))
        probs = odds / odds.sum(axis=1, keepdims=True)
        ordered = np.sort(wanted["probs"], axis=1)
        decided = ordered[:, -1] - ordered[:, -2] >= LEAD
        same = probs.argmax(axis=1) == wanted["probs"].argmax(axis=1)
        found["class_agreement"] = float(same[decided].mean()) if decided.any() else 1.0
        found["probability_error"] = min(1.0, float(np.abs(probs - wanted["probs"]).max()))
    if spec.layout.reconstructs:
        err = np.square(out["reconstruction"].astype(np.float64) - rows).mean(axis=1)
        found["reconstruction_error"] = float(np.abs(err - wanted["err"]).mean() / max(wanted["err"].mean(), 1e-9))
    return found


def probe_rows(spec: ModelSpec, n: int = 512) -> Floats:
    """Return seeded model inputs in the range of the transform, for a check without the rows of the build."""
    return np.random.default_rng(13).uniform(0.0, 3.0, size=(n, spec.inputs)).astype(np.float32)


def _check_agreement(figures: Agreement, *, recomputed: bool) -> str:
    agreement, error = figures["class_agreement"], figures["reconstruction_error"]
    if agreement < LEAST_AGREEMENT:
        raise ArtifactError(f"agreement: {agreement:.1%} of rows keep their class, {LEAST_AGREEMENT:.0%} must")
    if error > MOST_ERROR:
        raise ArtifactError(f"agreement: the reconstruction error is off by {error:.1%}, {MOST_ERROR:.0%} may be")
    source = "probe rows, with the weights given" if recomputed else "representative rows, as the manifest says"
    return f"agreement: {agreement:.2%} of classes, reconstruction error within {error:.2%}; on {source}"


def _check_signature(interpreter: Any, spec: ModelSpec) -> None:
    if set(interpreter.get_signature_list()) != {"infer"}:
        raise ArtifactError(f"signatures: found {sorted(interpreter.get_signature_list())}")
    runner = interpreter.get_signature_runner("infer")
    inputs = {
        name: (np.dtype(detail["dtype"]).name, tuple(int(n) for n in detail["shape_signature"]))
        for name, detail in runner.get_input_details().items()
    }
    if inputs != {"x": ("float32", (-1, spec.inputs))}:
        raise ArtifactError(f"signatures: inputs of infer are {inputs}")
    outputs = {
        name: (np.dtype(detail["dtype"]).name, int(detail["shape_signature"][-1]))
        for name, detail in runner.get_output_details().items()
    }
    wanted = {"logits": ("float32", spec.classes)} if spec.layout.classifies else {}
    wanted |= {"reconstruction": ("float32", spec.inputs)} if spec.layout.reconstructs else {}
    if outputs != wanted:
        raise ArtifactError(f"signatures: outputs of infer are {outputs}")
