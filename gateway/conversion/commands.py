"""The ``model`` commands of the command line: plain parameters in, text and exit code out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contract.exit_codes import ExitCode
from contract.export import ExportManifest
from contract.model import BUILT_IN_SPECS, DEFAULT_SPEC, ArtifactManifest, ModelSpec
from gateway.conversion.artifact import build_artifact, read_manifest, stem
from gateway.conversion.export import build_export, verify_export
from gateway.conversion.sources import SYNTHETIC, read_rows, read_weights, stored_weights, synthetic_rows
from gateway.conversion.verify import ArtifactError, verify_artifact
from gateway.errors import GatewayError
from gateway.store import Store

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command has to say.

    Attributes
    ----------
    code
        Exit code.
    text
        For standard output if the code is 0, else for standard error.
    """

    code: ExitCode
    text: str


def build(
    out_dir: Path, *, spec_file: Path | None = None, name: str = DEFAULT_SPEC.name, python: str | None = None
) -> Outcome:
    """Build the artifact of a spec (JSON file, or the built-in one of a name) into ``out_dir``."""
    try:
        spec = _spec(spec_file, name)
        manifest, passed = build_artifact(spec, out_dir, python=python)
    except ArtifactError as error:
        return Outcome(ExitCode.MODEL, str(error))
    path = out_dir / f"{stem(spec)}.tflite"
    return Outcome(ExitCode.OK, "\n".join([f"{path}  sha256 {manifest.sha256}", *(f"  {line}" for line in passed)]))


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What an int8 export is made from.

    Attributes
    ----------
    weights
        A file, or the name of a model in the store: ``fallback``, a family's id, or the first digits of a digest.
    representative
        ``synthetic``, or a NumPy file of transformed rows.
    store_dir
        The gateway's store, ``None`` without one.
    """

    weights: str
    representative: str = SYNTHETIC
    store_dir: Path | None = None


def export(
    out_dir: Path,
    request: ExportRequest,
    *,
    spec_file: Path | None = None,
    name: str = DEFAULT_SPEC.name,
    python: str | None = None,
) -> Outcome:
    """Build the int8 export of one release into ``out_dir``."""
    try:
        spec = _spec(spec_file, name)
        theta, (rows, text) = _export_inputs(spec, request)
        path, manifest, passed = build_export(spec, theta, rows, out_dir, representative=text, python=python)
    except (ArtifactError, GatewayError) as error:
        return Outcome(ExitCode.MODEL, str(error))
    lines = [f"{path}  sha256 {manifest.sha256}", f"  of model {manifest.weights_digest}, ranges from {text}"]
    return Outcome(ExitCode.OK, "\n".join([*lines, *(f"  {line}" for line in passed)]))


def _export_inputs(spec: ModelSpec, request: ExportRequest) -> tuple[Floats, tuple[Floats, str]]:
    """Return weights, rows and what the rows are; the store is opened only if something is wanted of it."""
    from_file = Path(request.weights).is_file()
    wants_rows = request.representative == SYNTHETIC
    store = None
    if request.store_dir is not None and (not from_file or wants_rows):
        try:
            store = Store(request.store_dir, read_only=True)
        except GatewayError:
            if not from_file:
                raise
    if store is None and not from_file:
        raise ArtifactError(f"{request.weights} is no file, and without --config no store to look for a model")
    try:
        theta = (
            read_weights(spec, Path(request.weights))
            if store is None or from_file
            else (stored_weights(spec, request.weights, store))
        )
        if not wants_rows:
            return theta, (read_rows(spec, Path(request.representative)), f"file {Path(request.representative).name}")
        signatures = store.signatures.all() if store is not None else []
        return theta, synthetic_rows(spec, signatures, np.random.default_rng(7))
    finally:
        if store is not None:
            store.close()


def _spec(spec_file: Path | None, name: str) -> ModelSpec:
    try:
        return ModelSpec.model_validate_json(spec_file.read_bytes()) if spec_file else BUILT_IN_SPECS[name]
    except OSError as error:
        raise ArtifactError(f"cannot read {spec_file}: {error.strerror}") from error
    except ValueError as error:
        raise ArtifactError(f"{spec_file} is no model spec: {error}") from error


def inspect(tflite: Path) -> Outcome:
    """Describe an artifact by its manifest, without running it."""
    try:
        _, manifest = read_manifest(tflite)
    except ArtifactError as error:
        return Outcome(ExitCode.MODEL, str(error))
    spec = manifest.spec
    layers = ", ".join(f"{name} {fan_in}x{fan_out}" for name, fan_in, fan_out in spec.layers())
    lines = [
        f"model        {spec.name} version {spec.version}",
        f"spec         {spec.spec_id}",
        f"schema       {spec.schema_id}",
        f"inputs       {spec.inputs}, classes {spec.classes}, parameters {spec.n_parameters}",
        f"layers       {layers}",
        *_own_lines(manifest),
        f"file         {manifest.size_bytes} bytes, sha256 {manifest.sha256}",
        f"built by     {manifest.builder}",
        f"operators    {' '.join(manifest.operators)}",
    ]
    return Outcome(ExitCode.OK, "\n".join(lines))


def _own_lines(manifest: ArtifactManifest | ExportManifest) -> list[str]:
    if isinstance(manifest, ArtifactManifest):
        return [f"train batch  {manifest.spec.train_batch}"]
    return [
        f"int8 of      model {manifest.weights_digest}",
        f"ranges from  {manifest.representative}, {manifest.representative_rows} rows",
        (
            f"beside f32   {manifest.class_agreement:.2%} of classes, probabilities within "
            f"{manifest.probability_error:.3f}, reconstruction error within {manifest.reconstruction_error:.2%}"
        ),
    ]


def verify(tflite: Path, *, weights: Path | None = None) -> Outcome:
    """Run the gate on an artifact or export and the manifest beside it; ``weights`` are those of an export's model."""
    try:
        blob, manifest = read_manifest(tflite)
        if isinstance(manifest, ArtifactManifest):
            passed = verify_artifact(blob, manifest)
        else:
            passed = verify_export(blob, manifest, read_weights(manifest.spec, weights) if weights else None)
    except ArtifactError as error:
        return Outcome(ExitCode.MODEL, f"{tflite}: {error}")
    return Outcome(ExitCode.OK, "\n".join(f"ok  {line}" for line in passed))
