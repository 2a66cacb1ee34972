"""Run a module with a wall clock that a file moves: ``python stepped_clock.py OFFSET_FILE MODULE ARGUMENTS...``."""

import runpy
import sys
import time
from pathlib import Path


def main():
    offset_file, module = Path(sys.argv[1]), sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    wall, wall_ns = time.time, time.time_ns

    def offset_s():
        try:
            return float(offset_file.read_text())
        except (OSError, ValueError):
            return 0.0

    time.time = lambda: wall() + offset_s()
    time.time_ns = lambda: wall_ns() + int(offset_s() * 1e9)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
