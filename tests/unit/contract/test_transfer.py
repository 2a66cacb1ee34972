"""The pulled transfer: what is asked for, what is believed, and that it ends whatever order chunks come in."""

from hypothesis import given
from hypothesis import strategies as st

from contract.canonical import sha256_hex
from contract.codec import encode
from contract.messages import BlobChunk, BlobOffer
from contract.messages.transfer import CHUNK_BYTES, INLINE_BYTES, WINDOW
from contract.transfer import STALLED_S, Pull, make_chunk, make_offer, n_chunks, span

DATA = bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"tail"
DIGEST = sha256_hex(DATA)


OFFER = make_offer("update", "k", DATA)


def chunk(index):
    offset, length = span(OFFER, index)
    return make_chunk(DIGEST, index, DATA[offset : offset + length])


def pull_of(data):
    return Pull(make_offer("update", "k", data))


def test_the_chunks_make_the_whole_again():
    parts = [chunk(i) for i in range(n_chunks(OFFER))]
    assert b"".join(part.data for part in parts) == DATA
    assert [len(part.data) for part in parts] == [CHUNK_BYTES] * 3 + [4]
    assert span(OFFER, 4)[1] == 0


def test_chunks_that_lie_are_refused():
    pull, good = pull_of(DATA), chunk(0)
    assert pull.refusal(good) is None
    assert pull.refusal(good.model_copy(update={"index": 4})) == "chunk-index"
    assert pull.refusal(good.model_copy(update={"index": 3})) == "chunk-length"
    assert pull.refusal(good.model_copy(update={"data": b"\x01" + good.data[1:]})) == "chunk-digest"


@given(st.data())
def test_it_ends_with_every_chunk_once_stored_although_some_are_lost(data):
    """Loss, repetition and disorder cost time, never the transfer; the window is kept."""
    size = data.draw(st.integers(1, 40 * CHUNK_BYTES))
    pull = Pull(BlobOffer(kind="update", key="k", digest=DIGEST, size_bytes=size))
    now, lost_in_a_row = 0.0, 0
    flying: list[int] = []
    while not pull.complete:
        pull, request = pull.ask(now)
        if request is not None:
            assert 1 <= len(request.wanted) <= WINDOW
            assert not set(request.wanted) & pull.have
            flying += request.wanted
        assert len(pull.flying) <= WINDOW
        if flying and (lost_in_a_row > 3 or data.draw(st.booleans())):
            pull, lost_in_a_row = pull.took(flying.pop(data.draw(st.integers(0, len(flying) - 1))), now), 0
        else:
            flying, lost_in_a_row, now = [], lost_in_a_row + 1, now + STALLED_S
    assert pull.have == frozenset(range(n_chunks(pull.offer)))
    assert pull.ask(now)[1] is None


def test_nothing_is_asked_twice_before_the_silence_is_long_enough():
    pull, first = pull_of(DATA * 8).ask(100.0)
    assert first is not None
    assert pull.ask(100.0 + STALLED_S - 0.1)[1] is None
    assert pull.ask(100.0 + STALLED_S)[1] == first


def test_the_longest_chunk_fits_into_its_message():
    longest = BlobChunk(digest=DIGEST, index=1, data=b"x" * CHUNK_BYTES, data_digest=DIGEST)
    assert len(encode(longest)) <= INLINE_BYTES
