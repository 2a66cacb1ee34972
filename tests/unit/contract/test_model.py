"""Model specs, the flat vector and release manifests."""

import numpy as np
import pytest
from pydantic import ValidationError

from contract.canonical import canonical_json
from contract.errors import WeightsError
from contract.model import (
    AUTOENCODER_SPEC,
    BUILT_IN_SPECS,
    CLASSIFIER_SPEC,
    DEFAULT_SPEC,
    ModelSpec,
    ReleaseManifest,
    weights_digest,
    weights_from_bytes,
    weights_to_bytes,
)


def test_slices_tile_the_vector_without_gap_or_overlap():
    start = 0
    for where, shape in DEFAULT_SPEC.slices().values():
        assert where.start == start
        assert where.stop - where.start == int(np.prod(shape))
        start = where.stop
    assert start == DEFAULT_SPEC.n_parameters == 10143


def test_the_decoder_mirrors_the_encoder():
    widths = {name: (a, b) for name, a, b in DEFAULT_SPEC.layers()}
    assert widths["encoder0"] == widths["decoder1"][::-1]
    assert widths["encoder1"] == widths["decoder0"][::-1]
    assert widths["classifier"] == (24, 10)


@pytest.mark.parametrize("change", [{"hidden": (48, 25)}, {"version": 2}, {"train_batch": 64}, {"schema_id": "0" * 64}])
def test_any_change_of_a_spec_changes_its_id(change: dict[str, object]):
    assert DEFAULT_SPEC.model_copy(update=change).spec_id != DEFAULT_SPEC.spec_id


def test_weights_round_trip():
    theta = np.random.default_rng(0).normal(size=100).astype(np.float32)
    data = weights_to_bytes(theta)
    back = weights_from_bytes(data, n_parameters=100)
    np.testing.assert_array_equal(back, theta)
    assert weights_digest(back) == weights_digest(theta)
    assert back.flags.writeable


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x00" * 399, "weights-length"),
        (b"\x00" * 404, "weights-length"),
        (np.full(100, np.nan, "<f4").tobytes(), "weights-not-finite"),
        (np.full(100, np.inf, "<f4").tobytes(), "weights-not-finite"),
    ],
)
def test_bad_weights_are_refused(data: bytes, reason: str):
    with pytest.raises(WeightsError) as error:
        weights_from_bytes(data, n_parameters=100)
    assert error.value.reason == reason


def _manifest(**change: object) -> ReleaseManifest:
    fields: dict[str, object] = {
        "weights_digest": "a" * 64,
        "spec_id": "b" * 64,
        "n_parameters": 4,
        "role": "fallback",
        "family_id": None,
        "round_number": 1,
        "parent": None,
    }
    return ReleaseManifest.model_validate(fields | change)


@pytest.mark.parametrize(
    "change",
    [
        {"weights_digest": "c" * 64},
        {"spec_id": "c" * 64},
        {"n_parameters": 5},
        {"round_number": 2},
        {"parent": "c" * 64},
        {"role": "expert", "family_id": "family-1"},
    ],
)
def test_every_field_of_a_manifest_is_signed(change: dict[str, object]):
    assert _manifest(**change).signed_bytes() != _manifest().signed_bytes()


@pytest.mark.parametrize("change", [{"role": "expert"}, {"family_id": "family-1"}])
def test_experts_and_families_belong_together(change: dict[str, object]):
    with pytest.raises(ValidationError, match="family"):
        _manifest(**change)


def test_a_spec_that_is_too_big_is_refused():
    with pytest.raises(ValidationError, match="parameters"):
        ModelSpec.model_validate(DEFAULT_SPEC.model_dump() | {"inputs": 4096, "hidden": (4096, 4096)})


def test_canonical_json_takes_no_floats():
    with pytest.raises(TypeError, match="float"):
        canonical_json({"a": [1, {"b": 0.5}]})


def test_the_heads_are_part_of_a_spec_but_the_default_keeps_its_id():
    """Weights that are out there name the spec by this id."""
    assert DEFAULT_SPEC.spec_id == "b42658cd6774a0ead21e8785704801b98519ae91cda690715289c2694e151d74"
    assert len({spec.spec_id for spec in BUILT_IN_SPECS.values()}) == 3
    names = [name for name, _, _ in CLASSIFIER_SPEC.layers()]
    assert names == ["encoder0", "encoder1", "classifier"]
    assert [name for name, _, _ in AUTOENCODER_SPEC.layers()] == ["encoder0", "encoder1", "decoder0", "decoder1"]
    same_but_heads = DEFAULT_SPEC.model_copy(update={"heads": "classifier"})
    assert same_but_heads.spec_id != DEFAULT_SPEC.spec_id
