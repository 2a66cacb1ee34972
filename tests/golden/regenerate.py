"""Write the golden captures and their baselines anew, or return what they should be (for the test)."""

import importlib.util
import io
import json
from pathlib import Path

from scapy.utils import PcapWriter

from device_agent.capture.applications import ScapyDissector
from device_agent.capture.source import open_source
from device_agent.export.loop import run_flows
from device_agent.export.text import JsonLinesWriter
from device_agent.flows.meter import FlowMeter

HERE = Path(__file__).resolve().parent
TRACES = HERE / "traces"
BASELINES = HERE / "baselines"
START_S = 1_700_000_000
SCENARIOS = sorted(path.name.removesuffix(".pcap.py") for path in TRACES.glob("*.pcap.py"))


def capture_bytes(scenario):
    """Return the capture that a scenario's script describes."""
    spec = importlib.util.spec_from_file_location(f"golden_{scenario}", TRACES / f"{scenario}.pcap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = io.BytesIO()
    writer = PcapWriter(out, linktype=1, sync=False)
    writer.write_header(None)
    for at_s, frame in module.FRAMES:
        time_us = round((START_S + at_s) * 1e6)
        raw = bytes(frame)
        writer.write_packet(raw, sec=time_us // 1_000_000, usec=time_us % 1_000_000, caplen=len(raw), wirelen=len(raw))
    writer.flush()
    return out.getvalue()


def baseline_text(scenario):
    """Return the flow records of the stored capture, and the counters, as JSON lines."""
    out = io.StringIO()
    source = open_source(str(TRACES / f"{scenario}.pcap"))
    summary = run_flows(source, JsonLinesWriter(out), FlowMeter(dissector=ScapyDissector()))
    source.close()
    return out.getvalue() + json.dumps({"counters": summary.as_dict()["counters"]}, separators=(",", ":")) + "\n"


def main():
    for scenario in SCENARIOS:
        (TRACES / f"{scenario}.pcap").write_bytes(capture_bytes(scenario))
        (BASELINES / f"{scenario}.flows.jsonl").write_text(baseline_text(scenario))


if __name__ == "__main__":
    main()
