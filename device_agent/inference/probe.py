"""Tries the LiteRT runtime in a process of its own: ``python -m device_agent.inference.probe``.

The agent's process detects with NumPy and never loads the runtime, which takes 12 MB and, in a wheel built for another
processor, can end the process that loads it. The probe reads a layout (one JSON line) and the artifact on standard
input and answers with one JSON line.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import device_agent
from contract.layout import Layout
from device_agent.inference.opening import open_engine

_TIMEOUT_S = 60.0


def probe(layout: Layout, artifact: bytes, *, python: str = sys.executable) -> tuple[str, str]:
    """Return the name of the engine that works on an artifact, and one line that says why.

    Parameters
    ----------
    layout
        The architecture.
    artifact
        A ``.tflite`` whose digest was checked.
    python
        Interpreter of the process.
    """
    packages = str(Path(device_agent.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH"))))
    question = json.dumps(asdict(layout)).encode() + b"\n" + artifact
    try:
        done = subprocess.run(
            [python, "-m", "device_agent.inference.probe"],
            input=question,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": path},
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "numpy", f"NumPy, since the runtime could not be tried: {error}"
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        return str(answer["engine"]), str(answer["reason"])
    except (IndexError, ValueError, KeyError):
        return "numpy", f"NumPy, since trying the runtime ended with exit code {done.returncode}"


def main() -> int:
    """Answer one question."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints is no answer
    facts = json.loads(sys.stdin.buffer.readline())
    layout = Layout(**{**facts, "hidden": tuple(facts["hidden"])})
    loaded = open_engine(layout, sys.stdin.buffer.read())
    answers.write(json.dumps({"engine": loaded.engine.name, "reason": loaded.reason}) + "\n")
    answers.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
