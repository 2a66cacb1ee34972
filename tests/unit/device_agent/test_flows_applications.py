"""Which packets are dissected, the budget, and what becomes of it in the records."""

import numpy as np
import pytest

from contract.features import APPLICATIONS
from device_agent.capture.applications import ScapyDissector
from device_agent.flows.applications import HEADS, KINDS, MAX_PAYLOAD, PORTS, Applications, Kind, bits_of
from device_agent.flows.columnar.engine import ColumnarMeter
from device_agent.flows.meter import FlowMeter
from device_agent.flows.packets import ACK, ETHERNET, LINUX_SLL, TCP, UDP
from device_agent.flows.records import PacketBatch
from tests.property.packet_streams import assert_same_records
from tests.unit.device_agent.engines import column, engines, run
from tests.unit.device_agent.frames import EPOCH_US, A, B, ethernet, ipv4, ipv6, tcp, tcp_header, udp, udp_header
from tests.unit.device_agent.test_capture_applications import CONNECT, FAILURE, HELLO, PUBLISH, QUERY

batches = pytest.mark.parametrize("at_once", [1, 2, 1_000])


class Seen:
    """Notes what it is asked, and says the same of everything."""

    by_head = False

    def __init__(self, answer=1):
        self.answer = answer
        self.asked = []

    def dissect(self, kind, payload):
        self.asked.append((kind, payload))
        return self.answer


def selected(engine, *frames, at_once=1_000):
    dissector = Seen()
    run(engine, [(0.01 * i, frame) for i, frame in enumerate(frames)], at_once=at_once, dissector=dissector)
    return dissector.asked


def test_bits_follow_the_schema():
    assert [bits_of(name) for name, _ in APPLICATIONS] == [1 << i for i in range(10)]


def test_every_port_is_in_the_table():
    assert {
        (TCP if tcp_first else UDP, port): Kind(KINDS[tcp_first, port]) for tcp_first, port in np.argwhere(KINDS)
    } == PORTS


@engines
@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (tcp(dport=1883, payload=b"abc"), Kind.MQTT),
        (tcp(sport=1883, dport=50000, payload=b"abc"), Kind.MQTT),
        (udp(dport=5683, payload=b"abc"), Kind.COAP),
        (udp(dport=53, payload=b"abc"), Kind.DNS),
        (udp(sport=5353, dport=5353, payload=b"abc"), Kind.MDNS),
        (udp(dport=1900, payload=b"abc"), Kind.SSDP),
        (udp(sport=68, dport=67, payload=b"abc"), Kind.DHCP),
        (udp(sport=546, dport=547, payload=b"abc"), Kind.DHCP6),
        (udp(sport=53, dport=5353, payload=b"abc"), Kind.MDNS),
        (tcp(dport=443, payload=b"\x16bc"), Kind.TLS),
        (tcp(dport=8883, payload=b"\x16bc"), Kind.TLS),
    ],
)
def test_a_packet_that_is_selected(engine, frame, kind):
    ((found, payload),) = selected(engine, frame)
    assert found is kind
    assert payload in (b"abc", b"\x16bc")


@engines
@pytest.mark.parametrize(
    "frame",
    [
        tcp(dport=80, payload=b"abc"),
        udp(dport=1883, payload=b"abc"),
        tcp(dport=53, payload=b"abc"),
        tcp(dport=1883),
        tcp(dport=443, payload=b"\x17bc"),
        tcp(dport=1883, payload=b"abc")[:54],
        tcp(dport=1883, payload=b"abc")[:50],
        udp(dport=53, payload=b"abc")[:40],
        ethernet(ipv4(tcp_header(dport=1883) + b"abc", fragment=5)),
        ethernet(ipv4(b"\x00" * 40, proto=47)),
    ],
)
def test_a_packet_that_is_not(engine, frame):
    assert selected(engine, frame) == []


@engines
@pytest.mark.parametrize(
    "frame",
    [
        tcp(dport=1883, payload=b"abc") + b"padding",
        ethernet(ipv4(tcp_header(dport=1883, options=b"\x01" * 12) + b"abc")),
        ethernet(ipv4(tcp_header(dport=1883) + b"abc", options=b"\x01" * 8)),
        ethernet(ipv4(tcp_header(dport=1883) + b"abc", fragment=0x2000)),
        ethernet(ipv4(tcp_header(dport=1883) + b"abc"), tags=((0x8100, 0),)),
        ethernet(ipv4(tcp_header(dport=1883) + b"abc"), tags=((0x88A8, 7), (0x8100, 5))),
        ethernet(ipv6(tcp_header(dport=1883) + b"abc"), ethertype=0x86DD),
        ethernet(ipv6(b"\x06\x00" + bytes(6) + tcp_header(dport=1883) + b"abc", next_header=0), ethertype=0x86DD),
        ethernet(ipv4(tcp_header(dport=1883) + b"abc", total=0)),
    ],
)
@pytest.mark.parametrize("n", [1, 400])
def test_where_the_payload_is(engine, frame, n):
    """Four hundred uncommon frames take another way through the columns than one."""
    dissector = Seen()
    run(engine, [(i * 0.01, frame) for i in range(n)], dissector=dissector, dissect_pps=1_000)
    assert dissector.asked == [(Kind.MQTT, b"abc")] * n


@engines
def test_other_link_types(engine):
    packet = ipv4(udp_header(payload=b"abc"), proto=UDP)
    for link_type, head in (
        (LINUX_SLL, bytes(14) + b"\x08\x00"),
        (101, b""),
        (0, b"\x02\x00\x00\x00"),
        (ETHERNET, None),
    ):
        frame = ethernet(packet) if head is None else head + packet
        dissector = Seen()
        engine(dissector=dissector).feed(PacketBatch.from_frames([frame], [EPOCH_US], link_type=link_type))
        assert dissector.asked == [(Kind.DNS, b"abc")]


@engines
def test_what_was_captured_of_a_long_payload(engine):
    frame = udp(payload=bytes(range(256)) * 4)
    assert selected(engine, frame[:100]) == [(Kind.DNS, bytes(range(58)))]
    assert selected(engine, frame) == [(Kind.DNS, bytes(range(256)) * 2)]
    assert MAX_PAYLOAD == 512


@engines
@batches
def test_the_budget_is_that_of_each_second(engine, at_once):
    """Two a second: of 5 in the first second, 1 in the second and 3 in the fourth, the first ones."""
    times = (0.1, 0.2, 0.3, 0.4, 0.9, 1.5, 3.0, 3.1, 3.999)
    packets = [(at, udp(payload=bytes([i + 1]))) for i, at in enumerate(times)]
    dissector = Seen(answer=bits_of("dns_query"))
    flows, counters = run(engine, packets, at_once=at_once, dissector=dissector, dissect_pps=2)
    assert [payload[0] for _, payload in dissector.asked] == [1, 2, 6, 7, 8]
    assert (counters.dissected, counters.undissected, counters.malformed) == (5, 4, 0)
    assert column(flows, "dns_query_pkts") == [5]


@engines
@batches
def test_the_budget_follows_the_packet_clock(engine, at_once):
    """A packet of an earlier second that comes later spends the budget of the second it comes in."""
    packets = [(at, udp(payload=bytes([i + 1]))) for i, at in enumerate((1.1, 0.9, 1.2, 2.0))]
    dissector = Seen()
    _, counters = run(engine, packets, at_once=at_once, dissector=dissector, dissect_pps=1)
    assert [payload[0] for _, payload in dissector.asked] == [1, 4]
    assert counters.undissected == 2


def test_a_clock_set_back_has_a_new_budget():
    budget = Applications(Seen(), 2)
    assert [budget.take(*ask) for ask in ((7, 1), (7, 2), (7, 1), (6, 3), (7, 1))] == [1, 1, 0, 2, 1]
    assert budget.skipped == 3


@engines
def test_without_dissector_or_budget_nothing_is_selected(engine):
    packets = [(0.0, udp(payload=QUERY))]
    for dissector, budget in ((None, 100), (Seen(), 0)):
        flows, counters = run(engine, packets, dissector=dissector, dissect_pps=budget)
        assert column(flows, "dns_query_pkts") == [0]
        assert (counters.dissected, counters.undissected) == (0, 0)


@engines
@batches
def test_malformed_payloads_are_counted_and_count_for_nothing(engine, at_once):
    flows, counters = run(engine, [(0.0, udp(payload=b"?")), (0.1, udp(payload=b"!"))], dissector=Seen(answer=None))
    assert (counters.dissected, counters.malformed) == (2, 2)
    assert sum(flows.features[0, flows.features.shape[1] - 17 : -7]) == 0


@engines
@batches
def test_counts_of_records(engine, at_once):
    """Both directions together; by part; an early record has those until then."""
    packets = [
        (0.0, udp(payload=QUERY)),
        (0.1, udp(src=B, dst=A, sport=53, dport=40000, payload=FAILURE)),
        (0.2, udp(payload=QUERY)),
        (5.0, udp(payload=QUERY)),
    ]
    flows, _ = run(engine, packets, at_once=at_once, dissector=ScapyDissector(), early_pkts=2, active_s=5)
    assert column(flows, "dns_query_pkts") == [1, 2, 1]
    assert column(flows, "dns_failure_pkts") == [1, 1, 0]


@engines
@batches
def test_several_messages_in_a_segment(engine, at_once):
    packets = [
        (0.0, tcp(dport=1883, flags=ACK, payload=CONNECT + PUBLISH * 3)),
        (0.1, tcp(dport=1883, flags=ACK, seq=80, payload=PUBLISH)),
        (0.2, tcp(dport=443, payload=HELLO)),
    ]
    flows, _ = run(engine, packets, at_once=at_once, dissector=ScapyDissector())
    assert column(flows, "mqtt_connect_pkts") == [1, 0]
    assert column(flows, "mqtt_publish_pkts") == [2, 0]
    assert column(flows, "tls_hello_pkts") == [0, 1]


class ByHead(Seen):
    """Says the same of the same heads of a kind, and that every third head is nothing."""

    by_head = True

    def dissect(self, kind, payload):
        super().dissect(kind, payload)
        low, high = HEADS.get(kind, (0, 512))
        told = kind + sum(payload[low:high])
        return None if told % 3 == 0 else 1 << told % 10


@pytest.mark.parametrize("kind", HEADS)
def test_a_known_head_is_not_read_again(kind):
    """Every byte of a head makes a difference."""
    dissector, size = ByHead(), HEADS[kind][1] - HEADS[kind][0]
    told = Applications(dissector, 100)
    head = bytes(range(7, 7 + size))
    heads = [head, *(head[:i] + b"\xee" + head[i + 1 :] for i in range(size)), head]
    payloads = [bytes(HEADS[kind][0]) + part for part in heads]
    plain = Applications(ByHead(), 100)
    want = [plain.dissect(kind, payload) for payload in payloads]
    for turn in (1, 2):
        assert told.dissect_heads(kind, heads, payloads.__getitem__) == want
        assert (told.dissected, told.malformed) == (turn * plain.dissected, turn * plain.malformed)
    assert told.malformed
    assert len(dissector.asked) == len(heads) - 1


def test_a_flood_of_heads_is_forgotten():
    told = Applications(ByHead(), 100)
    heads = [i.to_bytes(19) for i in range(5_000)]
    told.dissect_heads(Kind.SSDP, heads, heads.__getitem__)
    assert 0 < len(told._known[Kind.SSDP]) <= 1_024


@pytest.mark.parametrize("dissector", [ByHead, Seen])
def test_many_payloads_at_once_are_told_as_one_by_one(dissector):
    """Heads cut short, of all kinds, among others of the same kinds: the columnar meter takes them together."""
    rng = np.random.default_rng(4)
    ports = [(proto, port) for (proto, port), kind in PORTS.items() if kind != Kind.TLS]
    frames = []
    for i in range(400):
        (proto, port), payload = (
            ports[int(rng.integers(len(ports)))],
            rng.integers(8, size=i % 30).astype("u1").tobytes(),
        )
        make = tcp if proto == TCP else udp
        frames.append((0.001 * i, make(sport=40_000 + i % 7, dport=port, payload=payload)))
    alone, totals = run(FlowMeter, frames, at_once=1, dissector=dissector(), dissect_pps=1_000)
    together, totals_together = run(ColumnarMeter, frames, at_once=400, dissector=dissector(), dissect_pps=1_000)
    assert_same_records(alone, together)
    assert totals == totals_together
    assert totals.dissected > 300


@pytest.mark.parametrize("kind", HEADS)
def test_heads_hold_all_that_the_dissector_reads(kind):
    """What stands before and behind the head, and how much, makes no difference to what Scapy says of it."""
    rng, reads, (low, high) = np.random.default_rng(2), ScapyDissector(), HEADS[kind]
    begins, said = (b"", b"", b"M-SEARCH * HTTP/1.1", HELLO, QUERY), set()
    for _ in range(1_500):
        rest = rng.choice([0, 0, 0, 1, 2, 3, 5, 0x45, 0x84, 0xFF], size=high).astype("u1").tobytes()
        begin = begins[int(rng.integers(len(begins)))][:high]
        head = (begin + rest[len(begin) :])[low:]
        one, two = (
            rng.bytes(low) + head + rng.bytes(int(size)) for size in rng.choice([0, 1, 7, 200], size=2, replace=False)
        )
        said.add(reads.dissect(kind, one))
        assert reads.dissect(kind, one) == reads.dissect(kind, two), head
    assert len(said) > 1


def test_bytes_behind_a_short_payload_are_not_of_its_head():
    """What follows it in the buffer, the next frame, begins as the longer payload goes on."""
    short, whole = (udp(dport=5_683, payload=payload) for payload in (b"\x40\x01", b"\x40\x01\x02\x00"))
    frames = [(0.001 * i, frame) for i, frame in enumerate([whole] * 20 + [short] * 20 + [whole] * 20)]
    flows, totals = run(ColumnarMeter, frames, dissector=ScapyDissector())
    assert (totals.dissected, totals.malformed) == (60, 20)
    assert column(flows, "coap_request_pkts") == [40]
