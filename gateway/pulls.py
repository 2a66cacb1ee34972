"""Large payloads in chunks: updates are pulled from devices, releases are handed out to them."""

from collections.abc import Callable

from contract.canonical import sha256_hex
from contract.messages import BlobChunk, BlobOffer, BlobRequest, ModelUpdate
from contract.transfer import Pull, make_chunk, make_offer, span
from gateway.store.blobs import BlobStore


class Pulls:
    """Updates on their way up, one a device; chunks are stored before the broker is told that they came.

    Parameters
    ----------
    store
        Where chunks are kept.
    ask
        ``(device_id, request)`` to the broker.
    max_bytes
        Largest update that is pulled.
    """

    def __init__(
        self, store: BlobStore, ask: Callable[[str, BlobRequest], None], *, max_bytes: int = ModelUpdate.max_bytes
    ) -> None:
        self._store = store
        self._ask = ask
        self._max_bytes = max_bytes
        self._pulls = {device: Pull(offer, store.numbers(device)) for device, offer in store.pulls().items()}

    def offered(self, device_id: str, offer: BlobOffer, now: float) -> str | None:
        """Take an offer and ask for its first chunks; return why it is refused, or ``None``."""
        if offer.kind != "update":
            return "offer-kind"
        if offer.size_bytes > self._max_bytes:
            return "oversize"
        known = self._pulls.get(device_id)
        if known is None or known.offer != offer:
            self._store.begin(device_id, offer)
            self._pulls[device_id] = Pull(offer)
        else:
            # A device that offers again may have restarted: what it was asked for before may never come.
            self._pulls[device_id] = Pull(offer, known.have)
        self._go_on(device_id, now)
        return None

    def took(self, device_id: str, chunk: BlobChunk, now: float) -> tuple[bytes | None, str | None]:
        """Take a chunk; return the whole once it is there and its digest fits, and why something is refused."""
        pull = self._pulls.get(device_id)
        if pull is None or pull.offer.digest != chunk.digest or chunk.index in pull.have:
            return None, "chunk-unasked"
        refusal = pull.refusal(chunk)
        if refusal is not None:
            return None, refusal
        self._store.add(device_id, chunk.index, chunk.data)
        pull = self._pulls[device_id] = pull.took(chunk.index, now)
        if not pull.complete:
            self._go_on(device_id, now)
            return None, None
        data = self._store.whole(device_id)
        if sha256_hex(data) != chunk.digest:
            self.forget(device_id)
            return None, "blob-digest"
        return data, None

    def forget(self, device_id: str) -> None:
        """Drop a pull: its message is stored, or worth nothing."""
        self._pulls.pop(device_id, None)
        self._store.forget(device_id)

    def tick(self, now: float) -> None:
        """Ask again for what has not come."""
        for device_id in list(self._pulls):
            self._go_on(device_id, now)

    def _go_on(self, device_id: str, now: float) -> None:
        self._pulls[device_id], request = self._pulls[device_id].ask(now)
        if request is not None:
            self._ask(device_id, request)


class Handout:
    """Encoded releases that devices may fetch chunk by chunk."""

    def __init__(self) -> None:
        self._offers: dict[str, tuple[BlobOffer, bytes]] = {}

    def offer(self, digest: str, data: bytes, *, chunk_bytes: int) -> BlobOffer:
        """Hold the release with this weights digest ready, and return its offer."""
        made = make_offer("release", digest, data, chunk_bytes=chunk_bytes)
        self._offers[made.digest] = (made, data)
        return made

    def withdraw(self, digest: str) -> None:
        """Forget a release."""
        self._offers = {blob: held for blob, held in self._offers.items() if held[0].key != digest}

    def chunks(self, request: BlobRequest) -> list[BlobChunk] | None:
        """Return what a device asked for, ``None`` if it is not offered."""
        held = self._offers.get(request.digest)
        if held is None:
            return None
        offer, data = held
        spans = [(index, *span(offer, index)) for index in request.wanted]
        return [make_chunk(offer.digest, i, data[at : at + length]) for i, at, length in spans if length]
