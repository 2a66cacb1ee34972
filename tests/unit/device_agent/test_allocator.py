"""The allocator gives freed memory back, also after the largest arrays of a training were freed."""

import subprocess
import sys

import pytest

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
