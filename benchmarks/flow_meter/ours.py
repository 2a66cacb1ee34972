"""One run of our meter over a capture, in a process of its own: the first line of output is a JSON record.

    python -m benchmarks.flow_meter.ours ENGINE CAPTURE BATCH_PACKETS [GROUP LEFT OUT]

Application payloads are dissected as in an agent. A group of features that is left out tells what it costs.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_agent.capture import mapped
from device_agent.capture.applications import ScapyDissector
from device_agent.capture.mapped import MappedCapture
from device_agent.capture.source import CaptureSettings
from device_agent.flows.columnar.openings import Openings
from device_agent.flows.columnar.window_runs import N_OPENED
from device_agent.flows.meter import MeterSettings
from device_agent.flows.records import PacketBatch
from device_agent.flows.select import Meter, make_meter

GROUPS = ("application payloads", "initiator windows")


def groups(engine: str) -> tuple[str, ...]:
    """Return the groups that an engine can leave out; the compiled one keeps the windows of initiators itself."""
    return GROUPS[:1] if engine == "fast" else GROUPS


def make(engine: str, without: str = "") -> Meter:
    """Return a meter as an agent has it, but for a group of features."""
    if without == "initiator windows":
        Openings.note = _nothing  # type: ignore[method-assign]
    dissector = None if without == "application payloads" else ScapyDissector()
    return make_meter(MeterSettings(), prefer=engine, dissector=dissector)  # type: ignore[arg-type]


def _nothing(_: Openings, events: npt.NDArray[np.void]) -> npt.NDArray[np.float64]:
    """Give every opening the counts of a first one."""
    return np.zeros((int(np.count_nonzero(~events["answer"])), N_OPENED))


def batches(path: Path, size: int) -> list[PacketBatch]:
    """Return the packets of a capture."""
    source, found = MappedCapture(path, CaptureSettings()), []
    while (batch := source.read(size, 0.0)) is not None:
        found.append(batch)
    source.close()
    return found


def main() -> None:
    engine, path, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if engine != "fast":
        # The file reader would use compiled code too, where it is there; this run is to be without any.
        mapped.load = lambda: None  # type: ignore[assignment]
    meter = make(engine, " ".join(sys.argv[4:]))
    records, started = 0, time.process_time()
    source = MappedCapture(path, CaptureSettings())
    while (batch := source.read(size, 0.0)) is not None:
        records += len(meter.feed(batch))
    records += len(meter.flush())
    print(
        json.dumps(
            {
                "cpu_s": time.process_time() - started,
                "packets": meter.counters.packets,
                "flows": meter.counters.flows,
                "records": records,
            }
        )
    )


if __name__ == "__main__":
    main()
