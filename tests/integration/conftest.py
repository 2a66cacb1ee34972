"""What several integration tests start with."""

import os
import subprocess
import sys

import pytest

from gateway.conversion.artifact import PYTHON_VARIABLE


@pytest.fixture(scope="session")
def python():
    """A Python that has TensorFlow."""
    candidate = os.environ.get(PYTHON_VARIABLE, sys.executable)
    code = "import importlib.util as u, sys; sys.exit(u.find_spec('tensorflow') is None)"
    if subprocess.run([candidate, "-c", code], check=False).returncode:
        pytest.skip(f"{candidate} has no TensorFlow; set {PYTHON_VARIABLE}")
    pytest.importorskip("ai_edge_litert.interpreter")
    pytest.importorskip("ai_edge_litert.schema_py_generated")
    return candidate
