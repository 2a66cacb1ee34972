"""Runs inside a namespace: captures with a ring until enough packets or time; prints what it saw as JSON.

Arguments: interface, packets wanted, seconds at most, bytes of the ring, seconds to look away after the first packet.
"""

import json
import sys
import time

from device_agent.capture.ring import RingSource
from device_agent.capture.source import CaptureSettings
from device_agent.flows.columnar.engine import ColumnarMeter
from device_agent.flows.records import FlowBatch


def main():
    interface, wanted, timeout_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    source = RingSource(interface, CaptureSettings(buffer_bytes=int(sys.argv[4])))
    away_s = float(sys.argv[5])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    meter, flows, seen, batches = ColumnarMeter(), [], 0, 0
    deadline_s = time.monotonic() + timeout_s
    while seen < wanted and time.monotonic() < deadline_s:
        batch = source.read(8_192, 0.1)
        if len(batch) and away_s:
            time.sleep(away_s)
            away_s = 0.0
        seen, batches = seen + len(batch), batches + bool(len(batch))
        flows.append(meter.feed(batch))
    counters = source.counters()
    source.close()
    everything = FlowBatch.concat([*flows, meter.flush()])
    sys.stdout.write(
        json.dumps(
            {
                "seen": seen,
                "batches": batches,
                "counters": counters,
                "ignored": meter.counters.ignored,
                "identities": [
                    [*everything.ip_text(i), int(r["src_port"]), int(r["dst_port"]), int(r["proto"]), int(r["vlan"])]
                    for i, r in enumerate(everything.identity)
                ],
                "features": everything.features.tolist(),
            }
        )
    )


if __name__ == "__main__":
    main()
