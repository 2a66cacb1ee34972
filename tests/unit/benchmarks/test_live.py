"""The live benchmark without an interface: pace and count of the sender, who may send, and what its bars hold."""

import errno
import socket

import pytest

from benchmarks.flow_meter import live
from benchmarks.flow_meter.sender import BATCH, GIVE_UP, Sender, frames, pace, refusal
from testbed.interlock import MARKER, Interface, Namespace


class Machine:
    """A clock that goes on by sleeping and by sending, and a kernel that takes what it is told to."""

    def __init__(self, us_per_packet=1.0, refuse_every=0):
        self.now_s = 100.0
        self.calls = []
        self.us_per_packet = us_per_packet
        self.refuse_every = refuse_every

    def clock(self):
        self.now_s += 1e-7
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds

    def send(self, first, count):
        self.calls.append((self.now_s - 100.0, first, count))
        self.now_s += count * self.us_per_packet * 1e-6
        if self.refuse_every and len(self.calls) % self.refuse_every == 0:
            return 0, 1
        return count, 0

    def run(self, offered, rate):
        return pace(offered, rate, self.send, self.clock, self.sleep)


def test_packets_leave_when_they_are_due_and_none_before():
    machine = Machine()
    told = machine.run(10_000, 100_000.0)
    assert (told.sent, told.refused, told.offered) == (10_000, 0, 10_000)
    assert told.seconds == pytest.approx(0.1, rel=0.01)
    assert all(first + count <= at_s * 100_000 + 1 for at_s, first, count in machine.calls)
    assert [first for _, first, _ in machine.calls][:3] == [
        0,
        machine.calls[0][2],
        sum(c for *_, c in machine.calls[:2]),
    ]


def test_a_slow_sender_shows_a_lower_rate_and_ends():
    told = Machine(us_per_packet=13.0).run(10_000, 100_000.0)
    assert told.sent == 10_000
    assert told.sent / told.seconds == pytest.approx(1e6 / 13.0, rel=0.01)
    assert told.most_behind > 2_000
    stuck = Machine(us_per_packet=100.0).run(10_000, 100_000.0)
    assert stuck.sent < 10_000
    assert stuck.seconds == pytest.approx(GIVE_UP * 0.1, rel=0.2)


def test_what_the_kernel_refuses_is_not_counted_as_sent():
    told = Machine(refuse_every=3).run(5_000, 100_000.0)
    assert told.refused > 0
    assert told.sent + told.refused == 5_000


def test_frames_are_of_all_sizes_and_between_own_addresses():
    made = frames()
    sizes = [len(frame) for frame in made]
    assert (min(sizes), max(sizes)) == (64, 1_500)
    assert len(set(sizes)) > 500
    assert sizes.count(64) == pytest.approx(len(made) / 2, rel=0.1)
    assert {frame[26:27] + frame[30:31] for frame in made} == {b"\x0a\x0a"}


def test_a_batch_reaches_the_socket_frame_by_frame_and_wraps():
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    right.setblocking(False)
    with left, right:
        sender = Sender(left, [b"one", b"two!", b"three"])
        assert sender.send(0, 3) == (3, 0)
        assert sender.send(4, 5) == (2, 0)
        assert [right.recv(100) for _ in range(5)] == [b"one", b"two!", b"three", b"two!", b"three"]


def test_a_socket_that_cannot_send_is_an_error():
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left:
        right.close()
        with pytest.raises(OSError, match="refused") as told:
            Sender(left, [b"x"]).send(0, BATCH)
    assert told.value.errno == errno.ECONNREFUSED


def interface(name="eth0", alias=f"{MARKER} abc", routes=(), namespace=Namespace.OTHER):
    return Interface(name=name, alias=alias, default_routes=frozenset(routes), namespace=namespace)


def test_the_pair_of_the_benchmark_may_be_sent_into():
    assert refusal(interface(), ["lo", "eth0"], "abc") == ""
    assert refusal(interface(namespace=Namespace.UNKNOWN), ["lo", "eth0"], "abc") == ""


@pytest.mark.parametrize(
    ("found", "neighbours", "mark", "word"),
    [
        (interface(namespace=Namespace.INITIAL), ["eth0"], "abc", "own network namespace"),
        (interface(namespace=Namespace.UNKNOWN, routes=["eth1"]), ["eth0"], "abc", "leads out"),
        (interface(routes=["eth0"]), ["eth0"], "abc", "default route"),
        (interface(name="lo"), ["lo"], "abc", "not in a network namespace of a benchmark"),
        (interface(alias=""), ["eth0"], "abc", "not marked"),
        (interface(alias=MARKER), ["eth0"], "abc", "mark of no pair"),
        (interface(), ["eth0"], "abd", "mark of no pair"),
        (interface(), ["lo", "eth0", "wlan0"], "abc", "wlan0 beside eth0"),
    ],
)
def test_every_other_interface_is_refused(found, neighbours, mark, word):
    assert word in refusal(found, neighbours, mark)


def rows(**changed):
    sent = {"offered": 400_000, "sent": 400_000, "refused": 0, "seconds": 4.01, "most_behind": 60, "cpu_s": 1.9}
    sent |= {"trailing": 10, "by_interface": 400_010} | {k: v for k, v in changed.items() if k != "seen"}
    seen = {"seen": changed.get("seen", sent["sent"] + 10), "cpu_s": 0.4, "kernel_dropped": 0, "rss_mb": 70.0}
    return [live.row("ring, columnar", 100_000, sent, seen)]


def bars(found):
    exported = {"flows": 20, "idle_timeout_s": 2.0, "seconds_from_last_packet_to_last_record": 3.0}
    exported |= {"exported_by_the_wall_clock": 20, "flushed_at_the_stop": 20}
    return {name: bar["ok"] for name, bar in live.bars(found, exported, {"cpu_percent": 0.5}).items()}


LOSS, RATE = "packets lost at 100,000 a second", "packets a second really sent, of 100,000"


def test_no_loss_at_the_full_rate_meets_every_bar():
    assert all(bars(rows()).values())


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"seen": 400_009}, {LOSS}),
        ({"seconds": 4.05}, {LOSS, RATE}),
        ({"sent": 390_000, "by_interface": 390_010}, {LOSS, RATE}),
        # Handed over, but never on the wire.
        ({"by_interface": 399_000}, {LOSS, RATE}),
    ],
)
def test_a_lost_packet_or_a_rate_that_was_not_reached_misses_its_bar(changed, missed):
    assert {name for name, ok in bars(rows(**changed)).items() if not ok} == missed


def test_a_run_without_the_full_rate_has_nothing_to_say_about_it():
    slower = [row | {"offered_pps": 50_000} for row in rows()]
    assert not bars(slower)[LOSS]
