"""Who is there: liveness by the gateway's clock, sessions, signatures, refusals."""

import pytest

from contract.features import N_FEATURES
from contract.model import DEFAULT_SPEC
from gateway.registry import Device, DeviceChanged, Refused, Registry, SignatureStored, signature_vector
from tests.unit.gateway.builders import birth, signature, status, telemetry

OFFLINE_AFTER_S = 30.0


def registry(**memory):
    return Registry(spec_id=DEFAULT_SPEC.spec_id, offline_after_s=OFFLINE_AFTER_S, **memory)


def ready(r, device_id="a", now=0.0):
    for message in (birth(device_id), status(device_id), telemetry(device_id)):
        r.handle(message, now)
    return r.devices[device_id]


def test_a_device_that_was_born_is_ready_and_has_rows_can_train():
    device = ready(registry())
    assert device.can_train
    assert device.train_rows == 500


@pytest.mark.parametrize("messages", [[birth("a")], [status("a"), telemetry("a")]])
def test_without_birth_or_status_it_cannot(messages):
    r = registry()
    for message in messages:
        r.handle(message, 0.0)
    assert not r.devices["a"].can_train


@pytest.mark.parametrize("state", ["init", "disconnected", "lost"])
def test_it_cannot_in_a_state_without_work(state):
    r = registry()
    ready(r)
    r.handle(status("a", state), 1.0)
    assert not r.devices["a"].can_train


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"contract_version": "2.0"}, "contract-major"),
        ({"schema_id": "0" * 64}, "schema-mismatch"),
        ({"spec_id": "0" * 64}, "spec-mismatch"),
    ],
)
def test_a_birth_that_does_not_fit_is_refused_and_the_device_stays_visible(changes, reason):
    r = registry()
    effects = r.handle(birth("a", **changes), 0.0)
    assert Refused("a", "birth", reason) in effects
    r.handle(status("a"), 0.0)
    assert r.devices["a"].refusal == reason
    assert not r.devices["a"].can_train


def test_a_birth_that_fits_again_ends_the_refusal():
    r = registry()
    r.handle(birth("a", spec_id="0" * 64), 0.0)
    assert ready(r).can_train


def test_silence_makes_it_offline_once_and_a_word_brings_it_back():
    r = registry()
    ready(r)
    assert r.tick(OFFLINE_AFTER_S) == []
    (gone,) = r.tick(OFFLINE_AFTER_S + 0.1)
    assert not gone.device.online
    assert r.tick(OFFLINE_AFTER_S + 9.0) == []
    r.handle(telemetry("a"), 50.0)
    assert r.devices["a"].can_train


def test_the_last_will_of_an_earlier_session_is_refused():
    """It reaches us after the device came back under a new session."""
    r = registry()
    ready(r)
    r.handle(birth("a", session="s2"), 1.0)
    r.handle(status("a", session="s2"), 1.0)
    assert r.handle(status("a", "lost", session="s1"), 2.0) == [Refused("a", "status", "old-session")]
    assert r.devices["a"].can_train


def test_a_restored_device_is_offline_until_heard():
    r = registry(devices=[Device("a", online=True, refusal=None, state="ready", train_rows=500)])
    assert not r.devices["a"].can_train
    r.handle(status("a"), 0.0)
    assert r.devices["a"].can_train


def test_a_signature_counts_its_flows_as_rows_until_telemetry_says_better():
    r = registry()
    r.handle(birth("a"), 0.0)
    effects = r.handle(signature("a", flows=320), 0.0)
    assert effects[0] == SignatureStored(signature("a", flows=320))
    assert r.devices["a"].train_rows == 320
    r.handle(telemetry("a", rows=900), 0.0)
    r.handle(signature("a", sequence=2, flows=400), 0.0)
    assert r.devices["a"].train_rows == 900


def test_a_retained_signature_that_comes_again_is_nothing_new():
    r = registry()
    r.handle(signature("a"), 0.0)
    assert r.handle(signature("a"), 0.0) == []


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (signature("a", sequence=4), "old-sequence"),
        (signature("a", sequence=9).model_copy(update={"schema_id": "0" * 64}), "schema-mismatch"),
        (signature("a", sequence=9).model_copy(update={"mean": b"\0" * (2 * N_FEATURES - 2)}), "length"),
        (signature("a", sequence=9, value=float("nan")), "not-finite"),
        (signature("a", sequence=9, value=float("inf")), "not-finite"),
    ],
)
def test_a_signature_that_is_off_is_refused_and_the_last_one_stays(message, reason):
    r = registry()
    r.handle(signature("a", sequence=5, value=2.0), 0.0)
    assert r.handle(message, 0.0) == [Refused("a", "signature", reason)]
    assert r.vectors["a"].tolist() == [2.0] * N_FEATURES + [-2.0] * N_FEATURES


def test_restored_signatures_keep_their_sequence():
    r = registry(signatures=[signature("a", sequence=5)])
    assert r.handle(signature("a", sequence=3), 0.0) == [Refused("a", "signature", "old-sequence")]


def test_a_vector_is_means_then_spreads():
    message = signature("a").model_copy(update={"log_std": bytes([112]) * N_FEATURES})
    assert signature_vector(message).tolist() == [1.0] * N_FEATURES + [-3.0] * N_FEATURES


def test_every_change_is_to_be_stored():
    effects = registry().handle(status("a"), 0.0)
    assert [type(effect) for effect in effects] == [DeviceChanged]
