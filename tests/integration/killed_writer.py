"""A program that writes to a store until it is killed at a time of the test's choosing."""

import subprocess
import sys
import time


def write_until_killed(program, path, number, seconds):
    """Run ``program PATH NUMBER``, kill -9 it after ``seconds`` and return the last number that it printed."""
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(path), str(number)], stdout=subprocess.PIPE, text=True
    )
    number = int(writer.stdout.readline())
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        number = int(writer.stdout.readline())
    writer.kill()
    lines = writer.stdout.read().split()
    number = int(lines[-1]) if lines else number
    writer.stdout.close()
    writer.wait()
    return number
