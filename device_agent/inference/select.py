"""Choice of the engine: LiteRT if it is there and right, else NumPy with the reason."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from contract.model import ArtifactManifest, ModelSpec
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.inference.opening import EngineError, LoadedEngine, check_bytes, open_engine
from device_agent.inference.probe import probe

Preference = Literal["auto", "litert", "numpy"]
"""Which engine is wanted."""


def load_artifact(spec: ModelSpec) -> bytes:
    """Return the packaged ``.tflite`` of a spec after checking size, digest and spec.

    Parameters
    ----------
    spec
        The architecture that is wanted.

    Returns
    -------
    bytes
        A file that is safe to give to a runtime.

    Raises
    ------
    EngineError
        If there is no artifact for the spec, or it is damaged.
    """
    stem = f"{spec.name.replace('-', '_')}_v{spec.version}"
    folder = Path(__file__).resolve().parents[1] / "artifacts"
    try:
        manifest = ArtifactManifest.model_validate_json(folder.joinpath(f"{stem}.json").read_bytes())
        blob = folder.joinpath(f"{stem}.tflite").read_bytes()
    except FileNotFoundError as error:
        raise EngineError(f"no artifact for model {spec.name} version {spec.version}: {error}") from error
    except ValidationError as error:
        raise EngineError(f"{stem}.json is no artifact manifest: {error.errors()[0]['msg']}") from error
    check_artifact(spec, manifest, blob)
    return blob


def check_artifact(spec: ModelSpec, manifest: ArtifactManifest, blob: bytes) -> None:
    """Raise :class:`EngineError` unless the file is the one its manifest states, built for ``spec``."""
    if manifest.spec.spec_id != spec.spec_id:
        raise EngineError(
            f"the artifact is built for spec {manifest.spec.spec_id[:12]}, the agent wants {spec.spec_id[:12]}"
        )
    check_bytes("artifact", blob, manifest)


def load_engine(spec: ModelSpec, prefer: Preference = "auto") -> LoadedEngine:
    """Return an engine for one thread.

    Parameters
    ----------
    spec
        The architecture.
    prefer
        ``auto``: LiteRT, and NumPy with the reason if LiteRT cannot be used; ``litert``: that or an error;
        ``numpy``: NumPy.

    Returns
    -------
    LoadedEngine
        The engine has passed its self test.

    Raises
    ------
    EngineError
        With ``prefer="litert"``, if the artifact or the runtime is missing, damaged or wrong.
    """
    if prefer == "numpy":
        return LoadedEngine(NumpyEngine(spec.layout), "NumPy, as configured")
    try:
        return open_engine(spec.layout, load_artifact(spec), strict=prefer == "litert")
    except EngineError as error:
        if prefer == "litert":
            raise
        return LoadedEngine(NumpyEngine(spec.layout), f"NumPy, since {error}")


@dataclass(frozen=True, slots=True)
class TrainingEngine:
    """What the training process shall use.

    Attributes
    ----------
    name
        ``litert`` or ``numpy``.
    reason
        One line for the birth message.
    artifact
        Checked ``.tflite`` for the training process, ``None`` for NumPy.
    """

    name: str
    reason: str
    artifact: bytes | None


def choose_training_engine(spec: ModelSpec, prefer: Preference = "auto") -> TrainingEngine:
    """Return the engine for training, tried in a process of its own: this one never loads a runtime.

    Parameters
    ----------
    spec, prefer
        As in :func:`load_engine`.

    Raises
    ------
    EngineError
        With ``prefer="litert"``, if the artifact or the runtime is missing, damaged or wrong.
    """
    if prefer == "numpy":
        return TrainingEngine("numpy", "NumPy, as configured", None)
    try:
        artifact = load_artifact(spec)
    except EngineError as error:
        if prefer == "litert":
            raise
        return TrainingEngine("numpy", f"NumPy, since {error}", None)
    name, reason = probe(spec.layout, artifact)
    if name != "litert" and prefer == "litert":
        raise EngineError(reason.removeprefix("NumPy, since "))
    return TrainingEngine(name, reason, artifact if name == "litert" else None)
