"""The byte strings of a signature."""

import numpy as np
import pytest

from contract import signatures as s
from contract.messages import Signature
from tests.unit.contract.samples import SAMPLES

GOOD = next(m for m in SAMPLES if isinstance(m, Signature))


def test_log_std_survives_within_half_a_step_and_what_is_rounded_survives_exactly():
    values = np.linspace(-7.4, 0.5, 1000)
    back = s.unpack_log_std(s.pack_log_std(values))
    assert np.abs(back - values).max() <= 1 / 64 + 1e-9
    np.testing.assert_array_equal(s.unpack_log_std(s.pack_log_std(s.round_log_std(values))), s.round_log_std(values))


def test_log_std_outside_its_range_ends_at_its_border():
    assert s.unpack_log_std(s.pack_log_std(np.array([9.0, -99.0]))).tolist() == [0.5, 0.5 - 255 / 32]


def test_a_sketch_keeps_its_direction():
    values = np.random.default_rng(0).normal(size=s.SKETCH_SIZE) * 40.0
    back = s.unpack_sketch(s.pack_sketch(values))
    assert back @ values / np.linalg.norm(values) > 0.999
    assert np.linalg.norm(back) == pytest.approx(1.0)


@pytest.mark.parametrize("values", [np.zeros(64), np.ones(63), np.full(64, np.nan)])
def test_no_sketch_without_a_direction(values):
    with pytest.raises(ValueError, match="64 finite values"):
        s.pack_sketch(values)


def test_means_are_halves():
    assert s.unpack_mean(s.pack_mean(np.array([1.5, 0.25]))).tolist() == [1.5, 0.25]


def test_a_good_signature_has_nothing_wrong_with_it():
    assert s.malformed(GOOD) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mean": GOOD.mean[:-2]}, "length"),
        ({"log_std": GOOD.log_std + b"\0"}, "length"),
        ({"mean": b"\x00\x7e" + GOOD.mean[2:]}, "not-finite"),
        ({"prototypes": {"scan": b"\1"}}, "prototype-length"),
        ({"prototypes": {"sorcery": GOOD.log_std}}, "unknown-class"),
        ({"class_rows": (1,) * 64}, "class-rows"),
        ({"anchor": None}, "sketch"),
        ({"sketch": bytes(64)}, "sketch"),
        ({"noise": 2.0}, "noise"),
    ],
)
def test_what_is_wrong_has_a_reason(changes, reason):
    assert s.malformed(GOOD.model_copy(update=changes)) == reason


def test_the_projection_is_the_same_everywhere_and_keeps_angles():
    """The first component is pinned: devices of all versions must project alike."""
    unit = np.zeros(5_000)
    unit[0] = 1.0
    assert np.flatnonzero(s.project_update(unit)).tolist() == [1, 14, 45, 47]
    rng = np.random.default_rng(1)
    a, noise = rng.normal(size=(2, 14_000))
    for share in (0.0, 0.5, 0.9):
        b = share * a + np.sqrt(1 - share**2) * noise
        x, y = s.project_update(a), s.project_update(b)
        assert x @ y / np.linalg.norm(x) / np.linalg.norm(y) == pytest.approx(share, abs=0.3)
