"""Labels: the vectorised rules against a plain per-flow reading of the same words."""

import ipaddress

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.messages.truth import Coverage, MarkRule, MarkSet
from contract.taxonomy import CLASS_INDEX
from device_agent.flows.records import IDENTITY, address_bytes
from device_agent.labels.marks import BaselineWindow, Marks, label_flows
from device_agent.labels.source import Source

HOSTS = ["10.0.0.1", "10.0.0.2", "10.0.0.0", "2001:db8::1", "2001:db8::"]
PORTS = [22, 80, 40_000]


def identity(rows):
    out = np.zeros(len(rows), dtype=IDENTITY)
    for i, (start, src, dst, proto, sport, dport) in enumerate(rows):
        out[i]["flow_id"] = i + 1
        out[i]["ts_start_us"] = start
        out[i]["ts_end_us"] = start + 1000
        out[i]["src_ip"] = np.frombuffer(address_bytes(src), np.uint8)
        out[i]["dst_ip"] = np.frombuffer(address_bytes(dst), np.uint8)
        out[i]["ip_version"] = ipaddress.ip_address(src).version
        out[i]["proto"], out[i]["src_port"], out[i]["dst_port"] = proto, sport, dport
    return out


def rule(label="scan", start=0, end=100, **conditions):
    return MarkRule(label=label, start_us=start, end_us=end, **conditions)


def coverage(start=0, end=1000, split="learn", label="benign"):
    return Coverage(start_us=start, end_us=end, default_label=label, split=split)


def marks(rules=(), covered=()):
    return Marks(MarkSet(run_id="run-1", device_id="cam-1", rules=tuple(rules), coverage=tuple(covered)))


def label(rows, *, rules=(), covered=(), **options):
    return label_flows(identity(rows), marks=[marks(rules, covered)], **options)


ROW = (50, "10.0.0.1", "10.0.0.2", 6, 40_000, 22)

flows = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.sampled_from(HOSTS),
        st.sampled_from(HOSTS),
        st.sampled_from([6, 17]),
        st.sampled_from(PORTS),
        st.sampled_from(PORTS),
    ),
    min_size=1,
    max_size=12,
)
subsets = st.lists(st.sampled_from(HOSTS), max_size=2).map(tuple)
rules_strategy = st.lists(
    st.builds(
        lambda label, start, length, **conditions: rule(label, start, start + length, **conditions),
        label=st.sampled_from(["scan", "bruteforce", "benign"]),
        start=st.integers(0, 10),
        length=st.integers(0, 5),
        hosts=subsets,
        peers=subsets,
        proto=st.sampled_from([None, 6, 17]),
        ports=st.lists(st.sampled_from(PORTS), max_size=2).map(tuple),
    ),
    max_size=4,
)
covers = st.lists(
    st.builds(
        lambda start, length, split: coverage(start, start + length, split),
        st.integers(0, 10),
        st.integers(0, 5),
        st.sampled_from(["learn", "exam"]),
    ),
    max_size=3,
)


def plain(row, rules, covered):
    """One flow, word by word."""
    start, src, dst, proto, sport, dport = row
    exam = any(c.start_us <= start <= c.end_us and c.split == "exam" for c in covered)
    for r in rules:
        if not r.start_us <= start <= r.end_us:
            continue
        if r.proto is not None and r.proto != proto:
            continue
        if r.ports and sport not in r.ports and dport not in r.ports:
            continue
        if any(
            (not r.hosts or one in r.hosts) and (not r.peers or other in r.peers)
            for one, other in ((src, dst), (dst, src))
        ):
            return CLASS_INDEX[r.label], Source.MARK, exam
    for c in covered:
        if c.start_us <= start <= c.end_us:
            return CLASS_INDEX[c.default_label], Source.MARK, exam
    return -1, Source.NONE, exam


@settings(max_examples=300, deadline=None)
@given(rows=flows, rules=rules_strategy, covered=covers)
def test_labels_equal_the_plain_reading(rows, rules, covered):
    found = label(rows, rules=rules, covered=covered)
    expected = [plain(row, rules, covered) for row in rows]
    assert list(zip(found.y.tolist(), found.source.tolist(), found.exam.tolist(), strict=True)) == expected


def test_windows_include_both_ends():
    rows = [(t, *ROW[1:]) for t in (9, 10, 20, 21)]
    assert label(rows, rules=[rule(start=10, end=20)]).y.tolist() == [-1, 1, 1, -1]


def test_the_peer_is_the_other_end():
    """A rule for host A against peer B does not hit a flow from A to A's neighbour, nor B to B."""
    rows = [
        (1, "10.0.0.1", "10.0.0.2", 6, 1, 2),
        (1, "10.0.0.2", "10.0.0.1", 6, 1, 2),
        (1, "10.0.0.1", "10.0.0.9", 6, 1, 2),
        (1, "10.0.0.2", "10.0.0.2", 6, 1, 2),
    ]
    found = label(rows, rules=[rule(hosts=("10.0.0.1",), peers=("10.0.0.2",))])
    assert found.y.tolist() == [1, 1, -1, -1]


def test_the_first_rule_that_fits_wins():
    found = label([ROW], rules=[rule("bruteforce", ports=(80,)), rule("scan"), rule("dos_flood")])
    assert found.y.tolist() == [CLASS_INDEX["scan"]]


def test_addresses_that_end_in_zero_bytes_are_told_apart():
    rows = [(1, "2001:db8::", "10.0.0.1", 6, 1, 2), (1, "2001:db8::100", "10.0.0.1", 6, 1, 2)]
    assert label(rows, rules=[rule(hosts=("2001:db8::",))]).y.tolist() == [1, -1]


def test_verdict_goes_before_mark_and_mark_before_baseline():
    rows = [(5, *ROW[1:]), (5, *ROW[1:]), (500, *ROW[1:]), (5_000, *ROW[1:])]
    found = label(
        rows,
        rules=[rule("scan", 0, 10)],
        baseline=BaselineWindow(0, 600),
        verdicts={2: CLASS_INDEX["exfiltration"], 77: 1},
    )
    assert found.y.tolist() == [CLASS_INDEX["scan"], CLASS_INDEX["exfiltration"], 0, -1]
    assert found.source.tolist() == [Source.MARK, Source.VERDICT, Source.BASELINE, Source.NONE]


def test_an_exam_window_holds_out_whatever_the_label_says():
    """A verdict or a baseline does not bring an exam row back to training; an overlapping learn window neither."""
    rows = [(5, *ROW[1:]), (15, *ROW[1:])]
    found = label(
        rows,
        covered=[coverage(0, 30, "learn"), coverage(0, 10, "exam")],
        baseline=BaselineWindow(0, 30),
        verdicts={1: 0},
    )
    assert found.exam.tolist() == [True, False]


def test_of_two_runs_the_first_one_wins_and_both_hold_out():
    first, second = marks([rule("scan", 0, 10)]), marks([rule("dos_flood", 0, 10)], [coverage(0, 100, "exam")])
    found = label_flows(identity([(5, *ROW[1:]), (50, *ROW[1:])]), marks=[first, second])
    assert found.y.tolist() == [CLASS_INDEX["scan"], 0]
    assert found.exam.tolist() == [True, True]


def test_flow_ids_above_32_bits_find_their_verdict():
    rows = identity([ROW])
    rows["flow_id"] = 2**63 - 1
    assert label_flows(rows, verdicts={2**63 - 1: 3}).y.tolist() == [3]


def test_no_flows_give_no_labels():
    assert len(label_flows(identity([]), marks=[marks([rule()])], verdicts={1: 1}).y) == 0
