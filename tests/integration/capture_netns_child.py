"""Runs inside a namespace: captures on one interface until enough packets or time, prints what it saw as JSON."""

import json
import sys
import time

from device_agent.capture.source import CaptureSettings, open_source
from device_agent.flows.meter import FlowMeter
from device_agent.flows.records import FlowBatch


def main():
    interface, bpf, wanted, timeout_s = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    source = open_source(f"iface:{interface}", CaptureSettings(bpf=bpf, snap_bytes=96))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    meter, flows, seen, first_us, last_us = FlowMeter(), [], 0, 0, 0
    deadline_s = time.monotonic() + timeout_s
    while seen < wanted and time.monotonic() < deadline_s:
        batch = source.read(1_000, 0.1)
        if len(batch):
            first_us = first_us or int(batch.ts_us[0])
            last_us = int(batch.ts_us[-1])
        seen += len(batch)
        flows.append(meter.feed(batch))
    counters = source.counters()
    source.close()
    everything = FlowBatch.concat([*flows, meter.flush()])
    sys.stdout.write(
        json.dumps(
            {
                "seen": seen,
                "first_us": first_us,
                "last_us": last_us,
                "now_us": time.time_ns() // 1_000,
                "counters": counters,
                "ignored": meter.counters.ignored,
                "flows": [
                    [*everything.ip_text(i), int(r["src_port"]), int(r["dst_port"]), int(r["proto"]), int(r["vlan"])]
                    for i, r in enumerate(everything.identity)
                ],
                "bytes": everything.features[:, 5:7].sum(),
            }
        )
    )


if __name__ == "__main__":
    main()
