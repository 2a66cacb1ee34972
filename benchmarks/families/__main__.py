"""``python -m benchmarks.families [--quick]``."""

import os
import sys

# Before NumPy is loaded: one thread per process, since the sweep runs in several.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

from testbed.simulation.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
