"""Releases in chunks on the device: whole, resumed, refused."""

import pytest

from contract.transfer import STALLED_S, make_chunk, make_offer, span
from device_agent.pulls import Pulls
from device_agent.store.blobs import BlobStore

DATA = bytes(range(251)) * 200
OFFER = make_offer("release", "a" * 64, DATA, chunk_bytes=4_096)


def chunk(index):
    offset, length = span(OFFER, index)
    return make_chunk(OFFER.digest, index, DATA[offset : offset + length])


class Device:
    def __init__(self, path, max_bytes=1_000_000):
        self.asked = []
        self.pulls = Pulls(BlobStore(path), self.asked.append, max_bytes=max_bytes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "blobs.db"


def run(device, answer, now=0.0):
    """Answer requests until nothing is asked; return what came of the last chunk."""
    done = None
    while device.asked:
        for index in device.asked.pop(0).wanted:
            done = answer(index) or done
    return done


def test_it_comes_whole(path):
    device = Device(path)
    device.pulls.offered(OFFER, 0.0)
    done = run(device, lambda index: device.pulls.took(chunk(index), 0.0))
    assert done == ("a" * 64, DATA)
    assert device.pulls.counters == {}
    device.pulls.close()


def test_after_a_restart_only_the_missing_chunks_are_asked_for(path):
    first = Device(path)
    first.pulls.offered(OFFER, 0.0)
    for index in (0, 3, 5):
        first.pulls.took(chunk(index), 0.0)
    first.pulls.close()
    second = Device(path)
    second.pulls.tick(100.0)
    seen: list[int] = []
    done = run(second, lambda index: (seen.append(index), second.pulls.took(chunk(index), 100.0))[1])
    assert done == ("a" * 64, DATA)
    assert not {0, 3, 5} & set(seen)
    second.pulls.close()


def test_lost_requests_are_repeated(path):
    device = Device(path)
    device.pulls.offered(OFFER, 0.0)
    lost = device.asked.pop()
    device.pulls.tick(STALLED_S - 0.1)
    assert device.asked == []
    device.pulls.tick(STALLED_S)
    assert device.asked == [lost]
    device.pulls.close()


def test_what_is_not_wanted_or_lies_is_counted(path):
    device = Device(path, max_bytes=len(DATA) - 1)
    device.pulls.offered(OFFER, 0.0)
    device.pulls.offered(OFFER.model_copy(update={"kind": "update"}), 0.0)
    device.pulls.took(chunk(0), 0.0)
    assert device.pulls.counters == {"offer-oversize": 1, "offer-kind": 1, "chunk-unasked": 1}
    assert device.asked == []
    device.pulls.close()


def test_a_whole_with_another_digest_is_thrown_away_and_given_up_after_three_times(path):
    """Every chunk is fine by its own digest, the whole is not: a lie in the offer."""
    device = Device(path)
    lie = OFFER.model_copy(update={"digest": "b" * 64})
    for attempt in range(4):
        device.pulls.offered(lie, float(attempt * 100))
        run(device, lambda index: device.pulls.took(chunk(index).model_copy(update={"digest": "b" * 64}), 0.0))
    assert device.pulls.counters["blob-digest"] == 3
    assert device.pulls.counters["offer-failed-before"] == 1
    device.pulls.close()


def test_what_nobody_wants_any_more_is_dropped(path):
    device = Device(path)
    device.pulls.offered(OFFER, 0.0)
    device.pulls.took(chunk(0), 0.0)
    device.pulls.keep_only(set())
    device.asked.clear()
    device.pulls.tick(100.0)
    assert device.asked == []
    device.pulls.close()
    again = BlobStore(path)
    assert again.numbers(OFFER.digest) == frozenset()
    again.close()
