"""What an int8 export is made from: the weights of a release, and rows that show which values occur."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from contract.errors import WeightsError
from contract.features import SCHEMA_ID, SPAN
from contract.messages import Signature
from contract.model import ModelSpec, weights_from_bytes
from contract.signatures import PROTOTYPE_UNIT, malformed, unpack_log_std, unpack_mean
from gateway.conversion.verify import ArtifactError
from gateway.store import Store

SYNTHETIC = "synthetic"
ROWS = 1_024
MIN_ROWS = 100
"""Fewer rows say too little about the ranges of activations."""

Floats = npt.NDArray[np.float32]


def read_weights(spec: ModelSpec, path: Path) -> Floats:
    """Return weights from a NumPy file or from little-endian float32 bytes.

    Raises
    ------
    ArtifactError
        If the file cannot be read or does not fit the spec.
    """
    try:
        data = _array(path).astype("<f4", casting="same_kind").tobytes() if path.suffix == ".npy" else path.read_bytes()
        return weights_from_bytes(data, n_parameters=spec.n_parameters)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
    except TypeError as error:
        raise ArtifactError(f"{path}: weights are float32: {error}") from error
    except WeightsError as error:
        raise ArtifactError(f"{path}: {error}") from error


def stored_weights(spec: ModelSpec, name: str, store: Store) -> Floats:
    """Return the weights of a release in the gateway's store.

    Parameters
    ----------
    spec
        The architecture.
    name
        A target that has a current model (``fallback`` or a family's id), or the first digits of a digest.
    store
        Of the gateway.

    Raises
    ------
    ArtifactError
        If no model or more than one has that name, or it is of another architecture.
    """
    heads = store.models.heads()
    digests = [heads[name][0]] if name in heads else []
    digests = digests or [model.digest for model in store.models.all() if model.digest.startswith(name)]
    if len(digests) != 1:
        raise ArtifactError(f"{len(digests)} models in the store are called {name}; see kinwatch-gateway models --json")
    release = store.models.release(digests[0])
    if release is None or release.manifest.spec_id != spec.spec_id:
        raise ArtifactError(f"model {digests[0][:12]} is not of the spec {spec.name} {spec.spec_id[:12]}")
    return weights_from_bytes(release.weights, n_parameters=spec.n_parameters)


def read_rows(spec: ModelSpec, path: Path) -> Floats:
    """Return representative rows from a NumPy file, shape ``(n, D)``, already under the contract's transform.

    Raises
    ------
    ArtifactError
        If the file cannot be read, or its rows are too few, of another width or outside the transform's range.
    """
    try:
        rows = _array(path)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
    if rows.ndim != 2 or rows.shape[1] != spec.inputs or len(rows) < MIN_ROWS:
        raise ArtifactError(f"{path}: shape {rows.shape}; wanted at least {MIN_ROWS} rows of {spec.inputs}")
    if not np.isfinite(rows).all() or rows.min() < 0.0 or rows.max() > SPAN:
        raise ArtifactError(f"{path}: values outside 0..{SPAN}; the rows must be under the contract's transform")
    return rows.astype(np.float32)


def synthetic_rows(spec: ModelSpec, signatures: list[Signature], rng: np.random.Generator) -> tuple[Floats, str]:
    """Return rows that look like the fleet's traffic signatures, and what they are.

    Each device gives rows around its moments, and around its prototypes of attacks. Without signatures of this schema
    half of the values are 0, as in flows, and the others anything in range.
    """
    known = [s for s in signatures if s.schema_id == spec.schema_id == SCHEMA_ID and malformed(s) is None]
    if not known:
        rows = rng.uniform(0.0, SPAN, size=(ROWS, spec.inputs)) * (rng.random((ROWS, spec.inputs)) < 0.5)
        return rows.astype(np.float32), "synthetic, no signatures: half zeros, half uniform"
    each = max(16, -(-ROWS // len(known)))
    parts = [_around(signature, each, rng) for signature in known]
    return np.concatenate(parts), f"synthetic, from the signatures of {len(known)} devices"


def _around(signature: Signature, n: int, rng: np.random.Generator) -> Floats:
    mean, std = unpack_mean(signature.mean), np.exp(unpack_log_std(signature.log_std))
    kinds = [np.frombuffer(p, dtype=np.int8).astype(np.float64) for p in signature.prototypes.values()]
    shifts = [np.zeros_like(mean), *(kind * PROTOTYPE_UNIT for kind in kinds)]
    middle = mean + np.array(shifts)[rng.integers(0, len(shifts), size=n)]
    return np.clip(rng.normal(middle, std), 0.0, SPAN).astype(np.float32)


def _array(path: Path) -> npt.NDArray[np.generic]:
    try:
        loaded = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ArtifactError(f"{path}: no NumPy file: {error}") from error
    if not isinstance(loaded, np.ndarray):
        raise ArtifactError(f"{path}: holds several arrays; one is wanted")
    return loaded
