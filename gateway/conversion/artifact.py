"""Writes artifacts: converts in a process of its own, passes the gate, then puts file and manifest in place."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import contract
from contract.canonical import sha256_hex
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
    blob, tensorflow = _convert(spec, python or os.environ.get(PYTHON_VARIABLE) or sys.executable)
    manifest = ArtifactManifest(
        sha256=sha256_hex(blob),
        size_bytes=len(blob),
        spec=spec,
        operators=operators(blob),
        builder=f"tensorflow {tensorflow}, contract {contract.CONTRACT_VERSION}",
    )
    passed = verify_artifact(blob, manifest)
    out_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n"
    for path, data in ((out_dir / f"{stem(spec)}.tflite", blob), (out_dir / f"{stem(spec)}.json", text.encode())):
        temporary = path.with_suffix(path.suffix + ".new")
        temporary.write_bytes(data)
        temporary.replace(path)
    return manifest, passed


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


def _convert(spec: ModelSpec, python: str) -> tuple[bytes, str]:
    """Return the file and the version of TensorFlow that made it."""
    packages = str(Path(contract.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": packages, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as folder:
        spec_file, out_file = Path(folder, "spec.json"), Path(folder, "model.tflite")
        spec_file.write_text(spec.model_dump_json())
        command = [python, "-m", "gateway.conversion.builder", str(spec_file), str(out_file)]
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
