"""The outbox under kill -9 and under a cut that leaves the disk as it was: what was put goes out afterwards."""

import shutil

import numpy as np
import pytest

from device_agent.store.outbox import Outbox, Waiting
from tests.integration.killed_writer import write_until_killed

WRITER = """
import sys
from pathlib import Path
from device_agent.store.outbox import Outbox, Waiting
outbox = Outbox(Path(sys.argv[1]), max_messages=100_000)
number = int(sys.argv[2])
while True:
    key = f"round-{number:06d}-cam-1-fallback"
    outbox.put(Waiting(key, "update", "t", key.encode() * 50))
    if number % 3 == 0:
        outbox.settle(f"round-{number - 1:06d}-cam-1-fallback")
    number += 1
    print(number, flush=True)
"""


def key(number):
    return f"round-{number:06d}-cam-1-fallback"


def expected(number):
    """Return the keys that must be there after numbers 1 to ``number - 1``; one more may be settled already."""
    return {key(n) for n in range(1, number) if (n + 1) % 3 or n + 1 >= number}


@pytest.mark.timeout(120)
def test_what_was_put_survives_a_kill_with_its_bytes(tmp_path):
    path, number = tmp_path / "outbox.db", 1
    rng = np.random.default_rng(11)
    for _ in range(6):
        number = write_until_killed(WRITER, path, number, rng.uniform(0.05, 0.4))
        outbox = Outbox(path, max_messages=100_000)
        assert not outbox.database.moved_aside
        held = set(outbox.keys("update"))
        assert expected(number) - {key(number - 1)} <= held
        for waiting in outbox.pending(limit=10_000):
            assert waiting.payload == waiting.key.encode() * 50
        outbox.close()


def test_the_disk_has_a_message_when_put_returns(tmp_path):
    """What another file system sees at that moment is what a power cut leaves: database and write-ahead log."""
    outbox = Outbox(tmp_path / "outbox.db")
    for number in range(20):
        outbox.put(Waiting(key(number), "update", "t", b"payload" * 1_000))
        left = tmp_path / f"left-{number}"
        left.mkdir()
        for file in tmp_path.glob("outbox.db*"):
            # The index of the log is memory that SQLite makes anew.
            if not file.name.endswith("-shm"):
                shutil.copy(file, left / file.name)
        after = Outbox(left / "outbox.db")
        assert set(after.keys("update")) == {key(n) for n in range(number + 1)}
        assert after.pending(limit=100)[-1].payload == b"payload" * 1_000
        after.close()
    outbox.close()


@pytest.mark.parametrize("cut", [1, 32, 4_096])
def test_a_torn_end_of_the_log_costs_the_last_message_alone(tmp_path, cut):
    outbox = Outbox(tmp_path / "outbox.db")
    for number in range(5):
        outbox.put(Waiting(key(number), "update", "t", b"payload" * 1_000))
    left = tmp_path / "left"
    left.mkdir()
    shutil.copy(tmp_path / "outbox.db", left)
    log = (tmp_path / "outbox.db-wal").read_bytes()
    (left / "outbox.db-wal").write_bytes(log[: len(log) - cut])
    after = Outbox(left / "outbox.db")
    assert not after.database.moved_aside
    assert {key(n) for n in range(4)} <= set(after.keys("update"))
    after.close()
    outbox.close()
