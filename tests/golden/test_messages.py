"""Golden vectors: the bytes of every message stay what they are, so that another implementation can be checked."""

import pytest

from contract.codec import decode, encode
from contract.document import messages
from contract.errors import DecodeError
from tests.golden.regenerate_messages import HERE, json_text
from tests.unit.contract.samples import SAMPLES

BY_NAME = {type(message).__name__: message for message in SAMPLES}


def test_every_message_that_travels_has_a_vector():
    assert {kind.__name__ for kind in messages()} == set(BY_NAME)
    assert {path.stem for path in HERE.glob("*.bin")} == set(BY_NAME)


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_bytes_and_fields_agree(name):
    message, wire = BY_NAME[name], (HERE / f"{name}.bin").read_bytes()
    assert encode(message) == wire
    assert decode(type(message), wire) == message
    assert json_text(message) == (HERE / f"{name}.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((HERE / "refused").glob("*.bin")), ids=lambda path: path.stem)
def test_bytes_that_must_be_refused_are(path):
    """``<Message>-<reason>-<what>.bin``: among them what fuzzing found."""
    name, reason, _ = path.stem.split("-", 2)
    with pytest.raises(DecodeError) as error:
        decode(type(BY_NAME[name]), path.read_bytes())
    assert error.value.reason == reason
