"""Bytes to messages and back; the only place that knows CBOR and JSON."""

from io import BytesIO
from typing import NoReturn, TypeVar

import cbor2
from pydantic import ValidationError

from contract.errors import DecodeError
from contract.messages.base import Message

M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """Encode a message in its own encoding.

    Raises
    ------
    DecodeError
        If the result is larger than the message type allows (reason ``oversize``).
    """
    if message.encoding == "json":
        data = message.model_dump_json().encode()
    else:
        data = cbor2.dumps(message.model_dump(mode="python"))
    if len(data) > message.max_bytes:
        raise DecodeError(
            f"{type(message).__name__} has {len(data)} bytes, {message.max_bytes} are allowed",
            reason="oversize",
        )
    return data


def decode(kind: type[M], data: bytes) -> M:
    """Decode bytes to a message of the given kind.

    Parameters
    ----------
    kind
        Message class.
    data
        Bytes from a peer; anything may be in there.

    Raises
    ------
    DecodeError
        With the reason ``oversize``, ``malformed`` (not CBOR/JSON, or bytes left over) or ``invalid`` (a field is
        missing, unknown or out of range).
    """
    name = kind.__name__
    if len(data) > kind.max_bytes:
        raise DecodeError(f"{name}: {len(data)} bytes, {kind.max_bytes} are allowed", reason="oversize")
    try:
        if kind.encoding == "json":
            return kind.model_validate_json(data)
        return kind.model_validate(_load_cbor(name, data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "message"
        reason = "malformed" if first["type"] == "json_invalid" else "invalid"
        raise DecodeError(f"{name}: {where}: {first['msg']}", reason=reason) from None


_TAGS = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799)
"""Tags that cbor2 knows. The messages use none, and some (regular expressions, references) make work for a peer."""


def _refuse_tag(*_: object) -> NoReturn:
    raise DecodeError("CBOR tags are not used here", reason="malformed")


def _load_cbor(name: str, data: bytes) -> object:
    stream = BytesIO(data)
    try:
        value: object = cbor2.load(
            stream,
            tag_hook=_refuse_tag,
            semantic_decoders=dict.fromkeys(_TAGS, _refuse_tag),
            max_depth=8,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except Exception as error:  # noqa: BLE001 - whatever a decoder makes of a peer's bytes means "malformed"
        raise DecodeError(f"{name}: not CBOR of ours ({type(error).__name__})", reason="malformed") from None
    if stream.tell() != len(data):
        raise DecodeError(f"{name}: {len(data) - stream.tell()} bytes left over", reason="malformed")
    if not isinstance(value, dict):
        raise DecodeError(f"{name}: not a map", reason="malformed")
    return value
