"""The byte strings of a traffic signature: how they are packed, and what is wrong with one that is malformed."""

import numpy as np
import numpy.typing as npt

from contract.features import N_FEATURES, SPAN
from contract.messages import Signature
from contract.mixing import splitmix64
from contract.taxonomy import BENIGN, CLASS_INDEX, N_CLASSES

PROTOTYPE_UNIT = SPAN / 127.0
"""What one step of a prototype's int8 means."""

SKETCH_SIZE = 64
SKETCH_LENGTH = 127.0
"""Euclidean length of a sketch in its int8 units."""

ANCHOR_DIGITS = 16

_LOG_STD_TOP = 0.5
_LOG_STD_STEPS = 32.0
_HALF_BYTES = 2
_HANDS = 4
_ATTACKS = CLASS_INDEX.keys() - {BENIGN}

Values = npt.NDArray[np.float64]


def round_log_std(values: npt.NDArray[np.floating]) -> Values:
    """Return the values that ``pack_log_std`` keeps exactly: steps of 1/32 in ``[-7.47, 0.5]``."""
    steps = np.clip(np.rint((_LOG_STD_TOP - values) * _LOG_STD_STEPS), 0, 255)
    result: Values = _LOG_STD_TOP - steps / _LOG_STD_STEPS
    return result


def pack_log_std(values: npt.NDArray[np.floating]) -> bytes:
    """Pack logarithms of standard deviations, shape ``(n,)``, to one byte each."""
    steps = np.rint((_LOG_STD_TOP - values.astype(np.float64)) * _LOG_STD_STEPS)
    return np.clip(steps, 0, 255).astype(np.uint8).tobytes()


def unpack_log_std(data: bytes) -> Values:
    """Return the logarithms of standard deviations, one per byte."""
    result: Values = _LOG_STD_TOP - np.frombuffer(data, dtype=np.uint8) / _LOG_STD_STEPS
    return result


def pack_mean(values: npt.NDArray[np.floating]) -> bytes:
    """Pack means, shape ``(n,)``, as little-endian float16."""
    return values.astype("<f2").tobytes()


def unpack_mean(data: bytes) -> Values:
    """Return means from little-endian float16, an even number of bytes."""
    return np.frombuffer(data, dtype="<f2").astype(np.float64)


def pack_sketch(values: npt.NDArray[np.floating]) -> bytes:
    """Pack a sketch of ``SKETCH_SIZE`` values: its direction alone is kept.

    Raises
    ------
    ValueError
        If it has another size, no direction, or a value that is not finite.
    """
    length = float(np.linalg.norm(values))
    if values.shape != (SKETCH_SIZE,) or not np.isfinite(length) or length == 0.0:
        raise ValueError(f"a sketch has {SKETCH_SIZE} finite values that are not all 0")
    steps: npt.NDArray[np.int8] = np.rint(values / length * SKETCH_LENGTH).astype(np.int8)
    return steps.tobytes()


def unpack_sketch(data: bytes) -> Values:
    """Return the direction of a sketch, shape ``(len(data),)``, of length 1; all 0 has none and stays 0."""
    values = np.frombuffer(data, dtype=np.int8).astype(np.float64)
    length = float(np.linalg.norm(values))
    return values / length if length else values


def project_update(delta: npt.NDArray[np.floating]) -> Values:
    """Return the seeded projection of an update, shape ``(SKETCH_SIZE,)``.

    Every value is added to, or taken from, ``_HANDS`` of the components; which ones is a hash of its place, so that all
    devices project alike. Angles between long vectors survive to within about ``1 / sqrt(SKETCH_SIZE)``.

    Parameters
    ----------
    delta
        Shape ``(P,)``.
    """
    places = np.arange(len(delta), dtype=np.uint64)
    result = np.zeros(SKETCH_SIZE)
    for hand in range(_HANDS):
        hashed = splitmix64(places * np.uint64(_HANDS) + np.uint64(hand))
        signs = np.where(hashed >> np.uint64(63), 1.0, -1.0)
        bins = (hashed % np.uint64(SKETCH_SIZE)).astype(np.int64)
        result += np.bincount(bins, weights=signs * delta, minlength=SKETCH_SIZE)
    return result


def moment_noise(multiplier: float, flows: int) -> float:
    """Return the standard deviation of the noise in each mean, and in each mean square, of a signature with noise.

    Exchanging one flow moves the sum of all rows (each within ``[0, SPAN]``) and of their squared distances from
    ``SPAN / 2`` together by at most ``sqrt(D * (SPAN**2 + (SPAN / 2)**4))``; the noise is ``multiplier`` times that.

    Parameters
    ----------
    multiplier
        Noise multiplier of the Gaussian mechanism, > 0.
    flows
        Flows behind the signature, > 0.
    """
    reach = float(np.sqrt(N_FEATURES * (SPAN**2 + (SPAN / 2.0) ** 4)))
    return multiplier * reach / flows


def malformed(signature: Signature) -> str | None:
    """Return why a signature cannot be used, ``None`` if it can.

    Returns
    -------
    str or None
        ``length``, ``not-finite``, ``prototype-length``, ``unknown-class``, ``class-rows``, ``sketch``: a sketch and
        its anchor belong together, and it has a direction; ``noise``: with noise in the moments there are flows, and
        nothing else goes.
    """
    if (len(signature.mean), len(signature.log_std)) != (_HALF_BYTES * N_FEATURES, N_FEATURES):
        return "length"
    if not np.isfinite(unpack_mean(signature.mean)).all():
        return "not-finite"
    if any(len(values) != N_FEATURES for values in signature.prototypes.values()):
        return "prototype-length"
    if not signature.prototypes.keys() <= _ATTACKS:
        return "unknown-class"
    if len(signature.class_rows) > N_CLASSES:
        return "class-rows"
    if (signature.sketch is None) != (signature.anchor is None) or not any(signature.sketch or b"\1"):
        return "sketch"
    told = signature.prototypes or signature.class_rows or signature.sketch
    return "noise" if signature.noise is not None and (told or not signature.flows) else None
