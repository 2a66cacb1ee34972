"""The page itself: run facts, tables, figures for light and dark, the record of the environment."""

from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path

from testbed.console import families_text, number, percent
from testbed.demo_results import DeviceResult, RunResults
from testbed.report import figures
from testbed.report.style import CSS
from testbed.report.theme import DARK, LIGHT, Draw, data_uri

_MB = 1_000_000
_WIDTH_IN = 9.2
_HEAD = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'


def write_report(results: RunResults, path: Path) -> Path:
    """Write the page of a run and return its path.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    path.write_text(render_page(results), encoding="utf-8")
    return path


def render_page(results: RunResults) -> str:
    """Return the page as HTML: no script, no request to anywhere, every figure inside."""
    sections = [
        _facts(results),
        _section("Devices", _device_table(results), _DEVICE_NOTE),
        _f1_section(results),
        _recall_section(results),
        _families_section(results),
        _rounds_section(results),
        _timeline_section(results),
        _notes(results),
        _section("Environment", _pairs(results.environment | {"command": results.command} | results.settings)),
    ]
    title = f"Kinwatch run {results.run_id}"
    return (
        f'<!doctype html>\n<html lang="en"><head>{_HEAD}<title>{escape(title)}</title><style>{CSS}</style></head>\n'
        f"<body><main><header><h1>Kinwatch</h1><p>run <b>{escape(results.run_id)}</b>, {escape(results.started)}, "
        f"{escape(results.source)}</p></header>\n" + "\n".join(filter(None, sections)) + "\n</main></body></html>\n"
    )


_DEVICE_NOTE = (
    "Macro-F1 is the plain mean of F1 over the classes in the device's exam truth. False alarms are benign exam flows "
    "above the device's own threshold. Alerts are lines of the alert file over the whole run; repeats of a kind are "
    "left out of it. MB is the largest resident memory of the agent and of its training process."
)


def _facts(results: RunResults) -> str:
    alarms, hours = results.false_alarms()
    caught = results.recall_by_attack()
    hits, rows = sum(h for h, _ in caught.values()), sum(r for _, r in caught.values())
    agent = max((d.rss_peak_bytes for d in results.devices), default=0)
    trainer = max((d.trainer_rss_peak_bytes for d in results.devices), default=0)
    fallback, in_use = results.mean_f1("fallback"), results.mean_f1("in-use")
    tiles = [
        ("devices", str(len(results.devices)), f"{sum(d.flows for d in results.devices):,} flows"),
        ("families", str(len(results.families)), _alone_text(results)),
        ("rounds", f"{results.rounds_completed}/{results.rounds_wanted}", f"{results.wall_s:.0f} s in all"),
        ("macro-F1 in use", number(in_use), f"fallback alone {number(fallback)}"),
        ("attacks alerted", percent(hits, rows), f"{hits:,} of {rows:,} flows"),
        ("false alarms/h", number(alarms / hours if hours else None, digits=1), f"{alarms} in {hours:.1f} h"),
        ("agent memory", f"{agent / _MB:.0f} MB", f"trainer {trainer / _MB:.0f} MB"),
    ]
    cells = "".join(
        f"<div><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(extra)}</small></div>"
        for name, value, extra in tiles
    )
    return (
        f'<section class="tiles">{cells}</section><p class="how">Every figure of a model is counted by the device '
        "itself on held-out exam flows. No exam flow trains a model, sets a threshold or chooses between models.</p>"
    )


def _alone_text(results: RunResults) -> str:
    alone = [device.device_id for device in results.devices if device.family_id is None]
    return f"{len(alone)} like nobody" if alone else "every device has one"


def _device_table(results: RunResults) -> str:
    head = (
        ("device", "profile", "family", "in use", "why"),
        ("F1 fallback", "F1 expert", "F1 in use", "false/h", "alerts", "flows", "exam flows", "MB", "trainer"),
    )
    rows = []
    for device in results.devices:
        in_use = device.models.get("in-use")
        role = device.in_use.split(" ")[0] or "-"
        words = (device.device_id, device.profile, device.family_id or "-", role, device.choice or "-")
        numbers = (
            number(device.f1_of("fallback")),
            number(device.f1_of("expert")),
            number(device.f1_of("in-use")),
            number(in_use.false_alarms_per_hour if in_use else None, digits=1),
            f"{device.alerts:,}",
            f"{device.flows:,}",
            f"{device.exam_rows:,}",
            f"{device.rss_peak_bytes / _MB:.0f}",
            f"{device.trainer_rss_peak_bytes / _MB:.0f}",
        )
        rows.append(_row(words, numbers))
    return _table(head, rows)


def _row(words: Sequence[str], numbers: Sequence[str]) -> str:
    cells = "".join(f"<td>{escape(text)}</td>" for text in words)
    return f"<tr>{cells}" + "".join(f'<td class="n">{escape(text)}</td>' for text in numbers) + "</tr>"


def _table(head: tuple[Sequence[str], Sequence[str]], rows: Sequence[str]) -> str:
    cells = "".join(f"<th>{escape(text)}</th>" for text in head[0])
    cells += "".join(f'<th class="n">{escape(text)}</th>' for text in head[1])
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _f1_section(results: RunResults) -> str:
    if not any(device.models for device in results.devices):
        return ""
    picture = _picture(partial(figures.f1_bars, results), "macro-F1 by device", 0.42 * len(results.devices) + 1.3)
    return _section("Fallback, expert and the model in use", picture)


def _recall_section(results: RunResults) -> str:
    if not figures.attack_names(results):
        return ""
    picture = _picture(partial(figures.recall_heat, results), "recall by attack", 0.36 * len(results.devices) + 1.2)
    return _section(
        "Recall per attack",
        picture,
        "Exam flows that raised an alert, of all exam flows of the class, with the model in use. Colour is the share.",
    )


def _families_section(results: RunResults) -> str:
    text = f"<p>{escape(families_text(results))}</p>"
    reasons = sorted({device.family_reason for device in results.devices if device.family_reason})
    text += "<ul>" + "".join(f"<li>{escape(reason)}</li>" for reason in reasons) + "</ul>" if reasons else ""
    lengths = {len(device.signature) for device in results.devices if device.signature}
    enough = len(lengths) == 1 and sum(bool(device.signature) for device in results.devices) >= 3
    picture = _picture(partial(figures.families_map, results), "devices by signature", 4.6) if enough else ""
    return _section(
        "Families",
        text + picture,
        "Each point is a device, placed by the trimmed means in the traffic signature that it sends. The gateway "
        "decides on all components, and on the deviations as well.",
    )


def _rounds_section(results: RunResults) -> str:
    if not any(line.loss_after is not None for one in results.rounds for line in one.training):
        return ""
    seconds = [one.seconds for one in results.rounds if one.seconds is not None]
    mean = f"; {sum(seconds) / len(seconds):.1f} s a round" if seconds else ""
    return _section(
        "Rounds",
        _picture(partial(figures.round_losses, results), "validation loss by round", 3.2),
        f"Loss after local training, mean over the devices' own validation rows{mean}.",
    )


def _timeline_section(results: RunResults) -> str:
    if not any(device.episodes or device.alert_points for device in results.devices):
        return ""
    picture = _picture(
        partial(figures.alert_timeline, results), "alerts and attacks", 0.36 * len(results.devices) + 1.6
    )
    rows = [_row((name,), cells) for name, cells in _delay_rows(results.devices)]
    table = _table((("attack in the exam",), ("episodes", "with an alert", "median s to first alert")), rows)
    return _section(
        "Alerts against the ground truth",
        picture + (table if rows else ""),
        "An alert counts for an episode when its flow fits the episode's window, hosts and ports. While the fleet "
        "learns, thresholds are still moving, so alerts of the learning part say little.",
    )


def _delay_rows(devices: Sequence[DeviceResult]) -> list[tuple[str, tuple[str, str, str]]]:
    by_label: dict[str, list[float | None]] = {}
    for device in devices:
        for episode in device.episodes:
            if episode.split == "exam":
                by_label.setdefault(episode.label, []).append(episode.delay_s)
    rows = []
    for label, delays in sorted(by_label.items()):
        known = sorted(delay for delay in delays if delay is not None)
        middle = f"{known[len(known) // 2]:.1f}" if known else "-"
        rows.append((label, (str(len(delays)), str(len(known)), middle)))
    return rows


def _notes(results: RunResults) -> str:
    notes = list(results.notes)
    notes += [f"{device.device_id}: {device.note}" for device in results.devices if device.note]
    notes += [f"{d.device_id} was restarted {d.restarts} times" for d in results.devices if d.restarts]
    dropped = sum(device.dropped_packets for device in results.devices)
    notes.append(f"{dropped:,} packets were dropped by agents" if dropped else "no agent dropped a packet")
    if results.refusals:
        listed = ", ".join(f"{reason} {count}" for reason, count in sorted(results.refusals.items()))
        notes.append(f"messages the harness could not use: {listed}")
    if results.source.startswith("synthetic"):
        notes.append(
            "the traffic is synthetic: it shows that the parts work together, not how well real attacks are found"
        )
    return _section("Notes", "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>")


def _section(title: str, body: str, note: str = "") -> str:
    end = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{body}{end}</section>"


def _pairs(values: dict[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in values.items()) + "</dl>"


def _picture(draw: Draw, alt: str, height_in: float) -> str:
    light, dark = (data_uri(draw, theme, width_in=_WIDTH_IN, height_in=height_in) for theme in (LIGHT, DARK))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{escape(alt)}"></picture>'
    )
