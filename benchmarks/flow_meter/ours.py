"""One run of our meter over a capture, in a process of its own: the first line of output is a JSON record.

    python -m benchmarks.flow_meter.ours ENGINE CAPTURE BATCH_PACKETS [loop]

With ``loop`` the capture is read first and only the meter is timed.
"""

import json
import sys
import time
from pathlib import Path

from device_agent.capture import mapped
from device_agent.capture.mapped import MappedCapture
from device_agent.capture.source import CaptureSettings
from device_agent.flows.meter import MeterSettings
from device_agent.flows.records import PacketBatch
from device_agent.flows.select import make_meter


def batches(path: Path, size: int) -> list[PacketBatch]:
    """Return the packets of a capture."""
    source, found = MappedCapture(path, CaptureSettings(snap_bytes=128)), []
    while (batch := source.read(size, 0.0)) is not None:
        found.append(batch)
    source.close()
    return found


def main() -> None:
    engine, path, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if engine != "fast":
        # The file reader would use compiled code too, where it is there; this run is to be without any.
        mapped.load = lambda: None  # type: ignore[assignment]
    meter = make_meter(MeterSettings(), prefer=engine)  # type: ignore[arg-type]
    records = 0
    if "loop" in sys.argv[4:]:
        packets = batches(path, size)
        started = time.process_time()
        for batch in packets:
            records += len(meter.feed(batch))
    else:
        started = time.process_time()
        source = MappedCapture(path, CaptureSettings(snap_bytes=128))
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
