"""What a person sees of a run in the terminal: progress while it goes, tables at the end. Fits 80 columns."""

import textwrap
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from testbed.demo_results import DeviceResult, RunResults, model_name
from testbed.demo_state import RunState
from testbed.demo_view import DeviceView

WIDTH = 80
_PLAIN_EVERY_S = 5.0
_LIVE_EVERY_S = 0.25
_MB = 1_000_000
_HEADING_WIDTH = 10
# Longer device ids leave no room for wide gaps in 80 columns.
_ROOMY_ID = 11


def make_console() -> Console:
    """Return a console of at most 80 columns without a terminal, and of the terminal's width on one."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


class PlainProgress:
    """Lines for a log: a phase, a note, and the counts every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_s = time.monotonic()
        self._next_s = 0.0

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""

    def phase(self, text: str) -> None:
        """Say that a phase begins."""
        self._console.print(f"[{self._elapsed()}] {text}", markup=False)

    def note(self, text: str) -> None:
        """Say something a reader must know."""
        self._console.print(f"[{self._elapsed()}] note: {text}", markup=False)

    def tick(self, state: RunState) -> None:
        """Print the counts if it is time."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            if self._next_s:
                self._console.print(f"[{self._elapsed()}]  {summary_line(state)}", markup=False)
            self._next_s = now_s + _PLAIN_EVERY_S

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._began_s:5.1f} s"


class LiveProgress(PlainProgress):
    """The same lines above a table that moves, for a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live = Live(console=console, refresh_per_second=4, transient=True, auto_refresh=False)

    def __enter__(self) -> Self:
        """Take over the lower part of the screen."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the screen back."""
        self._live.stop()

    def tick(self, state: RunState) -> None:
        """Draw the table if it is time."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + _LIVE_EVERY_S
            self._live.update(Group(live_table(state), Text(f"{self._elapsed()}  {summary_line(state)}")), refresh=True)


def make_progress(console: Console) -> PlainProgress:
    """Return the progress that fits the console."""
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)


def summary_line(state: RunState) -> str:
    """Return one line on the whole fleet."""
    views = [state.fleet.device(device_id) for device_id in state.device_ids]
    up = sum(view.online for view in views)
    counts = [] if up == len(views) else [f"{up}/{len(views)} up"]
    counts += [
        f"{sum(v.total('packets') for v in views):,} packets",
        f"{sum(v.total('flows') for v in views):,} flows",
        f"round {state.fleet.rounds_completed}/{state.settings.rounds}",
        f"{len(state.fleet.families)} families",
        f"{sum(v.total('alerts') for v in views):,} alerts",
    ]
    return ", ".join(counts)


def live_table(state: RunState) -> Table:
    """Return the fleet as it is now."""
    table = _table("device", "state", ">packets", ">flows", ">rows", "family", "model in use", ">alerts")
    for device_id in state.device_ids:
        view = state.fleet.device(device_id)
        told = view.telemetry
        table.add_row(
            device_id,
            _state_text(view),
            f"{view.total('packets'):,}",
            f"{view.total('flows'):,}",
            f"{told.train_rows + told.validation_rows:,}" if told else "0",
            (view.assignment.family_id if view.assignment else None) or "-",
            model_name(view.active.active).split(" ")[0] if view.active else "-",
            f"{view.total('alerts'):,}",
        )
    return table


def _state_text(view: DeviceView) -> str:
    state = view.status.state if view.status else "starting"
    return f"{state} (end)" if view.capture_state == "ended" else state


def print_results(console: Console, results: RunResults) -> None:
    """Print the tables and the summary of a run."""
    console.print()
    console.print(device_table(results))
    console.print()
    console.print(recall_table(results))
    console.print()
    print_lines(console, summary(results))


def device_table(results: RunResults) -> Table:
    """Return family, model, F1, false alarms, alerts and memory of each device."""
    table = _table(
        "device",
        "family",
        "model",
        ">F1\nfallback",
        ">F1\nexpert",
        ">F1\nin use",
        ">false\n/hour",
        ">alerts",
        ">agent\nMB",
        tight=max((len(device.device_id) for device in results.devices), default=0) > _ROOMY_ID,
    )
    for device in results.devices:
        in_use = device.models.get("in-use")
        table.add_row(
            device.device_id,
            _short_family(device.family_id),
            device.in_use.split(" ")[0] or "-",
            number(device.f1_of("fallback")),
            number(device.f1_of("expert")),
            number(device.f1_of("in-use")),
            number(in_use.false_alarms_per_hour if in_use else None, digits=1),
            str(device.alerts),
            f"{device.rss_peak_bytes / _MB:.0f}",
        )
    table.add_section()
    alarms, hours = results.false_alarms()
    rate = number(alarms / hours if hours else None, digits=1)
    means = [number(results.mean_f1(model)) for model in ("fallback", "in-use")]
    table.add_row("mean, all", "", "", means[0], "", means[1], rate, "", "")
    with_expert = [device for device in results.devices if device.f1_of("expert") is not None]
    if with_expert:
        both = results.model_copy(update={"devices": tuple(with_expert)})
        figures = [number(both.mean_f1(model)) for model in ("fallback", "expert", "in-use")]
        table.add_row("with expert", "", "", *figures, "", "", "")
    return table


def recall_table(results: RunResults) -> Table:
    """Return the share of each attack's exam flows that raised an alert, by device."""
    table = _table("device", "recall per attack: exam flows that raised an alert, of all")
    for device in results.devices:
        figures = device.models.get("in-use")
        table.add_row(device.device_id, _recall_text(figures.recall if figures else {}, device))
    table.add_section()
    table.add_row("all", _recall_text(results.recall_by_attack(), None))
    return table


def _recall_text(recall: dict[str, tuple[int, int]], device: DeviceResult | None) -> str:
    if not recall:
        return "no evaluation report" if device is not None and not device.models else "no attack in the exam"
    return "  ".join(f"{name} {percent(hits, rows)} ({hits}/{rows})" for name, (hits, rows) in recall.items())


def summary(results: RunResults) -> list[tuple[str, str]]:
    """Return what to know beyond the tables: a heading and its text."""
    agent_mb = max((device.rss_peak_bytes for device in results.devices), default=0) / _MB
    trainer_mb = max((device.trainer_rss_peak_bytes for device in results.devices), default=0) / _MB
    complete = f"{results.rounds_completed} of {results.rounds_wanted} complete"
    lines = [
        ("families", families_text(results)),
        ("rounds", f"{complete}; wall time {results.wall_s:.0f} s ({phases_text(results)})"),
        ("memory", f"agent at most {agent_mb:.0f} MB, its trainer {trainer_mb:.0f} MB (resident, largest seen)"),
    ]
    exam = [episode for device in results.devices for episode in device.episodes if episode.split == "exam"]
    if exam:
        delays = sorted(episode.delay_s for episode in exam if episode.delay_s is not None)
        median = f", the first after {delays[len(delays) // 2]:.1f} s (median, packet time)" if delays else ""
        lines.append(("episodes", f"{len(delays)} of {len(exam)} attack episodes of the exam raised an alert{median}"))
    counted = "every F1, recall and false alarm is counted by the device itself on held-out exam flows"
    lines.append(("figures", f"{counted}; no exam flow trains a model or sets a threshold"))
    return lines + [("note", note) for note in results.notes]


def families_text(results: RunResults) -> str:
    """Return the families found, or why there is one or none."""
    found = "; ".join(f"{name}: {', '.join(devices)}" for name, devices in results.families.items())
    alone = [device.device_id for device in results.devices if device.family_id is None]
    if len(results.families) > 1:
        return found + (f"; like nobody: {', '.join(alone)}" if alone else "")
    if found:
        return f"one family ({found}): {results.family_reason}"
    return f"none: {results.family_reason or 'the gateway made no assignment'}"


def phases_text(results: RunResults) -> str:
    """Return how long each phase took."""
    return ", ".join(f"{name} {seconds:.0f}" for name, seconds in results.phases_s.items())


def number(value: float | None, *, digits: int = 3) -> str:
    """Return a figure, or ``-`` where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(part: int, whole: int) -> str:
    """Return a share in percent that says 100 or 0 only when it is all or nothing."""
    if whole == 0:
        return "-"
    share = round(100 * part / whole)
    if part < whole and share == 100:
        share = 99
    if part > 0 and share == 0:
        share = 1
    return f"{share}%"


def _short_family(family_id: str | None) -> str:
    return family_id or "-"


def _table(*headings: str, tight: bool = False) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0 if tight else 1, 0, 0), show_edge=False)
    for heading in headings:
        # Ids and figures stay in one piece; only a last column of text may wrap.
        name = heading.removeprefix(">")
        right, wraps = name != heading, heading == headings[-1] and name == heading
        table.add_column(
            name, justify="right" if right else "left", overflow="fold" if wraps else "ellipsis", no_wrap=not wraps
        )
    return table


def print_lines(console: Console, lines: Sequence[tuple[str, str]]) -> None:
    """Print headings and their texts, wrapped and indented."""
    for heading, text in lines:
        indent = " " * _HEADING_WIDTH
        for line in textwrap.wrap(
            text, WIDTH, initial_indent=heading.ljust(_HEADING_WIDTH), subsequent_indent=indent, break_on_hyphens=False
        ):
            console.print(line, markup=False, soft_wrap=True)
