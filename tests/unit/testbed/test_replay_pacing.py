"""The pace of a replay, on a clock of its own."""

import pytest

from testbed.pacing import Frame, Pace, ReplayReport, due_times_s, run


class Line:
    """A sender, a clock and a sleep that belong together; sending takes ``cost_s``."""

    def __init__(self, cost_s: float = 0.0) -> None:
        self.now_s = 1000.0
        self.cost_s = cost_s
        self.sent: list[tuple[float, bytes]] = []

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds

    def send(self, data: bytes) -> None:
        self.sent.append((round(self.now_s - 1000.0, 6), data))
        self.now_s += self.cost_s

    def replay(self, frames: list[Frame], pace: Pace) -> ReplayReport:
        return run(frames, pace, send=self.send, clock=self.clock, sleep=self.sleep)


def frames(*times_s: float) -> list[Frame]:
    return [Frame(round(1e15 + time_s * 1e6), bytes([number])) for number, time_s in enumerate(times_s)]


def test_the_captures_own_timing_is_kept() -> None:
    line = Line()
    report = line.replay(frames(0.0, 0.25, 1.0), Pace())
    assert line.sent == [(0.0, b"\0"), (0.25, b"\1"), (1.0, b"\2")]
    assert (report.sent, report.sent_bytes, report.requested_s, report.achieved_s) == (3, 3, 1.0, pytest.approx(1.0))
    assert report.valid


def test_a_multiplier_shortens_all_distances() -> None:
    line = Line()
    line.replay(frames(0.0, 1.0, 3.0), Pace(speed=4.0))
    assert [at_s for at_s, _ in line.sent] == [0.0, 0.25, 0.75]


def test_a_rate_replaces_the_timing() -> None:
    line = Line()
    report = line.replay(frames(0.0, 9.0, 9.1, 50.0), Pace(rate_pps=10.0, speed=7.0))
    assert [at_s for at_s, _ in line.sent] == [0.0, 0.1, 0.2, 0.3]
    assert report.achieved_pps == pytest.approx(4 / 0.3)


def test_loops_follow_at_the_mean_distance_and_never_backwards() -> None:
    line = Line()
    line.replay(frames(0.0, 1.0, 2.0), Pace(loops=2))
    assert [at_s for at_s, _ in line.sent] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    single = Line()
    single.replay(frames(0.0), Pace(rate_pps=2.0, loops=3))
    assert [at_s for at_s, _ in single.sent] == [0.0, 0.5, 1.0]


def test_times_that_jump_back_are_due_at_once() -> None:
    assert due_times_s(frames(1.0, 3.0, 2.0, 4.0), Pace()) == [0.0, 2.0, 2.0, 3.0]


def test_left_out_frames_are_counted_by_reason() -> None:
    line = Line()
    report = line.replay([Frame(0, None, "too-long"), *frames(0.0), Frame(10**15, None, "no-ip")], Pace(loops=2))
    assert report.sent == 2
    assert report.left_out == {"too-long": 2, "no-ip": 2}


def test_a_sender_that_cannot_keep_up_makes_the_run_invalid() -> None:
    slow = Line(cost_s=0.12).replay(frames(*(n / 10 for n in range(20))), Pace())
    assert slow.deviation == pytest.approx(0.2)
    assert slow.worst_lag_s == pytest.approx(19 * 0.02)
    assert not slow.valid
    assert Line(cost_s=0.1).replay(frames(*(n / 10 for n in range(20))), Pace()).valid
    late = Line(cost_s=0.109).replay(frames(*(n / 10 for n in range(20))), Pace())
    assert late.valid


def test_a_very_short_run_is_not_judged() -> None:
    assert ReplayReport(sent=2, sent_bytes=2, requested_s=0.001, achieved_s=0.1).valid
    assert not ReplayReport(sent=2, sent_bytes=2, requested_s=1.0, achieved_s=1.11).valid
    assert not ReplayReport(sent=2, sent_bytes=2, requested_s=1.0, achieved_s=0.89).valid


def test_progress_is_told_about_once_a_second() -> None:
    line, told = Line(), []
    run(
        frames(*(n / 10 for n in range(35))),
        Pace(),
        send=line.send,
        clock=line.clock,
        sleep=line.sleep,
        on_progress=told.append,
    )
    assert told == [11, 21, 31]


@pytest.mark.parametrize("wrong", [{"speed": 0.0}, {"rate_pps": -1.0}, {"loops": 0}, {"limit": 0}])
def test_impossible_paces_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Pace(**wrong)
