"""Releases that are too large for one packet: pulled chunk by chunk, checked as a whole, resumed after a restart."""

from collections.abc import Callable

from contract.canonical import sha256_hex
from contract.messages import BlobChunk, BlobOffer, BlobRequest
from contract.transfer import Pull
from device_agent.store.blobs import BlobStore

_AT_ONCE = 4
_TRIES = 3


class Pulls:
    """What the device is pulling.

    Parameters
    ----------
    store
        Where chunks are kept.
    ask
        Publishes a request.
    max_bytes
        Largest release that is pulled.

    Attributes
    ----------
    counters
        Refusals by reason.
    """

    def __init__(self, store: BlobStore, ask: Callable[[BlobRequest], None], *, max_bytes: int) -> None:
        self.counters: dict[str, int] = {}
        self._store = store
        self._ask = ask
        self._max_bytes = max_bytes
        self._failed: dict[str, int] = {}
        self._pulls = {offer.digest: Pull(offer, store.numbers(offer.digest)) for offer in store.offers()}

    def offered(self, offer: BlobOffer, now_s: float) -> None:
        """Take an offer; one that is known goes on where it stopped."""
        if offer.kind != "release":
            self._count("offer-kind")
        elif offer.size_bytes > self._max_bytes:
            self._count("offer-oversize")
        elif self._failed.get(offer.digest, 0) >= _TRIES:
            self._count("offer-failed-before")
        elif offer.digest not in self._pulls and len(self._pulls) >= _AT_ONCE:
            self._count("offer-too-many")
        else:
            if offer.digest not in self._pulls and self._store.begin(offer):
                self._pulls[offer.digest] = Pull(offer, self._store.numbers(offer.digest))
            self._go_on(offer.digest, now_s)

    def took(self, chunk: BlobChunk, now_s: float) -> tuple[str, bytes] | None:
        """Take a chunk; return key and bytes of the whole once it is there and its digest fits."""
        pull = self._pulls.get(chunk.digest)
        if pull is None or chunk.index in pull.have:
            self._count("chunk-unasked")
            return None
        refusal = pull.refusal(chunk)
        if refusal is None and not self._store.add(chunk.digest, chunk.index, chunk.data):
            refusal = "chunk-not-stored"
        if refusal is not None:
            self._count(refusal)
            return None
        pull = self._pulls[chunk.digest] = pull.took(chunk.index, now_s)
        if not pull.complete:
            self._go_on(chunk.digest, now_s)
            return None
        data = self._store.whole(chunk.digest)
        self.forget(chunk.digest)
        if sha256_hex(data) != chunk.digest:
            self._failed[chunk.digest] = self._failed.get(chunk.digest, 0) + 1
            self._count("blob-digest")
            return None
        return pull.offer.key, data

    def tick(self, now_s: float) -> None:
        """Ask again for what has not come."""
        for digest in list(self._pulls):
            self._go_on(digest, now_s)

    def keep_only(self, keys: set[str]) -> None:
        """Give up what nobody wants any more."""
        for digest, pull in list(self._pulls.items()):
            if pull.offer.key not in keys:
                self.forget(digest)

    def forget(self, digest: str) -> None:
        """Drop a pull and its chunks."""
        self._pulls.pop(digest, None)
        self._store.forget(digest)

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def _go_on(self, digest: str, now_s: float) -> None:
        pull = self._pulls.get(digest)
        if pull is None:
            return
        self._pulls[digest], request = pull.ask(now_s)
        if request is not None:
            self._ask(request)

    def _count(self, reason: str) -> None:
        self.counters[reason] = self.counters.get(reason, 0) + 1
