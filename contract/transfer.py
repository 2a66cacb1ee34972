"""The pulled transfer without I/O: what to ask for next, what to believe, when it is whole.

A ``Pull`` is a frozen value: every step returns the next one. The chunks themselves are with the side that pulls.
"""

from dataclasses import dataclass, replace

from contract.canonical import sha256_hex
from contract.messages import BlobChunk, BlobOffer, BlobRequest
from contract.messages.transfer import CHUNK_BYTES, WINDOW

STALLED_S = 5.0
"""Silence after which what was asked for is asked for again."""


def n_chunks(size_bytes: int) -> int:
    """Return into how many chunks ``size_bytes`` (at least 1) fall."""
    return -(-size_bytes // CHUNK_BYTES)


def chunk_length(size_bytes: int, index: int) -> int:
    """Return the length of one chunk of a whole of ``size_bytes``."""
    return min(CHUNK_BYTES, size_bytes - index * CHUNK_BYTES)


def cut(data: bytes, digest: str, index: int) -> BlobChunk | None:
    """Return one chunk of ``data``, ``None`` if the number is beyond its end."""
    part = data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
    if not part:
        return None
    return BlobChunk(digest=digest, index=index, data=part, data_digest=sha256_hex(part))


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
        return len(self.have) == n_chunks(self.offer.size_bytes)

    def refusal(self, chunk: BlobChunk) -> str | None:
        """Return why a chunk is not taken: ``chunk-index``, ``chunk-length``, ``chunk-digest``, or ``None``."""
        size_bytes = self.offer.size_bytes
        if chunk.index >= n_chunks(size_bytes):
            return "chunk-index"
        if len(chunk.data) != chunk_length(size_bytes, chunk.index):
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
        for index in range(n_chunks(self.offer.size_bytes)):
            if len(missing) == room:
                break
            if index not in self.have and index not in flying:
                missing.append(index)
        if not missing or (flying and room < WINDOW // 2):
            return self, None
        request = BlobRequest(digest=self.offer.digest, wanted=tuple(missing))
        return replace(self, flying=flying | set(missing), heard_s=now_s), request
