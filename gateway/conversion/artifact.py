"""Writes artifacts: converts in a process of its own, passes the gate, then puts file and manifest in place."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import BaseModel

import contract
from contract.canonical import sha256_hex
from contract.export import ExportManifest
from contract.model import ArtifactManifest, ModelSpec
from gateway.conversion.verify import ArtifactError, operators, verify_artifact

PYTHON_VARIABLE = "KINWATCH_CONVERT_PYTHON"
"""Environment variable naming a Python that has TensorFlow; the running one otherwise."""

_TIMEOUT_S = 600


def stem(spec: ModelSpec) -> str:
    """Return the file name of a spec's artifact without its ending, for example ``two_head_v1``."""
    return f"{spec.name.replace('-', '_')}_v{spec.version}"


def build_artifact(spec: ModelSpec, out_dir: Path, *, python: str | None = None) -> tuple[ArtifactManifest, list[str]]:
    """Build, check and write the artifact of a spec.

    Parameters
    ----------
    spec
        The architecture.
    out_dir
        Where ``<name>_v<version>.tflite`` and ``.json`` go; made if missing.
    python
        Interpreter with TensorFlow; by default ``$KINWATCH_CONVERT_PYTHON``, else the running one.

    Returns
    -------
    manifest
        As written.
    passed
        What the gate checked.

    Raises
    ------
    ArtifactError
        If TensorFlow is missing, conversion fails or the gate refuses the file; nothing is written then.

    Notes
    -----
    TensorFlow takes about 600 MB of memory, hence the process of its own.
    """
    blob, tensorflow = run_builder("gateway.conversion.builder", spec, [], python=python)
    manifest = ArtifactManifest(
        sha256=sha256_hex(blob),
        size_bytes=len(blob),
        spec=spec,
        operators=operators(blob),
        builder=f"tensorflow {tensorflow}, contract {contract.CONTRACT_VERSION}",
    )
    passed = verify_artifact(blob, manifest)
    write_pair(out_dir / f"{stem(spec)}.tflite", blob, manifest)
    return manifest, passed


def write_pair(tflite: Path, blob: bytes, manifest: BaseModel) -> None:
    """Put a file and its manifest in place, each whole or not at all.

    Raises
    ------
    ArtifactError
        If the directory does not take them.
    """
    text = json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n"
    try:
        tflite.parent.mkdir(parents=True, exist_ok=True)
        for path, data in ((tflite, blob), (tflite.with_suffix(".json"), text.encode())):
            temporary = path.with_suffix(path.suffix + ".new")
            temporary.write_bytes(data)
            temporary.replace(path)
    except OSError as error:
        raise ArtifactError(f"{tflite.parent}: cannot be written: {error.strerror}") from error


def read_artifact(tflite: Path) -> tuple[bytes, ArtifactManifest]:
    """Read a file and the manifest beside it.

    Raises
    ------
    ArtifactError
        If one is missing or the manifest is not valid.
    """
    try:
        blob = tflite.read_bytes()
        manifest = ArtifactManifest.model_validate_json(tflite.with_suffix(".json").read_bytes())
    except OSError as error:
        raise ArtifactError(f"cannot read {error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise ArtifactError(f"{tflite.with_suffix('.json')} is no artifact manifest: {error}") from error
    return blob, manifest


def read_manifest(tflite: Path) -> tuple[bytes, ArtifactManifest | ExportManifest]:
    """Read a file and the manifest beside it, of an artifact or of an int8 export.

    Raises
    ------
    ArtifactError
        If one is missing or the manifest is not valid.
    """
    try:
        text = tflite.with_suffix(".json").read_bytes()
        exported = "weights_digest" in json.loads(text)
        if exported:
            return tflite.read_bytes(), ExportManifest.model_validate_json(text)
    except OSError as error:
        raise ArtifactError(f"cannot read {error.filename}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{tflite.with_suffix('.json')} is no artifact manifest: {error}") from error
    return read_artifact(tflite)


def run_builder(module: str, spec: ModelSpec, inputs: list[Path], *, python: str | None) -> tuple[bytes, str]:
    """Run a builder in a process of its own; return the file and the version of TensorFlow that made it.

    Parameters
    ----------
    module
        Called with the spec's file, the inputs and the file to write.
    spec
        The architecture.
    inputs
        Files between the two.
    python
        As in :func:`build_artifact`.

    Raises
    ------
    ArtifactError
        If TensorFlow is missing or the conversion fails.
    """
    python = python or os.environ.get(PYTHON_VARIABLE) or sys.executable
    packages = str(Path(contract.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": packages, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as folder:
        spec_file, out_file = Path(folder, "spec.json"), Path(folder, "model.tflite")
        spec_file.write_text(spec.model_dump_json())
        command = [python, "-m", module, str(spec_file), *map(str, inputs), str(out_file)]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ArtifactError(f"conversion with {python} did not run: {error}") from error
        if "No module named 'tensorflow'" in done.stderr:
            raise ArtifactError(
                f"{python} has no TensorFlow; install the extra 'convert' or name a Python in {PYTHON_VARIABLE}"
            )
        if done.returncode or not out_file.exists():
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise ArtifactError(f"conversion failed: {last[0]}")
        report = json.loads(done.stdout.strip().splitlines()[-1])
        return out_file.read_bytes(), str(report["tensorflow"])
