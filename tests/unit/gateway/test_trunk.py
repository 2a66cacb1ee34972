"""The encoders of all models move together; heads keep to their own devices."""

import numpy as np
import pytest

from contract.layout import Layout
from gateway.aggregation import ClippedMean, FedAvg
from gateway.aggregation.trunk import common_encoder, encoder_slice, with_encoder

LAYOUT = Layout(3, 2, (4, 2), 8)
ENCODER = encoder_slice(LAYOUT)


def constant(value):
    return np.full(LAYOUT.n_parameters, value, dtype=np.float32)


def test_the_encoder_is_the_leading_part_without_heads():
    assert slice(0, 3 * 4 + 4 + 4 * 2 + 2) == ENCODER


def test_the_common_encoder_is_what_the_rule_makes_of_all_devices():
    common = common_encoder(FedAvg(), {"a": constant(1.0), "b": constant(3.0)}, {"a": 1.0, "b": 3.0}, ENCODER)
    assert common == pytest.approx(np.full(ENCODER.stop, 2.5))


def test_only_the_encoder_of_a_model_is_replaced():
    own = constant(7.0)
    result = with_encoder(own, ENCODER, np.zeros(ENCODER.stop, dtype=np.float32))
    assert not result[ENCODER].any()
    assert (result[ENCODER.stop :] == 7.0).all()
    assert (own == 7.0).all()


def test_a_hostile_encoder_meets_the_same_rule():
    updates = {f"d{i}": constant(0.1) for i in range(9)} | {"evil": constant(-50.0)}
    common = common_encoder(ClippedMean(), updates, dict.fromkeys(updates, 1.0), ENCODER)
    assert common == pytest.approx(np.full(ENCODER.stop, 0.1), rel=1e-4)


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        common_encoder(FedAvg(), {"a": constant(np.nan)}, {"a": 1.0}, ENCODER)
