"""Freed memory goes back, also after the largest arrays of a training; so do pages of code of the start."""

import subprocess
import sys

import pytest

from device_agent.allocator import untouched_code

CODE = """
import sys
from device_agent import allocator
if sys.argv[1] == "tuned":
    allocator.save_memory()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
bytearray(24_000_000)  # freed at once: by default blocks up to this size now come from the heap
before = resident()
kept = []
for _ in range(20):
    block = b"\\0" * 1_000_000
    kept.append(b"\\1" * 600)  # pins the heap above the block
    del block
blocks = [b"\\0" * 1_000_000 for _ in range(20)]
pins = [b"\\1" * 600 for _ in range(2000)]
del blocks
if sys.argv[1] == "tuned":
    allocator.give_back()
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_arrays_leave_the_process():
    done = subprocess.run([sys.executable, "-c", CODE, "tuned"], capture_output=True, text=True, check=True, timeout=30)
    assert int(done.stdout) < 2_000_000


SMAPS = """\
00400000-00500000 r-xp 00000000 08:01 1234 /usr/lib/libcode.so.1
Rss:                 512 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me
00500000-00600000 r--p 00100000 08:01 1234 /usr/lib/libcode.so.1
Anonymous:             4 kB
Swap:                  0 kB
00600000-00700000 r--p 00200000 08:01 1234 /usr/lib/libcode.so.1
Anonymous:             0 kB
Swap:                  8 kB
00700000-00800000 rw-p 00300000 08:01 1234 /usr/lib/libcode.so.1
Anonymous:             0 kB
Swap:                  0 kB
00800000-00900000 r--s 00000000 08:01 1235 /var/lib/state.db-shm
Anonymous:             0 kB
Swap:                  0 kB
00900000-00a00000 r--p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
00a00000-00b00000 r--p 00000000 08:01 1236 /usr/lib/locale with space
Anonymous:             0 kB
Swap:                  0 kB
"""


def test_only_pages_that_nobody_wrote_are_let_go():
    assert list(untouched_code(SMAPS)) == [(0x400000, 0x500000), (0xA00000, 0xB00000)]


USE = """
import sqlite3, ssl, threading
import numpy as np
from device_agent import allocator
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
if THREAD:
    held = threading.Event()
    threading.Thread(target=held.wait, daemon=True).start()
before = resident()
let_go = allocator.let_go_of_code()
freed = before - resident()
context = ssl.create_default_context()
rows = sqlite3.connect(":memory:").execute("select 6 * 7").fetchone()
product = np.linalg.inv(np.eye(3) * 4.0) @ np.random.default_rng(1).random((3, 3))
assert rows == (42,) and np.isfinite(product).all()
print(let_go > 0, freed)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("thread", [False, True])
def test_code_of_the_start_leaves_the_process_unless_a_thread_may_be_loading_more(thread: bool):
    code = USE.replace("THREAD", str(thread))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    let_go, freed = done.stdout.split()
    assert let_go == str(not thread)
    assert (int(freed) > 3_000_000) == (not thread)
