"""The part of ``scripts/acceptance-arm`` on both sides: ``reference FILE`` natively, ``check FILE`` emulated."""

import json
import platform
import sys
import time

import numpy as np

from benchmarks.learning.equality import CASES, STEPS, TOLERANCE, raw_rows, relative, run
from contract.layout import Layout
from contract.transform import to_model_input
from device_agent.inference.litert import LiteRTEngine
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.inference.opening import self_test

ROWS = 2_000
"""Rows for the comparison of the transform."""


def reference(path: str) -> int:
    """Write layout, artifact and the native results of transform and engines."""
    from contract.model import DEFAULT_SPEC
    from device_agent.inference.select import load_artifact

    layout, blob = DEFAULT_SPEC.layout, load_artifact(DEFAULT_SPEC)
    raw = raw_rows(np.random.default_rng(4), ROWS)
    found = {"raw": raw, "inputs": to_model_input(raw)[0]}
    for name, case in CASES.items():
        for engine in (NumpyEngine(layout), LiteRTEngine(layout, blob)):
            found[f"{engine.name}/{name}/gradient"], found[f"{engine.name}/{name}/weights"] = run(engine, case)
    shape = [layout.inputs, layout.classes, layout.train_batch, *layout.hidden]
    np.savez(path, shape=shape, artifact=np.frombuffer(blob, dtype=np.uint8), **found)
    return 0


def check(path: str) -> int:
    """Compare transform and engines here with the native results; print figures, return 1 if one is off."""
    began_s = time.process_time()
    with np.load(path) as kept:
        native = dict(kept)
    inputs, classes, batch, *hidden = (int(n) for n in native["shape"])
    layout = Layout(inputs, classes, tuple(hidden), batch)
    engines = [NumpyEngine(layout), LiteRTEngine(layout, native["artifact"].tobytes())]
    self_test(engines[1])
    runtime = next(n for n in sys.modules if n in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"))
    print(f"machine {platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, {runtime}")
    unequal = int(np.count_nonzero(to_model_input(native["raw"])[0] != native["inputs"]))
    print(f"transform of {ROWS} rows: {unequal} of {native['inputs'].size} values are not those of the reference")
    worst = 0.0
    for name, case in CASES.items():
        for engine in engines:
            gradient, weights = run(engine, case)
            off = [
                max(relative(value, native[f"{other}/{name}/{what}"]) for other in ("numpy", "litert"))
                for what, value in (("gradient", gradient), ("weights", weights))
            ]
            worst = max(worst, *off)
            print(f"{name:20} {engine.name:7} gradient {off[0]:.1e}  weights after {STEPS} steps {off[1]:.1e}")
    ok = worst < TOLERANCE and not unequal
    print(json.dumps({"worst": worst, "bar": TOLERANCE, "ok": ok, "cpu_s": round(time.process_time() - began_s, 1)}))
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit({"reference": reference, "check": check}[sys.argv[1]](sys.argv[2]))
