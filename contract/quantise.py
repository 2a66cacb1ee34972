"""Deltas as bytes: float32, or ``q8`` with eight bits a value and a scale for every 256 of them. No I/O.

``q8`` is the scales first, little-endian float32, then one signed byte a value: a value is byte times scale.
"""

import numpy as np
import numpy.typing as npt

from contract.errors import WeightsError
from contract.messages.learning import DeltaEncoding
from contract.model import weights_from_bytes, weights_to_bytes

BLOCK = 256
"""Values that share a scale."""
_LEVELS = np.float32(127.0)
_SMALLEST = np.float32(1e-30)


def encode_delta(delta: npt.NDArray[np.float32], encoding: DeltaEncoding) -> bytes:
    """Return the bytes of a delta of shape ``(P,)`` with finite values."""
    if encoding == "float32":
        return weights_to_bytes(delta)
    blocks = _blocks(delta)
    # Two numbers next to the largest float32 would have a scale that rounds up beyond it.
    scales = np.maximum(np.abs(blocks).max(axis=1) / _LEVELS, _SMALLEST).astype(np.float32)
    values = np.clip(np.rint(blocks / scales[:, None]), -_LEVELS, _LEVELS).astype(np.int8)
    return bytes(scales.astype("<f4").tobytes() + values.reshape(-1)[: len(delta)].tobytes())


def decode_delta(data: bytes, encoding: DeltaEncoding, *, n_parameters: int) -> npt.NDArray[np.float32]:
    """Return the delta that the bytes stand for, shape ``(P,)``.

    Raises
    ------
    WeightsError
        If the length is off (``weights-length``), a scale is negative or not finite (``weights-scale``), or a value is
        not finite (``weights-not-finite``).
    """
    if encoding == "float32":
        return weights_from_bytes(data, n_parameters=n_parameters)
    n_blocks = -(-n_parameters // BLOCK)
    expected = 4 * n_blocks + n_parameters
    if len(data) != expected:
        raise WeightsError(f"q8 weights have {len(data)} bytes, {expected} are expected", reason="weights-length")
    scales = np.frombuffer(data, dtype="<f4", count=n_blocks).astype(np.float32)
    if not (np.isfinite(scales) & (scales >= 0.0)).all():
        raise WeightsError("q8 weights hold a scale that is negative or not finite", reason="weights-scale")
    blocks = _blocks(np.frombuffer(data, dtype=np.int8, offset=4 * n_blocks).astype(np.float32))
    with np.errstate(over="ignore"):
        delta = (blocks * scales[:, None]).reshape(-1)[:n_parameters]
    if not np.isfinite(delta).all():
        raise WeightsError("q8 weights stand for values that are not finite", reason="weights-not-finite")
    return delta


def _blocks(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    padded = np.zeros(-(-len(values) // BLOCK) * BLOCK, dtype=np.float32)
    padded[: len(values)] = values
    return padded.reshape(-1, BLOCK)
