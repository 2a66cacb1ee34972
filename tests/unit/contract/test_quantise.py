"""Eight bits a value: what comes back, how long it is, and what is refused."""

import numpy as np
import pytest

from contract.errors import WeightsError
from contract.quantise import BLOCK, decode_delta, encode_delta

N = 3 * BLOCK + 17


def some(seed, scale=0.01):
    return np.random.default_rng(seed).normal(0.0, scale, N).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_a_value_comes_back_within_half_a_step_of_its_block(seed):
    delta = some(seed) * np.float32(10.0) ** np.random.default_rng(seed).integers(-6, 6, N).astype(np.float32)
    data = encode_delta(delta, "q8")
    back = decode_delta(data, "q8", n_parameters=N)
    assert len(data) == N + 4 * 4
    steps = np.repeat(np.frombuffer(data, "<f4", count=4), BLOCK)[:N]
    assert (np.abs(back - delta) <= steps * 0.5001).all()
    assert np.abs(back).max() == pytest.approx(np.abs(delta).max(), rel=1e-6)


def test_float32_is_exact_and_zeros_stay_zeros():
    assert np.array_equal(decode_delta(encode_delta(some(1), "float32"), "float32", n_parameters=N), some(1))
    zeros = np.zeros(N, np.float32)
    assert np.array_equal(decode_delta(encode_delta(zeros, "q8"), "q8", n_parameters=N), zeros)


def test_the_largest_float_survives():
    delta = np.full(N, np.finfo(np.float32).max, np.float32)
    assert np.isfinite(decode_delta(encode_delta(delta * np.float32(0.999), "q8"), "q8", n_parameters=N)).all()


@pytest.mark.parametrize(
    ("scale", "reason"),
    [(np.nan, "weights-scale"), (np.inf, "weights-scale"), (-1.0, "weights-scale"), (3e38, "weights-not-finite")],
)
def test_a_bad_scale_is_refused(scale, reason):
    data = bytearray(encode_delta(some(2), "q8"))
    data[4:8] = np.float32(scale).astype("<f4").tobytes()
    with pytest.raises(WeightsError) as caught:
        decode_delta(bytes(data), "q8", n_parameters=N)
    assert caught.value.reason == reason


@pytest.mark.parametrize("change", [1, -1, -N])
def test_another_length_is_refused(change):
    data = encode_delta(some(3), "q8")
    with pytest.raises(WeightsError) as caught:
        decode_delta((data + b"x")[: len(data) + change] if change > 0 else data[:change], "q8", n_parameters=N)
    assert caught.value.reason == "weights-length"
