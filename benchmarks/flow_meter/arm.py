"""The part of ``scripts/acceptance-flows-arm`` on both sides: ``reference FILE`` natively, ``check FILE`` emulated.

The same synthetic packets go through every engine. Identities, counts and sizes must be those of the native run, other
features within 1e-9 relative. CPU seconds of both sides are printed; emulation says which engine costs how much beside
the others there, and nothing about the speed of a board.
"""

import json
import platform
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.flow_meter import traffic
from contract.features import FEATURES
from device_agent.export.columns import FEATURE_KINDS
from device_agent.flows.fast.library import load
from device_agent.flows.records import FlowBatch, PacketBatch
from device_agent.flows.select import make_meter

ENGINES = ("packet", "columnar", "fast")
PACKETS, SCANNED, BATCH = 8_000, 4_000, 4_096
ROUNDS = 2
WHOLE = np.array([FEATURE_KINDS[feature.name] == "whole" for feature in FEATURES])


def run(engine: str) -> tuple[FlowBatch, float]:
    """Return the records of an engine and the least CPU seconds it took."""
    frames = traffic.scan(traffic.devices(PACKETS), SCANNED)
    batches = [
        PacketBatch.from_frames(
            [frame for _, frame, _ in some], [time_us for time_us, _, _ in some], [wire for _, _, wire in some]
        )
        for some in (frames[at : at + BATCH] for at in range(0, len(frames), BATCH))
    ]
    least_s, flows = float("inf"), None
    for _ in range(ROUNDS):
        meter, began_s = make_meter(prefer=engine), time.process_time()  # type: ignore[arg-type]
        parts = [meter.feed(batch) for batch in batches]
        flows = FlowBatch.concat([*parts, meter.flush()])
        least_s = min(least_s, time.process_time() - began_s)
    order = np.lexsort((flows.identity["part_index"], flows.identity["flow_id"], flows.identity["ts_end_us"]))
    return flows.select(order), least_s


def reference(path: Path) -> int:
    """Write the records of the native run."""
    found = {}
    for engine in ENGINES:
        flows, cpu_s = run(engine)
        found |= {f"{engine}/identity": flows.identity, f"{engine}/features": flows.features, f"{engine}/cpu_s": cpu_s}
    np.savez(path, **found)
    return 0


def check(path: Path) -> int:
    """Compare with the native run; print a line an engine; return 1 if one differs or the C engine does not load."""
    with np.load(path) as kept:
        native = dict(kept)
    print(f"machine {platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}")
    print(f"C engine loads: {load() is not None}")
    packets, failed, here = PACKETS + SCANNED, 0, {}
    for engine in ENGINES:
        flows, cpu_s = run(engine)
        left, right = native[f"{engine}/features"], flows.features
        same = np.array_equal(native[f"{engine}/identity"], flows.identity)
        same = (
            same and np.array_equal(left[:, WHOLE], right[:, WHOLE]) and np.allclose(left, right, rtol=1e-9, atol=0.0)
        )
        failed += not same
        here[engine] = cpu_s
        native_s = float(native[f"{engine}/cpu_s"])
        print(
            f"{engine:9} {len(flows):,} records {'equal' if same else 'DIFFER'}; CPU us a packet: "
            f"native {native_s / packets * 1e6:.2f}, emulated {cpu_s / packets * 1e6:.2f}, "
            f"{cpu_s / native_s:.1f} times as much"
        )
    times = {engine: round(here["packet"] / here[engine], 1) for engine in ENGINES[1:]}
    print(json.dumps({"machine": platform.machine(), "differ": failed, "packet engine's CPU by that of": times}))
    return 1 if failed or load() is None else 0


if __name__ == "__main__":
    sys.exit({"reference": reference, "check": check}[sys.argv[1]](Path(sys.argv[2])))
