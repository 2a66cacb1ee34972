"""Transfer of payloads that are too large for one packet: an offer, requests for chunks, chunks.

What is offered is an encoded message (an update or a release). Who wants it asks for chunks by number, so that a pull
goes on where it stopped, and checks the whole against the digest of the offer.
"""

from typing import Annotated, Literal

from pydantic import Field

from contract.ids import Digest
from contract.messages.base import Message

INLINE_BYTES = 65_536
"""A larger payload is offered instead of sent."""
CHUNK_BYTES = 49_152
"""Usual and greatest length of a chunk, so that a chunk with its frame stays below ``INLINE_BYTES``."""
MIN_CHUNK_BYTES = 1_024
MAX_BLOB_BYTES = 67_108_864
WINDOW = 8
"""Chunks that may be on their way at a time."""

_MAX_INDEX = (MAX_BLOB_BYTES - 1) // MIN_CHUNK_BYTES
ChunkIndex = Annotated[int, Field(ge=0, le=_MAX_INDEX)]


class BlobOffer(Message):
    """Something to pull.

    Attributes
    ----------
    kind
        Which message the bytes decode to.
    key
        Update id of an update, weights digest of a release.
    digest
        SHA-256 of the bytes.
    size_bytes
        How many there are.
    chunk_bytes
        Length of every chunk but the last.
    """

    kind: Literal["update", "release"]
    key: str = Field(pattern=r"^[a-z0-9-]{1,120}$")
    digest: Digest
    size_bytes: int = Field(ge=1, le=MAX_BLOB_BYTES)
    chunk_bytes: int = Field(default=CHUNK_BYTES, ge=MIN_CHUNK_BYTES, le=CHUNK_BYTES)


class BlobRequest(Message):
    """The chunks that are wanted next."""

    digest: Digest
    wanted: tuple[ChunkIndex, ...] = Field(min_length=1, max_length=WINDOW)


class BlobChunk(Message):
    """One chunk.

    Attributes
    ----------
    digest
        Of the whole.
    index
        Number of the chunk, from 0.
    data
        As long as the offer says, the last chunk what is left.
    data_digest
        SHA-256 of ``data``.
    """

    digest: Digest
    index: ChunkIndex
    data: bytes = Field(min_length=1, max_length=CHUNK_BYTES)
    data_digest: Digest
