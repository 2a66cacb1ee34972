"""Bytes of anybody: codec, topic parser and screening answer with a message or a reason, never otherwise."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.codec import decode
from contract.errors import ContractError
from contract.messages import ModelUpdate
from contract.model import DEFAULT_SPEC
from contract.topics import TOPICS, parse
from gateway.screening import content_refusal

VECTORS = Path(__file__).parents[1] / "golden" / "messages"
KINDS = sorted({topic.message for topic in TOPICS}, key=lambda kind: kind.__name__)
FRAMES = {kind: (VECTORS / f"{kind.__name__}.bin").read_bytes() for kind in KINDS}


def outcome(function, *arguments):
    """Return what the function returns, or the reason of its refusal; anything else escapes."""
    try:
        return function(*arguments), None
    except ContractError as error:
        return None, error.reason


def take(kind, frame):
    message, reason = outcome(decode, kind, frame)
    assert reason in (None, "malformed", "invalid", "oversize")
    if isinstance(message, ModelUpdate):
        content_refusal(
            message,
            device_id="cam-1",
            spec_id=DEFAULT_SPEC.spec_id,
            n_parameters=DEFAULT_SPEC.n_parameters,
            max_norm=10.0,
        )


@given(kind=st.sampled_from(KINDS), frame=st.binary(max_size=600))
@settings(max_examples=400, deadline=None)
def test_any_bytes(kind, frame):
    take(kind, frame)


@given(data=st.data(), kind=st.sampled_from(KINDS))
@settings(max_examples=400, deadline=None)
def test_a_frame_with_a_piece_replaced(data, kind):
    frame = FRAMES[kind]
    at = data.draw(st.integers(0, len(frame)))
    until = data.draw(st.integers(at, min(len(frame), at + 12)))
    take(kind, frame[:at] + data.draw(st.binary(max_size=16)) + frame[until:])


@given(st.text(max_size=120))
@settings(max_examples=200, deadline=None)
def test_any_topic(text):
    with pytest.raises(ContractError):
        parse(text)


@given(st.sampled_from(TOPICS), st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_a_topic_is_only_ours_if_every_part_is(topic, part):
    text = topic.full.replace("{device}", part).replace("{digest}", "a" * 64).replace("{run}", "run-1")
    parsed, reason = outcome(parse, text)
    assert reason in (None, "topic-unknown")
    assert parsed is None or "{device}" not in topic.pattern or parsed.device_id == part
