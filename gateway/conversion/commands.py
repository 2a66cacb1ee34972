"""The ``model`` commands of the command line: plain parameters in, text and exit code out."""

from dataclasses import dataclass
from pathlib import Path

from contract.exit_codes import ExitCode
from contract.model import BUILT_IN_SPECS, DEFAULT_SPEC, ModelSpec
from gateway.conversion.artifact import build_artifact, read_artifact, stem
from gateway.conversion.verify import ArtifactError, verify_artifact


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
        spec = ModelSpec.model_validate_json(spec_file.read_bytes()) if spec_file else BUILT_IN_SPECS[name]
    except OSError as error:
        return Outcome(ExitCode.MODEL, f"cannot read {spec_file}: {error.strerror}")
    except ValueError as error:
        return Outcome(ExitCode.MODEL, f"{spec_file} is no model spec: {error}")
    try:
        manifest, passed = build_artifact(spec, out_dir, python=python)
    except ArtifactError as error:
        return Outcome(ExitCode.MODEL, str(error))
    path = out_dir / f"{stem(spec)}.tflite"
    return Outcome(ExitCode.OK, "\n".join([f"{path}  sha256 {manifest.sha256}", *(f"  {line}" for line in passed)]))


def inspect(tflite: Path) -> Outcome:
    """Describe an artifact by its manifest, without running it."""
    try:
        _, manifest = read_artifact(tflite)
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
        f"train batch  {spec.train_batch}",
        f"file         {manifest.size_bytes} bytes, sha256 {manifest.sha256}",
        f"built by     {manifest.builder}",
        f"operators    {' '.join(manifest.operators)}",
    ]
    return Outcome(ExitCode.OK, "\n".join(lines))


def verify(tflite: Path) -> Outcome:
    """Run the gate on an artifact and the manifest beside it."""
    try:
        blob, manifest = read_artifact(tflite)
        passed = verify_artifact(blob, manifest)
    except ArtifactError as error:
        return Outcome(ExitCode.MODEL, f"{tflite}: {error}")
    return Outcome(ExitCode.OK, "\n".join(f"ok  {line}" for line in passed))
