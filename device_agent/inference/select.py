"""Choice of the engine: LiteRT if it is there and right, else NumPy with the reason."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

import numpy as np
from pydantic import ValidationError

from contract.canonical import sha256_hex
from contract.initial import initial_theta
from contract.model import ArtifactManifest, ModelSpec
from device_agent.inference.engine import Engine
from device_agent.inference.litert import LiteRTEngine, RuntimeMissingError
from device_agent.inference.numpy_engine import NumpyEngine

Preference = Literal["auto", "litert", "numpy"]
_SELF_TEST_TOLERANCE = 1e-4
"""Relative; ten times what rounding does, a thousandth of what a wrong formula does."""


class EngineError(RuntimeError):
    """The engine that was asked for cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine and why it was chosen.

    Attributes
    ----------
    engine
        Ready for one thread.
    reason
        One line for the log.
    """

    engine: Engine
    reason: str


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
    folder = files("device_agent.artifacts")
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
    if len(blob) != manifest.size_bytes:
        raise EngineError(f"the artifact has {len(blob)} bytes, its manifest says {manifest.size_bytes}")
    if sha256_hex(blob) != manifest.sha256:
        raise EngineError("the artifact's SHA-256 differs from its manifest's")


def self_test(engine: Engine) -> None:
    """Compare an engine with the NumPy engine on a few fixed rows; takes milliseconds.

    Raises
    ------
    EngineError
        If gradient, probabilities, errors or confusion differ.
    """
    spec = engine.spec
    oracle = NumpyEngine(spec)
    rng = np.random.default_rng(20)
    n = min(5, spec.train_batch)
    theta = initial_theta(spec, rng)
    x = rng.uniform(0.0, 3.0, size=(n, spec.inputs)).astype(np.float32)
    y = rng.integers(-1, spec.classes, size=n).astype(np.int32)
    wc, wr = rng.uniform(0.0, 2.0, size=(2, n)).astype(np.float32)
    ours, theirs = (e.gradient(theta, x, y, wc, wr, 0.7) for e in (oracle, engine))
    seen, expected = engine.infer(theta, x), oracle.infer(theta, x)
    truth, found = oracle.evaluate(theta, x, y, wc, wr), engine.evaluate(theta, x, y, wc, wr)
    differences = {
        "gradient": _relative(theirs.grad, ours.grad),
        "class loss": _relative(np.array(theirs.loss_class), np.array(ours.loss_class)),
        "reconstruction loss": _relative(np.array(theirs.loss_recon), np.array(ours.loss_recon)),
        "probabilities": _relative(seen.probs, expected.probs),
        "reconstruction error": _relative(seen.err, expected.err),
        "confusion": _relative(found.confusion, truth.confusion),
    }
    for what, difference in differences.items():
        if not difference < _SELF_TEST_TOLERANCE:
            raise EngineError(f"{engine.name} fails its self test: {what} is off by {difference:.1e}")


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
        return LoadedEngine(NumpyEngine(spec), "NumPy, as configured")
    try:
        engine = LiteRTEngine(spec, load_artifact(spec))
        self_test(engine)
    except (EngineError, RuntimeMissingError, ValueError) as error:
        if prefer == "litert":
            raise EngineError(str(error)) from error
        return LoadedEngine(NumpyEngine(spec), f"NumPy, since {error}")
    return LoadedEngine(engine, "LiteRT passed its self test")


def _relative(value: np.ndarray, reference: np.ndarray) -> float:  # type: ignore[type-arg]  # any float dtype
    scale = max(float(np.abs(reference).max(initial=0.0)), 1e-6)
    return float(np.abs(value - reference).max(initial=0.0)) / scale
