"""The pulled transfer without I/O: what to ask for next, what to believe, when it is whole.

A ``Pull`` is a frozen value: every step returns the next one. The chunks themselves are with the side that pulls.
"""

from dataclasses import dataclass, replace
from typing import Literal

from contract.canonical import sha256_hex
from contract.messages import BlobChunk, BlobOffer, BlobRequest
from contract.messages.transfer import CHUNK_BYTES, WINDOW

STALLED_S = 5.0
"""Silence after which what was asked for is asked for again."""


def make_offer(
    kind: Literal["update", "release"], key: str, data: bytes, *, chunk_bytes: int = CHUNK_BYTES
) -> BlobOffer:
    """Return the offer of an encoded message."""
    return BlobOffer(kind=kind, key=key, digest=sha256_hex(data), size_bytes=len(data), chunk_bytes=chunk_bytes)


def n_chunks(offer: BlobOffer) -> int:
    """Return into how many chunks an offer falls."""
    return -(-offer.size_bytes // offer.chunk_bytes)


def span(offer: BlobOffer, index: int) -> tuple[int, int]:
    """Return offset and length of a chunk in the whole; the length is 0 beyond its end."""
    offset = index * offer.chunk_bytes
    return offset, max(0, min(offer.chunk_bytes, offer.size_bytes - offset))


def make_chunk(digest: str, index: int, data: bytes) -> BlobChunk:
    """Return the message that carries a chunk."""
    return BlobChunk(digest=digest, index=index, data=data, data_digest=sha256_hex(data))


@dataclass(frozen=True, slots=True)
class Pull:
    """A transfer on its way.

    Attributes
    ----------
    offer
        What is pulled.
    have
        Numbers of the chunks that are stored.
    flying
        Numbers that were asked for and have not come.
    heard_s
        When something last went or came, monotonic seconds.
    """

    offer: BlobOffer
    have: frozenset[int] = frozenset()
    flying: frozenset[int] = frozenset()
    heard_s: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether all chunks are here."""
        return len(self.have) == n_chunks(self.offer)

    def refusal(self, chunk: BlobChunk) -> str | None:
        """Return why a chunk is not taken: ``chunk-index``, ``chunk-length``, ``chunk-digest``, or ``None``."""
        if chunk.index >= n_chunks(self.offer):
            return "chunk-index"
        if len(chunk.data) != span(self.offer, chunk.index)[1]:
            return "chunk-length"
        return "chunk-digest" if sha256_hex(chunk.data) != chunk.data_digest else None

    def took(self, index: int, now_s: float) -> "Pull":
        """Return the pull after chunk ``index`` was stored."""
        return replace(self, have=self.have | {index}, flying=self.flying - {index}, heard_s=now_s)

    def ask(self, now_s: float) -> "tuple[Pull, BlobRequest | None]":
        """Return the pull after its next request, and the request if one is due.

        A new request goes out when half of the window is free, so that the sender never runs dry, or when nothing has
        come for ``STALLED_S`` seconds: then what is missing is asked for again.
        """
        flying = frozenset() if now_s - self.heard_s >= STALLED_S else self.flying
        room = WINDOW - len(flying)
        missing: list[int] = []
        for index in range(n_chunks(self.offer)):
            if len(missing) == room:
                break
            if index not in self.have and index not in flying:
                missing.append(index)
        if not missing or (flying and room < WINDOW // 2):
            return self, None
        request = BlobRequest(digest=self.offer.digest, wanted=tuple(missing))
        return replace(self, flying=flying | set(missing), heard_s=now_s), request
