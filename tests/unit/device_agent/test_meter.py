"""The meter's rules, one by one."""

import statistics

import numpy as np
import pytest

from contract.features import INDEX, NAMES
from device_agent.flows.meter import AFTER_TCP_END, FlowMeter, MeterSettings
from device_agent.flows.packets import ACK, FIN, PSH, RST, SYN, URG
from device_agent.flows.records import EndReason, FlowBatch
from tests.unit.device_agent.frames import (
    EPOCH_US,
    A,
    B,
    C,
    S,
    arp,
    batch,
    ethernet,
    icmp,
    ipv4,
    tcp,
    tcp_header,
    udp,
    udp_header,
)


def meter_all(timed, **settings):
    """Return all records of ``[(seconds, frame), ...]``, and the meter."""
    meter = FlowMeter(MeterSettings(**settings))
    return FlowBatch.concat([meter.feed(batch(timed)), meter.flush()]), meter


def value(flows, name, row=0):
    return flows.features[row, INDEX[name]]


def reasons(flows):
    return [EndReason(r).name for r in flows.identity["end_reason"]]


def initiators(flows):
    return [flows.ip_text(row)[0] for row in range(len(flows))]


def session(start=0.0, sport=40000, isn=100):
    """A TCP session with handshake, request, response and mutual FIN: 9 packets."""
    up = {"sport": sport, "dport": 80}
    down = {"src": B, "dst": A, "sport": 80, "dport": sport}
    return [
        (start, tcp(**up, flags=SYN, seq=isn, window=64240)),
        (start + 0.01, tcp(**down, flags=SYN | ACK, seq=900, window=65160)),
        (start + 0.02, tcp(**up, flags=ACK, window=502)),
        (start + 0.03, tcp(**up, flags=ACK | PSH, window=502, payload=b"x" * 100)),
        (start + 0.05, tcp(**down, flags=ACK | PSH, window=510, payload=b"y" * 1000)),
        (start + 0.06, tcp(**up, flags=ACK, window=501)),
        (start + 0.07, tcp(**up, flags=ACK | FIN)),
        (start + 0.08, tcp(**down, flags=ACK | FIN)),
        (start + 0.09, tcp(**up, flags=ACK)),
    ]


class TestFeatures:
    def test_a_session_with_every_feature(self):
        flows, _ = meter_all(session())
        assert reasons(flows) == ["TCP_END"]
        fwd_len, bwd_len = [40, 40, 140, 40, 40, 40], [40, 1040, 40]
        fwd_t, bwd_t = [0, 0.02, 0.03, 0.06, 0.07, 0.09], [0.01, 0.05, 0.08]
        expected = {
            "proto_tcp": 1,
            "proto_udp": 0,
            "proto_icmp": 0,
            "fwd_pkts": 6,
            "bwd_pkts": 3,
            "fwd_bytes": 340,
            "bwd_bytes": 1120,
            "fwd_payload_bytes": 100,
            "bwd_payload_bytes": 1000,
            "fwd_payload_pkts": 1,
            "bwd_payload_pkts": 1,
            "duration_s": 0.09,
            "fwd_duration_s": 0.09,
            "bwd_duration_s": 0.07,
            "bytes_per_s": 1460 / 0.09,
            "pkts_per_s": 100,
            "fwd_bytes_per_s": 340 / 0.09,
            "bwd_bytes_per_s": 1120 / 0.09,
            "down_up_ratio": 0.5,
            "fwd_init_win": 64240,
            "bwd_init_win": 65160,
            "handshake_done": 1,
            "initiator_flows": 1,
            "initiator_peers": 1,
            "initiator_ports": 1,
            **dict.fromkeys(NAMES[INDEX["handshake_done"] + 1 : INDEX["initiator_flows"]], 0),
            "initiator_failed": 0,
            "initiator_new_peers": 1,
            "initiator_peer_entropy_bits": 0,
            "initiator_port_entropy_bits": 0,
        }
        for prefix, values in (("all", fwd_len + bwd_len), ("fwd", fwd_len), ("bwd", bwd_len)):
            for name, of in (("min", min), ("max", max), ("mean", statistics.mean), ("std", statistics.stdev)):
                expected[f"{prefix}_len_{name}"] = of(values)
        for prefix, times in (("all", sorted(fwd_t + bwd_t)), ("fwd", fwd_t), ("bwd", bwd_t)):
            gaps = np.diff(times).tolist()
            for name, of in (("min", min), ("max", max), ("mean", statistics.mean), ("std", statistics.stdev)):
                expected[f"{prefix}_iat_{name}_s"] = of(gaps)
        for side, counts in (("fwd", (1, 5, 1, 0, 1, 0)), ("bwd", (1, 3, 1, 0, 1, 0))):
            for flag, count in zip(("syn", "ack", "fin", "rst", "psh", "urg"), counts, strict=True):
                expected[f"{side}_{flag}_pkts"] = count
        assert set(expected) == set(NAMES)
        for name, want in expected.items():
            assert value(flows, name) == pytest.approx(want, rel=1e-12), name

    def test_identity_of_a_session(self):
        flows, _ = meter_all(session(start=5.0))
        record = flows.identity[0]
        assert flows.ip_text(0) == (A, B)
        assert (record["src_port"], record["dst_port"], record["proto"], record["vlan"]) == (40000, 80, 6, 0)
        assert (record["ts_start_us"], record["ts_end_us"]) == (EPOCH_US + 5 * S, EPOCH_US + 5_090_000)
        assert (record["part_index"], record["ip_version"]) == (0, 4)
        assert 0 <= int(record["flow_id"]) < 2**63

    def test_a_single_packet(self):
        flows, _ = meter_all([(0, udp(payload=b"q" * 20))])
        row = dict(zip(NAMES, flows.features[0], strict=True))
        assert (row["fwd_pkts"], row["bwd_pkts"], row["duration_s"], row["proto_udp"]) == (1, 0, 0, 1)
        assert (row["all_len_min"], row["all_len_max"], row["all_len_mean"], row["all_len_std"]) == (48, 48, 48, 0)
        assert (row["bwd_len_min"], row["all_iat_mean_s"], row["down_up_ratio"]) == (0, 0, 0)
        assert (row["bytes_per_s"], row["pkts_per_s"]) == (48e6, 1e6), "by one microsecond"

    def test_urgent_and_reset_are_counted_by_side(self):
        flows, _ = meter_all([(0, tcp(flags=URG | ACK)), (1, tcp(src=B, dst=A, sport=80, dport=40000, flags=RST))])
        assert value(flows, "fwd_urg_pkts") == 1
        assert value(flows, "bwd_rst_pkts") == 1
        assert value(flows, "fwd_rst_pkts") == 0

    def test_icmp_has_no_ports_and_answers_join(self):
        flows, _ = meter_all([(0, icmp(kind=8)), (0.1, icmp(src=B, dst=A, kind=0))])
        assert len(flows) == 1
        assert value(flows, "proto_icmp") == 1
        assert (flows.identity["src_port"][0], flows.identity["dst_port"][0]) == (0, 0)
        assert (value(flows, "fwd_pkts"), value(flows, "bwd_pkts")) == (1, 1)

    def test_deviation_of_large_equal_values_is_exactly_zero(self):
        """Sums of squares in floats would leave noise here."""
        flows, _ = meter_all([(i * 7.000001, udp(payload=b"x" * 1400)) for i in range(8)])
        assert value(flows, "all_iat_std_s") == 0
        assert value(flows, "all_len_std") == 0


class TestDirection:
    def test_the_first_packet_decides(self):
        flows, _ = meter_all([(0, udp(src=B, dst=A, sport=53, dport=40000)), (1, udp())])
        assert initiators(flows) == [B]

    def test_a_leading_syn_ack_reverses(self):
        answer = tcp(src=B, dst=A, sport=80, dport=40000, flags=SYN | ACK)
        flows, _ = meter_all([(0, answer), (0.1, tcp(flags=ACK))])
        assert initiators(flows) == [A]
        assert (value(flows, "fwd_syn_pkts"), value(flows, "bwd_syn_pkts")) == (0, 1)
        assert value(flows, "handshake_done") == 0

    def test_only_a_syn_ack(self):
        flows, _ = meter_all([(0, tcp(src=B, dst=A, sport=80, dport=40000, flags=SYN | ACK))])
        assert (value(flows, "fwd_pkts"), value(flows, "bwd_pkts"), value(flows, "down_up_ratio")) == (0, 1, 0)
        assert value(flows, "all_len_min") == 40

    def test_same_address_other_port(self):
        flows, _ = meter_all([(0, udp(src=A, dst=A, sport=9, dport=5)), (1, udp(src=A, dst=A, sport=5, dport=9))])
        assert (len(flows), value(flows, "fwd_pkts"), value(flows, "bwd_pkts")) == (1, 1, 1)

    def test_vlans_part_flows(self):
        frames = [
            ethernet(ipv4(tcp_header()), tags=tags)
            for tags in ([(0x8100, 1)], [(0x8100, 2)], [(0x88A8, 9), (0x8100, 1)])
        ]
        flows, _ = meter_all([(0, frame) for frame in frames])
        assert flows.identity["vlan"].tolist() == [1, 2, 1]
        assert len(set(flows.identity["flow_id"].tolist())) == 3


class TestCuts:
    def test_idle_gap_exactly_at_the_limit_cuts(self):
        flows, _ = meter_all([(0, udp()), (15, udp())])
        assert reasons(flows) == ["IDLE", "FLUSH"]
        flows, _ = meter_all([(0, udp()), (14.999999, udp())])
        assert reasons(flows) == ["FLUSH"]

    def test_an_idle_flow_closes_at_a_whole_second_of_other_traffic(self):
        meter = FlowMeter()
        assert len(meter.feed(batch([(0.5, udp()), (15.49, udp(src=C))]))) == 0
        assert len(meter.feed(batch([(15.6, udp(src=C))]))) == 0, "ticks are whole seconds"
        assert reasons(meter.feed(batch([(16.0, udp(src=C))]))) == ["IDLE"]

    def test_ignored_packets_move_the_clock_too(self):
        meter = FlowMeter()
        meter.feed(batch([(0, udp())]))
        assert len(meter.feed(batch([(20, arp())]))) == 1

    def test_active_cut_keeps_direction_tcp_state_and_opening(self):
        frames = session()[:3]
        frames += [(10.0 * i, tcp(src=B, dst=A, sport=80, dport=40000, window=7)) for i in range(1, 8)]
        flows, meter = meter_all(frames)
        assert reasons(flows) == ["ACTIVE", "FLUSH"]
        assert initiators(flows) == [A, A]
        assert flows.identity["part_index"].tolist() == [0, 1]
        assert [value(flows, "handshake_done", row) for row in (0, 1)] == [1, 1]
        assert [value(flows, "fwd_init_win", row) for row in (0, 1)] == [64240, 64240]
        assert [value(flows, "bwd_pkts", row) for row in (0, 1)] == [6, 2]
        assert [value(flows, "initiator_flows", row) for row in (0, 1)] == [1, 1]
        assert flows.identity["ts_start_us"][1] == EPOCH_US + 60 * S
        assert meter.counters.flows == 1

    def test_parts_have_own_counters(self):
        flows, _ = meter_all([(i, udp()) for i in range(0, 130, 10)])
        assert [value(flows, "fwd_pkts", row) for row in range(3)] == [6, 6, 1]
        assert [value(flows, "duration_s", row) for row in range(3)] == [50, 50, 0]

    def test_idle_goes_before_active(self):
        flows, _ = meter_all([(0, udp()), (70, udp())])
        assert reasons(flows)[0] == "IDLE"
        assert flows.identity["part_index"].tolist() == [0, 0]

    def test_times_that_run_back_within_a_flow_count_as_the_last(self):
        flows, _ = meter_all([(1.0, udp()), (0.4, udp()), (2.0, udp())])
        assert (value(flows, "all_iat_min_s"), value(flows, "duration_s")) == (0, 1)

    def test_a_clock_set_back_flushes(self):
        flows, meter = meter_all([(100, udp()), (39, udp())])
        assert reasons(flows) == ["FLUSH", "FLUSH"]
        assert meter.counters.clock_steps == 1

    def test_hostile_times_leave_usable_features(self):
        meter = FlowMeter()
        frames = [(0, udp()), (1, udp(src=C)), (2, udp())]
        data = batch(frames)
        data.ts_us[:] = [2**63 - 1, -(2**63), EPOCH_US]
        flows = FlowBatch.concat([meter.feed(data), meter.flush()])
        assert len(flows) == 3
        assert np.isfinite(flows.features).all()

    def test_expire_leaves_the_last_second_alone(self):
        meter = FlowMeter()
        meter.feed(batch([(0, udp())]))
        assert len(meter.expire(EPOCH_US + 15_900_000)) == 0
        assert reasons(meter.expire(EPOCH_US + 16 * S)) == ["IDLE"]

    def test_settings_must_be_positive(self):
        with pytest.raises(ValueError, match="idle_s=0"):
            MeterSettings(idle_s=0)


class TestTcpEnd:
    @pytest.mark.parametrize("sender", ["initiator", "responder"])
    def test_a_reset_ends_at_once(self, sender):
        meter = FlowMeter()
        rst = tcp(flags=RST) if sender == "initiator" else tcp(src=B, dst=A, sport=80, dport=40000, flags=RST | ACK)
        assert reasons(meter.feed(batch([(0, tcp(flags=SYN)), (0.1, rst)]))) == ["TCP_END"]

    def test_one_fin_does_not_end(self):
        flows, _ = meter_all([(0, tcp(flags=FIN | ACK)), (1, tcp(src=B, dst=A, sport=80, dport=40000))])
        assert reasons(flows) == ["FLUSH"]

    def test_two_fins_of_one_side_do_not_end(self):
        flows, _ = meter_all(
            [(0, tcp(flags=FIN | ACK)), (1, tcp(flags=FIN | ACK)), (2, tcp(src=B, dst=A, sport=80, dport=40000))]
        )
        assert reasons(flows) == ["FLUSH"]

    def test_the_second_fin_alone_does_not_end(self):
        flows, _ = meter_all(session()[:8])
        assert reasons(flows) == ["FLUSH"]

    def test_the_last_ack_must_come_from_the_other_side(self):
        extra = (0.085, tcp(src=B, dst=A, sport=80, dport=40000))
        flows, _ = meter_all([*session()[:8], extra])
        assert reasons(flows) == ["FLUSH"]

    def test_trailing_packets_open_no_ghost(self):
        trailing = [(0.2, tcp(src=B, dst=A, sport=80, dport=40000, flags=FIN | ACK)), (0.3, tcp(flags=RST))]
        flows, meter = meter_all(session() + trailing)
        assert len(flows) == 1
        assert meter.counters.ignored[AFTER_TCP_END] == 2
        assert meter.counters.metered == 9

    def test_trailing_ends_after_five_seconds_whatever_came(self):
        later = [(0.09 + i, tcp(flags=ACK)) for i in (1, 4, 4.9, 5)]
        flows, meter = meter_all(session() + later)
        assert reasons(flows) == ["TCP_END", "FLUSH"]
        assert meter.counters.ignored[AFTER_TCP_END] == 3

    def test_a_new_syn_after_the_end_opens_a_flow(self):
        flows, meter = meter_all(session() + session(start=0.5, isn=5))
        assert reasons(flows) == ["TCP_END", "TCP_END"]
        assert meter.counters.flows == 2
        assert [value(flows, "handshake_done", row) for row in (0, 1)] == [1, 1]

    def test_another_syn_ends_a_live_connection(self):
        flows, _ = meter_all(session()[:5] + session(start=1, isn=101))
        assert reasons(flows) == ["TCP_END", "TCP_END"]
        assert [value(flows, "fwd_pkts", row) for row in (0, 1)] == [3, 6]

    def test_a_repeated_syn_is_the_same_connection(self):
        again = (0.015, tcp(flags=SYN, seq=100, window=64240))
        flows, _ = meter_all([*session()[:2], again, *session()[2:]])
        assert reasons(flows) == ["TCP_END"]
        assert value(flows, "fwd_syn_pkts") == 2

    def test_unanswered_syns_are_one_attempt(self):
        flows, _ = meter_all([(i, tcp(flags=SYN, seq=i)) for i in range(4)])
        assert (len(flows), value(flows, "fwd_syn_pkts")) == (1, 4)

    def test_handshake_needs_its_order(self):
        flows, _ = meter_all([(0, tcp(flags=SYN)), (0.1, tcp(flags=ACK))])
        assert value(flows, "handshake_done") == 0


class TestBounds:
    def test_a_full_table_evicts_the_flow_without_packets_for_longest(self):
        frames = [(0.0, udp(sport=1)), (0.1, udp(sport=2)), (0.2, udp(sport=1)), (0.3, udp(sport=3))]
        flows, meter = meter_all(frames, max_flows=2)
        assert reasons(flows) == ["EVICT", "FLUSH", "FLUSH"]
        assert flows.identity["src_port"].tolist() == [2, 1, 3]
        assert meter.counters.records["evict"] == 1

    def test_ended_connections_are_remembered_within_the_same_bound(self):
        frames = [(i * 0.001, tcp(sport=1000 + i, flags=RST)) for i in range(50)]
        _, meter = meter_all(frames, max_flows=8)
        assert len(meter._ended) <= 8

    def test_every_packet_is_accounted_for(self):
        frames = [*session(), (1, arp()), (1, b"junk"), (1, ethernet(ipv4(b"x" * 3, proto=17))), (2, tcp(flags=ACK))]
        _, meter = meter_all(frames)
        counters = meter.counters
        assert counters.packets == len(frames)
        assert counters.metered + sum(counters.ignored.values()) == counters.packets
        assert counters.ignored["arp"] == 1
        assert counters.ignored["malformed-transport"] == 1

    def test_a_scan_shows_in_its_own_flows(self):
        frames = [(i * 0.01, tcp(dst=f"10.0.1.{i}", dport=23, flags=SYN, sport=5000 + i)) for i in range(1, 101)]
        flows, _ = meter_all(frames)
        assert value(flows, "initiator_flows", 99) == 100
        assert value(flows, "initiator_peers", 99) == 100
        assert value(flows, "initiator_ports", 99) == 1

    def test_later_fragments_are_one_flow_without_ports(self):
        fragments = [ethernet(ipv4(b"x" * 1000, proto=17, fragment=125 * i)) for i in range(1, 5)]
        first = ethernet(ipv4(udp_header(payload=b"x" * 992), proto=17, fragment=0x2000))
        flows, meter = meter_all([(0, first), *((0.001 * i, f) for i, f in enumerate(fragments, 1))])
        assert flows.identity["src_port"].tolist() == [40000, 0]
        assert value(flows, "fwd_pkts", 1) == 4
        assert meter.counters.metered == 5
