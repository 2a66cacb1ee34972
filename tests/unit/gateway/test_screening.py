"""Every reason an update's content is refused for."""

import numpy as np
import pytest

from contract.canonical import sha256_hex
from contract.model import DEFAULT_SPEC, weights_to_bytes
from contract.quantise import encode_delta
from gateway.screening import content_refusal
from tests.unit.gateway.builders import update

P = DEFAULT_SPEC.n_parameters


def refusal(message, *, device_id="a", max_norm=5.0):
    return content_refusal(
        message, device_id=device_id, spec_id=DEFAULT_SPEC.spec_id, n_parameters=P, max_norm=max_norm
    )


def with_delta(values):
    data = weights_to_bytes(np.asarray(values, dtype=np.float32))
    return update("a", 1, delta=data, delta_digest=sha256_hex(data))


def in_q8(values, *, scale=None, cut=0):
    data = bytearray(encode_delta(np.asarray(values, dtype=np.float32), "q8"))
    if scale is not None:
        data[:4] = np.float32(scale).astype("<f4").tobytes()
    data = bytes(data[: len(data) - cut])
    return update("a", 1, delta_encoding="q8", delta=data, delta_digest=sha256_hex(data))


def spoiled(value):
    values = np.zeros(P)
    values[17] = value
    return values


def test_a_sound_update_passes():
    assert refusal(update("a", 1)) is None
    assert refusal(in_q8(spoiled(1.0))) is None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (update("b", 1), "foreign-device"),
        (update("a", 1, spec_id="0" * 64), "wrong-spec"),
        (update("a", 1, rows=0), "no-rows"),
        (update("a", 1, delta_digest="0" * 64), "delta-digest"),
        (with_delta(np.zeros(P - 1)), "weights-length"),
        (with_delta(np.zeros(P + 1)), "weights-length"),
        (with_delta(spoiled(np.nan)), "weights-not-finite"),
        (with_delta(spoiled(-np.inf)), "weights-not-finite"),
        (with_delta(spoiled(5.01)), "norm-bound"),
        (with_delta(np.full(P, 3e38)), "norm-bound"),
        (in_q8(np.zeros(P), cut=1), "weights-length"),
        (with_delta(np.zeros(P)).model_copy(update={"delta_encoding": "q8"}), "weights-length"),
        (in_q8(spoiled(1.0), scale=np.nan), "weights-scale"),
        (in_q8(spoiled(1.0), scale=-1.0), "weights-scale"),
        (in_q8(spoiled(1.0), scale=3e38), "weights-not-finite"),
        (in_q8(spoiled(5.1)), "norm-bound"),
    ],
)
def test_unsound_content_is_refused(message, reason):
    assert refusal(message) == reason


def test_the_bound_itself_is_allowed():
    assert refusal(with_delta(spoiled(5.0))) is None
