"""Flow records as CSV and JSON lines, and the loop that writes them."""

import csv
import io
import json

import pytest

from contract.features import NAMES
from device_agent.capture.errors import CaptureInputError
from device_agent.export.columns import COLUMNS
from device_agent.export.loop import run_flows
from device_agent.export.text import CsvWriter, JsonLinesWriter
from device_agent.flows.meter import FlowMeter
from tests.unit.device_agent.frames import EPOCH_US, A, B, S, batch, ethernet, ipv6, udp, udp_header

WRITERS = {"csv": CsvWriter, "jsonl": JsonLinesWriter}


class Packets:
    """A source of given batches; an exception among them is raised."""

    def __init__(self, *items, live=False):
        self.live = live
        self._items = list(items)

    def read(self, max_packets, timeout_s):
        if not self._items:
            return None
        item = self._items.pop(0)
        if isinstance(item, Exception):
            raise item
        return item


def export(form, *items, **options):
    out = io.StringIO()
    summary = run_flows(Packets(*items), WRITERS[form](out), **options)
    return out.getvalue(), summary


TRAFFIC = batch([(0, udp(payload=b"x" * 7)), (0.5, udp(src=B, dst=A, sport=53, dport=40000))])


def test_json_lines():
    text, summary = export("jsonl", TRAFFIC)
    row = json.loads(text)
    assert list(row) == list(COLUMNS)
    assert (row["src_ip"], row["dst_port"], row["end_reason"], row["fwd_payload_bytes"]) == (A, 53, "flush", 7)
    assert (row["duration_s"], row["ts_start_us"]) == (0.5, EPOCH_US)
    assert isinstance(row["fwd_pkts"], int)
    assert isinstance(row["down_up_ratio"], float)
    assert summary.records == 1
    assert summary.as_dict()["counters"]["metered"] == 2


def test_csv_has_the_same_values():
    text, _ = export("csv", TRAFFIC)
    (row,) = csv.DictReader(io.StringIO(text))
    (want,) = [json.loads(line) for line in export("jsonl", TRAFFIC)[0].splitlines()]
    assert row == {name: str(value) for name, value in want.items()}


def test_columns_are_identity_then_schema():
    assert COLUMNS[-len(NAMES) :] == NAMES
    assert len(set(COLUMNS)) == len(COLUMNS)


def test_no_traffic_is_a_header():
    assert export("csv")[0] == ",".join(COLUMNS) + "\n"


def test_records_of_a_damaged_capture_are_written_before_the_error():
    out = io.StringIO()
    with pytest.raises(CaptureInputError, match="cut"):
        run_flows(Packets(TRAFFIC, CaptureInputError("x.pcap: cut")), WRITERS["jsonl"](out))
    assert len(out.getvalue().splitlines()) == 1


def test_the_clock_expires_flows_of_a_quiet_live_source():
    out, meter, seen = io.StringIO(), FlowMeter(), []

    def clock_us():
        seen.append(len(out.getvalue().splitlines()))
        return EPOCH_US + 30 * S

    run_flows(Packets(TRAFFIC, batch([]), live=True), WRITERS["jsonl"](out), meter, clock_us=clock_us)
    assert seen == [0, 1]
    assert meter.counters.records["idle"] == 1


def test_the_clock_leaves_captures_alone():
    meter = FlowMeter()
    export("jsonl", TRAFFIC, meter=meter, clock_us=lambda: EPOCH_US + 30 * S)
    assert meter.counters.records["idle"] == 0


def test_stop_ends_the_loop_with_the_open_flows():
    answers = iter([False, True])
    _, summary = export("jsonl", TRAFFIC, TRAFFIC, stop=lambda: next(answers))
    assert summary.counters.packets == 2
    assert summary.records == 1


def test_each_step_is_told():
    steps = []
    export("csv", TRAFFIC, TRAFFIC, on_step=lambda packets, records: steps.append((packets, records)))
    assert steps == [(2, 0), (4, 0)]


@pytest.mark.parametrize("meter", [None, FlowMeter()])
def test_columns_of_both_address_families(meter):
    text, _ = export("jsonl", batch([(0, ethernet(ipv6(udp_header(), next_header=17), 0x86DD))]), meter=meter)
    assert (json.loads(text)["src_ip"], json.loads(text)["dst_ip"]) == ("2001:db8::1", "2001:db8::2")


def test_packets_of_a_stream_wait_for_others_half_a_second_at_most():
    """Two flows go idle at the third packet; their records come once a quarter of a second is over, or nothing more."""
    idle = [batch([(0, udp()), (1, udp(sport=41_000))]), batch([(20, udp(sport=42_000))])]
    for rest, times in (
        ([batch([(20.1, udp(sport=42_000))])], [0.0, 0.1, 0.2, 0.3]),
        ([batch([])], [0.0, 0.1, 0.1, 0.1]),
    ):
        out, seen, clock = io.StringIO(), [], iter([*times, *[0.3] * 9])
        run_flows(
            Packets(*idle, *rest),
            WRITERS["jsonl"](out),
            on_step=lambda *_, out=out, seen=seen: seen.append(len(out.getvalue().splitlines())),
            monotonic=lambda clock=clock: next(clock),
        )
        assert seen == [0, 0, 2]
        assert len(out.getvalue().splitlines()) == 3
