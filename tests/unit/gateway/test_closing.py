"""From stored updates to a signed model."""

import numpy as np
import pytest

from contract.messages import TrainTarget
from contract.model import DEFAULT_SPEC, weights_digest, weights_from_bytes, weights_to_bytes
from gateway.aggregation import ServerState
from gateway.closing import Aggregator
from gateway.config import AggregationConfig
from gateway.rounds import Aggregate
from gateway.store.rounds import StoredDelta
from tests.unit.gateway.test_store import NoSigner

P = DEFAULT_SPEC.n_parameters
BASE = np.full(P, 1.0, dtype=np.float32)


def stored(device_id, value, rows=100):
    return StoredDelta(device_id, rows, weights_to_bytes(np.full(P, value, dtype=np.float32)))


def run(updates, *, devices=None, state=None, role="fallback", family_id=None, **settings):
    aggregator = Aggregator(DEFAULT_SPEC, AggregationConfig(**settings))
    target = TrainTarget(role=role, family_id=family_id, base=weights_digest(BASE))
    wanted = tuple(u.device_id for u in updates) if devices is None else devices
    return aggregator.run(
        Aggregate(target, wanted), updates, BASE, state or ServerState.fresh(), number=4, signer=NoSigner()
    )


def theta_of(model):
    return weights_from_bytes(model.release.weights, n_parameters=P)


def test_plain_averaging_adds_the_mean_to_the_base():
    result, model = run([stored("a", 0.1), stored("b", 0.3)], rule="fedavg", server="none")
    assert theta_of(model) == pytest.approx(1.2)
    assert (result.target, result.devices, result.reason) == ("fallback", ("a", "b"), "aggregated")
    assert result.digest == model.release.manifest.weights_digest


def test_the_manifest_tells_the_lineage():
    _, model = run([stored(d, 0.1) for d in "abc"], role="expert", family_id="family-2")
    manifest = model.release.manifest
    assert (manifest.role, manifest.family_id, manifest.round_number) == ("expert", "family-2", 4)
    assert manifest.parent == weights_digest(BASE)
    assert model.target == "family-2"
    assert model.norm == pytest.approx(np.linalg.norm(theta_of(model)), rel=1e-6)


def test_only_the_named_devices_count():
    """An update that was stored and then not named, as of a device that was expelled, stays out."""
    result, model = run([stored("a", 0.1), stored("z", 9.0)], devices=("a",), rule="fedavg", server="none")
    assert theta_of(model) == pytest.approx(1.1)
    assert result.devices == ("a",)


def test_rows_weigh_by_their_root():
    _, model = run([stored("a", 0.0, rows=100), stored("b", 0.3, rows=400)], rule="fedavg", server="none")
    assert theta_of(model) == pytest.approx(1.2)


def test_the_optimiser_state_carries_over():
    """A second round with the same delta moves by another length than the first, since it has momentum."""
    _, first = run([stored("a", 0.1)], server="fedadam")
    _, second = run([stored("a", 0.1)], state=first.state, server="fedadam")
    assert second.state.step == 2
    assert np.linalg.norm(theta_of(second) - BASE) > 1.2 * np.linalg.norm(theta_of(first) - BASE)


def test_no_change_is_no_model():
    result, model = run([stored("a", 0.0)])
    assert model is None
    assert (result.digest, result.reason) == (None, "unchanged")


def test_a_result_that_overflows_is_no_model():
    """Base and move are finite, their sum is not."""
    huge = np.full(P, 3e38, dtype=np.float32)
    aggregator = Aggregator(DEFAULT_SPEC, AggregationConfig(rule="fedavg", server="none"))
    aggregate = Aggregate(TrainTarget(role="fallback", base="0" * 64), ("a",))
    result, model = aggregator.run(
        aggregate, [stored("a", 3e38)], huge, ServerState.fresh(), number=1, signer=NoSigner()
    )
    assert model is None
    assert result.reason == "not-finite"


def aggregate(role, devices, family_id=None):
    return Aggregate(TrainTarget(role=role, family_id=family_id, base=weights_digest(BASE)), devices)


def test_the_encoder_of_an_expert_moves_by_the_updates_of_all_devices_and_its_head_by_its_own():
    aggregator = Aggregator(DEFAULT_SPEC, AggregationConfig(rule="fedavg"))
    fallback, expert = aggregate("fallback", ("a", "b")), aggregate("expert", ("b",), "family-1")
    updates = [(fallback, [stored("a", 0.2), stored("b", 9.0)]), (expert, [stored("b", 0.4)])]
    encoder = aggregator.encoder_delta(updates)
    assert encoder == pytest.approx(0.3)  # b counts with its expert, not with the fallback it trained as well
    _, model = aggregator.run(
        expert, updates[1][1], BASE, ServerState.fresh(), number=4, signer=NoSigner(), encoder=encoder
    )
    theta = theta_of(model)
    assert theta[: len(encoder)] == pytest.approx(1.3)
    assert theta[len(encoder) :] == pytest.approx(1.4)


@pytest.mark.parametrize("common", [True, False])
def test_one_model_alone_or_encoders_of_their_own_have_no_common_delta(common):
    aggregator = Aggregator(DEFAULT_SPEC, AggregationConfig(common_encoder=common))
    one = (aggregate("fallback", ("a",)), [stored("a", 0.2)])
    two = (aggregate("expert", ("b",), "family-1"), [stored("b", 0.4)])
    assert aggregator.encoder_delta([one]) is None
    assert (aggregator.encoder_delta([one, two]) is not None) == common
