"""The part of ``scripts/acceptance-arm`` on both sides: ``reference FILE`` natively, ``check FILE`` emulated."""

import json
import platform
import sys
import time

import numpy as np

from benchmarks.learning.equality import CASES, STEPS, TOLERANCE, relative, run
from contract.layout import Layout
from device_agent.inference.litert import LiteRTEngine
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.inference.opening import self_test


def reference(path: str) -> int:
    """Write layout, artifact and the native results of both engines."""
    from contract.model import DEFAULT_SPEC
    from device_agent.inference.select import load_artifact

    layout, blob = DEFAULT_SPEC.layout, load_artifact(DEFAULT_SPEC)
    found = {}
    for name, case in CASES.items():
        for engine in (NumpyEngine(layout), LiteRTEngine(layout, blob)):
            found[f"{engine.name}/{name}/gradient"], found[f"{engine.name}/{name}/weights"] = run(engine, case)
    shape = [layout.inputs, layout.classes, layout.train_batch, *layout.hidden]
    np.savez(path, shape=shape, artifact=np.frombuffer(blob, dtype=np.uint8), **found)
    return 0


def check(path: str) -> int:
    """Compare both engines here with the native results; print figures, return 1 if one is off."""
    began_s = time.process_time()
    with np.load(path) as kept:
        native = dict(kept)
    inputs, classes, batch, *hidden = (int(n) for n in native["shape"])
    layout = Layout(inputs, classes, tuple(hidden), batch)
    engines = [NumpyEngine(layout), LiteRTEngine(layout, native["artifact"].tobytes())]
    self_test(engines[1])
    runtime = next(n for n in sys.modules if n in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"))
    print(f"machine {platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, {runtime}")
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
    ok = worst < TOLERANCE
    print(json.dumps({"worst": worst, "bar": TOLERANCE, "ok": ok, "cpu_s": round(time.process_time() - began_s, 1)}))
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit({"reference": reference, "check": check}[sys.argv[1]](sys.argv[2]))
