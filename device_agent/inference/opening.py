"""Opens an engine on checked bytes and tests it; knows no files, so the training process stays small."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from contract.canonical import sha256_hex
from contract.initial import initial_theta
from contract.layout import Layout
from device_agent.inference.engine import Engine
from device_agent.inference.litert import LiteRTEngine, RuntimeMissingError
from device_agent.inference.numpy_engine import NumpyEngine

_SELF_TEST_TOLERANCE = 1e-4
"""Relative; ten times what rounding does, a thousandth of what a wrong formula does."""


class EngineError(RuntimeError):
    """The engine that was asked for cannot be used; the message says why."""


class StatesBytes(Protocol):
    """A manifest that says how many bytes a file has, and their SHA-256."""

    @property
    def size_bytes(self) -> int:
        """Length of the file."""

    @property
    def sha256(self) -> str:
        """Digest of the file."""


def check_bytes(what: str, blob: bytes, manifest: StatesBytes) -> None:
    """Raise :class:`EngineError` unless size and digest are those of the manifest; ``what`` names the file."""
    if len(blob) != manifest.size_bytes:
        raise EngineError(f"the {what} has {len(blob)} bytes, its manifest says {manifest.size_bytes}")
    if sha256_hex(blob) != manifest.sha256:
        raise EngineError(f"the {what}'s SHA-256 differs from its manifest's")


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


def open_engine(layout: Layout, artifact: bytes | None, *, strict: bool = False) -> LoadedEngine:
    """Return an engine for one thread.

    Parameters
    ----------
    layout
        The architecture.
    artifact
        A ``.tflite`` whose digest was checked, ``None`` = NumPy.
    strict
        Raise where LiteRT cannot be used, instead of falling back to NumPy.

    Raises
    ------
    EngineError
        With ``strict`` only.
    """
    if artifact is None:
        return LoadedEngine(NumpyEngine(layout), "NumPy, as configured")
    try:
        engine = LiteRTEngine(layout, artifact)
        self_test(engine)
    except (EngineError, RuntimeMissingError, ValueError) as error:
        if strict:
            raise EngineError(str(error)) from error
        return LoadedEngine(NumpyEngine(layout), f"NumPy, since {error}")
    return LoadedEngine(engine, "LiteRT passed its self test")


def self_test(engine: Engine) -> None:
    """Compare an engine with the NumPy engine on a few fixed rows; takes milliseconds.

    Raises
    ------
    EngineError
        If gradient, probabilities, errors or confusion differ.
    """
    layout = engine.layout
    oracle = NumpyEngine(layout)
    rng = np.random.default_rng(20)
    n = min(5, layout.train_batch)
    theta = initial_theta(layout, rng)
    x = rng.uniform(0.0, 3.0, size=(n, layout.inputs)).astype(np.float32)
    y = rng.integers(-1, layout.classes, size=n).astype(np.int32)
    wc, wr = rng.uniform(0.0, 2.0, size=(2, n)).astype(np.float32)
    wanted, given = (e.gradient(theta, x, y, wc, wr, recon_weight=0.7) for e in (oracle, engine))
    focal, focal_given = (e.gradient(theta, x, y, wc, wr, recon_weight=0.7, gamma=2.0) for e in (oracle, engine))
    expected, seen = (e.infer(theta, x) for e in (oracle, engine))
    truth, found = (e.evaluate(theta, x, y, wc, wr) for e in (oracle, engine))
    differences = {
        "gradient": _relative(given.grad, wanted.grad),
        "focal gradient": _relative(focal_given.grad, focal.grad),
        "class loss": _relative(np.array(given.loss_class), np.array(wanted.loss_class)),
        "reconstruction loss": _relative(np.array(given.loss_recon), np.array(wanted.loss_recon)),
        "probabilities": _relative(seen.probs, expected.probs),
        "reconstruction error": _relative(seen.err, expected.err),
        "confusion": _relative(found.confusion, truth.confusion),
    }
    for what, difference in differences.items():
        if not difference < _SELF_TEST_TOLERANCE:
            raise EngineError(f"{engine.name} fails its self test: {what} is off by {difference:.1e}")


def _relative(value: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    scale = max(float(np.abs(reference).max(initial=0.0)), 1e-6)
    return float(np.abs(value - reference).max(initial=0.0)) / scale
