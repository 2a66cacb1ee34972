"""Messages survive the wire, and nothing else does."""

import json

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.codec import decode, encode
from contract.errors import DecodeError
from contract.messages import Birth, MarkRule, MarkSet, ModelUpdate, RoundTask
from contract.messages.base import Message
from contract.topics import TOPICS
from tests.unit.contract.samples import SAMPLES

IDS = [type(sample).__name__ for sample in SAMPLES]


@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_every_message_round_trips(sample: Message):
    assert decode(type(sample), encode(sample)) == sample


def test_there_is_a_sample_of_every_message_on_a_topic():
    assert {topic.message for topic in TOPICS} == {type(sample) for sample in SAMPLES}


@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_json_is_text_and_cbor_is_not(sample: Message):
    data = encode(sample)
    if sample.encoding == "json":
        assert isinstance(json.loads(data), dict)
    else:
        with pytest.raises(ValueError, match=r"."):
            json.loads(data)


@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_every_truncated_prefix_is_refused(sample: Message):
    data = encode(sample)
    for length in range(len(data)):
        with pytest.raises(DecodeError) as error:
            decode(type(sample), data[:length])
        assert error.value.reason in {"malformed", "invalid"}


@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_bytes_left_over_are_refused(sample: Message):
    with pytest.raises(DecodeError) as error:
        decode(type(sample), encode(sample) + b"\x00")
    assert error.value.reason == "malformed"


@pytest.mark.parametrize("sample", SAMPLES, ids=IDS)
def test_an_unknown_field_is_refused(sample: Message):
    body = sample.model_dump(mode="json" if sample.encoding == "json" else "python") | {"surprise": 1}
    data = json.dumps(body).encode() if sample.encoding == "json" else cbor2.dumps(body)
    with pytest.raises(DecodeError, match="surprise") as error:
        decode(type(sample), data)
    assert error.value.reason == "invalid"


def test_an_oversized_message_is_refused_before_it_is_parsed():
    with pytest.raises(DecodeError) as error:
        decode(RoundTask, b"\xff" * (RoundTask.max_bytes + 1))
    assert error.value.reason == "oversize"


def test_an_oversized_message_is_not_sent():
    rules = tuple(MarkRule(label="scan", start_us=1, end_us=2, ports=tuple(range(64))) for _ in range(512))
    big = MarkSet(run_id="run-1", device_id="d", rules=rules)
    with pytest.raises(DecodeError) as error:
        encode(big)
    assert error.value.reason == "oversize"


@pytest.mark.parametrize(
    "value",
    [
        cbor2.CBORTag(35, "(a+)+$"),
        cbor2.CBORTag(1, 0),
        cbor2.CBORTag(9_999, 0),
    ],
)
def test_tags_are_refused(value: object):
    with pytest.raises(DecodeError) as error:
        decode(RoundTask, cbor2.dumps({"round_id": value}))
    assert error.value.reason == "malformed"


def test_deep_nesting_is_refused():
    with pytest.raises(DecodeError) as error:
        decode(RoundTask, b"\x81" * 2_000 + b"\x00")
    assert error.value.reason == "malformed"


def test_nan_is_no_number_here():
    update = next(s for s in SAMPLES if isinstance(s, ModelUpdate))
    body = update.model_dump() | {"train_seconds": float("nan")}
    with pytest.raises(DecodeError, match="train_seconds"):
        decode(ModelUpdate, cbor2.dumps(body))


def test_the_error_names_message_and_field():
    with pytest.raises(DecodeError, match=r"Birth: device_id: "):
        decode(Birth, encode(SAMPLES[0]).replace(b'"cam-1"', b'"Cam 1"'))


@given(data=st.binary(max_size=600), index=st.integers(0, len(SAMPLES) - 1))
@settings(max_examples=400, deadline=None)
def test_random_bytes_raise_nothing_else(data: bytes, index: int):
    with pytest.raises(DecodeError):
        decode(type(SAMPLES[index]), data)


@given(st.data())
@settings(max_examples=600, deadline=None)
def test_a_flipped_bit_is_decoded_or_refused(data: st.DataObject):
    sample = data.draw(st.sampled_from(SAMPLES))
    raw = bytearray(encode(sample))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decoded = decode(type(sample), bytes(raw))
    except DecodeError:
        return
    assert decode(type(sample), encode(decoded)) == decoded
