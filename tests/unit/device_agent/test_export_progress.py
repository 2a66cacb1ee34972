"""The line of progress."""

import io

import pytest

from device_agent.export.progress import Progress, Stand, line

HALF = Stand(done=500, total=1_000, packets=123_456, flows=7_890)


def test_a_terminal_of_80_columns():
    assert line(HALF, 2.0, 80) == "[################---------------]  50 %  123,456 packets, 61.7 k/s, 7,890 flows"


@pytest.mark.parametrize("width", [1, 20, 40, 60, 80, 200])
@pytest.mark.parametrize("stand", [HALF, Stand(0, 0, 10**9, 10**7), Stand(2_000, 1_000, 10**12, 0)])
def test_the_line_never_wraps(width, stand):
    assert len(line(stand, 1e-9, width)) <= max(width - 1, 0)


@pytest.mark.parametrize(
    ("packets", "shown"),
    [(0, "0 /s"), (999, "999 /s"), (1_500, "1.5 k/s"), (99_900, "99.9 k/s"), (250_000, "250 k/s"), (4.2e6, "4.2 M/s")],
)
def test_rates_are_short(packets, shown):
    assert f", {shown}," in line(Stand(0, 0, int(packets), 0), 1.0, 80)


def test_without_a_size_the_time_is_shown():
    assert line(Stand(0, 0, 10, 1), 75.0, 80) == "1:15 10 packets, 0 /s, 1 flows"


def test_nothing_measured_yet():
    assert line(Stand(0, 100, 0, 0), 0.0, 80).endswith("0 packets, 0 /s, 0 flows")


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_shown_ten_times_a_second_at_most_and_taken_away():
    out, clock = io.StringIO(), Clock()
    progress = Progress(out, clock, lambda: 80)
    progress.show(HALF)
    first = out.getvalue()
    assert first.startswith("\r[###")
    clock.now += 0.05
    progress.show(HALF)
    assert out.getvalue() == first
    clock.now += 0.06
    progress.show(HALF)
    assert len(out.getvalue()) > len(first)
    progress.close()
    progress.close()
    assert out.getvalue().endswith("\r\x1b[K")
    assert out.getvalue().count("\r") == 3


def test_what_was_never_shown_is_not_taken_away():
    out = io.StringIO()
    Progress(out, Clock(), lambda: 80).close()
    assert out.getvalue() == ""
