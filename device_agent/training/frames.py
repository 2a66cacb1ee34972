"""Length-prefixed CBOR frames between the agent and its training process."""

import struct
from typing import IO, Any

import cbor2

MAX_FRAME_BYTES = 256 * 1024 * 1024
_PREFIX = struct.Struct("<I")


class FrameError(ValueError):
    """The stream ended inside a frame, or the frame is too long or no CBOR map."""


def write_frame(stream: IO[bytes], message: dict[str, Any]) -> None:
    """Write one message and flush.

    Raises
    ------
    FrameError
        If the message is longer than ``MAX_FRAME_BYTES``.
    OSError
        If the other side is gone.
    """
    body = cbor2.dumps(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes is more than {MAX_FRAME_BYTES}")
    stream.write(_PREFIX.pack(len(body)))
    stream.write(body)
    stream.flush()


def read_frame(stream: IO[bytes]) -> dict[str, Any] | None:
    """Read one message; ``None`` at the end of the stream.

    Raises
    ------
    FrameError
        If the stream ends inside a frame, or the frame is too long or no CBOR map.
    """
    prefix = stream.read(_PREFIX.size)
    if not prefix:
        return None
    if len(prefix) < _PREFIX.size:
        raise FrameError("the stream ends inside a frame")
    (length,) = _PREFIX.unpack(prefix)
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes is more than {MAX_FRAME_BYTES}")
    body = stream.read(length)
    if len(body) < length:
        raise FrameError("the stream ends inside a frame")
    try:
        message = cbor2.loads(body)
    except (cbor2.CBORDecodeError, ValueError, EOFError) as error:
        raise FrameError(f"a frame is no CBOR: {error}") from error
    if not isinstance(message, dict):
        raise FrameError("a frame holds no map")
    return message
