"""Put a run's results together from what was heard, the label sidecars and the alert files."""

import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from contract.codec import decode
from contract.errors import DecodeError
from contract.messages import EveAlert, MarkRule, MarkSet
from testbed.captures.loader import LabelledCapture
from testbed.demo_results import (
    AlertPoint,
    DeviceResult,
    EpisodeResult,
    RoundResult,
    RunResults,
    TrainingLine,
    figures_of_report,
    model_name,
)
from testbed.demo_setup import command_line, environment
from testbed.demo_state import RunState
from testbed.demo_view import DeviceView, FleetView, RoundView, UpdateView

_US_PER_S = 1_000_000
_PROTOCOL_NAMES = {1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 58: "IPV6-ICMP"}


def read_alerts(path: Path) -> tuple[list[EveAlert], int]:
    """Return the alerts of an EVE file, older rotated part first, and how many lines were none."""
    alerts: list[EveAlert] = []
    bad = 0
    for part in (path.with_name(path.name + ".1"), path):
        if not part.exists():
            continue
        for line in part.read_bytes().splitlines():
            try:
                alerts.append(decode(EveAlert, line))
            except DecodeError:
                bad += 1
    return alerts, bad


def fits(rule: MarkRule, alert: EveAlert) -> bool:
    """Return whether an alert is about a flow that the rule claims."""
    start_us = flow_start_us(alert)
    if not rule.start_us <= start_us <= rule.end_us:
        return False
    ends = ((alert.src_ip, alert.dest_ip), (alert.dest_ip, alert.src_ip))
    if not any(
        (not rule.hosts or one in rule.hosts) and (not rule.peers or other in rule.peers) for one, other in ends
    ):
        return False
    if rule.proto is not None and alert.proto.upper() not in {_PROTOCOL_NAMES.get(rule.proto, ""), str(rule.proto)}:
        return False
    return not rule.ports or bool({alert.src_port, alert.dest_port} & set(rule.ports))


def flow_start_us(alert: EveAlert) -> int:
    """Return when the alert's flow began, microseconds since the epoch, packet time."""
    return round(datetime.fromisoformat(alert.flow.start).timestamp() * _US_PER_S)


def _alert_us(alert: EveAlert) -> int:
    return round(datetime.fromisoformat(alert.timestamp).timestamp() * _US_PER_S)


def episodes(marks: MarkSet, alerts: Sequence[EveAlert]) -> tuple[EpisodeResult, ...]:
    """Return every attack episode with the alerts about its flows and the delay of the first one."""
    origin_us, exam_us = marks.coverage[0].start_us, marks.coverage[1].start_us
    result = []
    for rule in marks.rules:
        hits = [_alert_us(alert) for alert in alerts if alert.kinwatch.attack_class and fits(rule, alert)]
        result.append(
            EpisodeResult(
                label=rule.label,
                split="exam" if rule.start_us >= exam_us else "learn",
                start_s=(rule.start_us - origin_us) / _US_PER_S,
                end_s=(rule.end_us - origin_us) / _US_PER_S,
                alerts=len(hits),
                delay_s=max(0.0, (min(hits) - rule.start_us) / _US_PER_S) if hits else None,
            )
        )
    return tuple(result)


def alert_points(marks: MarkSet, alerts: Iterable[EveAlert]) -> tuple[AlertPoint, ...]:
    """Return when which alert was raised and whether its flow belongs to an attack."""
    origin_us = marks.coverage[0].start_us
    return tuple(
        AlertPoint(
            at_s=round((_alert_us(alert) - origin_us) / _US_PER_S, 3),
            attack_class=alert.kinwatch.attack_class,
            true=any(fits(rule, alert) for rule in marks.rules),
        )
        for alert in alerts
    )


def device_result(
    view: DeviceView, capture: LabelledCapture, run_id: str, alert_path: Path, measured: tuple[int, int]
) -> DeviceResult:
    """Return all about one device.

    Parameters
    ----------
    view
        What was heard of it.
    capture
        What it watched.
    run_id
        Run of the evaluation report.
    alert_path
        Its alert file.
    measured
        Largest resident memory of its agent and its trainer that the harness saw, bytes.
    """
    marks = capture.mark_set(run_id)
    alerts, bad_lines = read_alerts(alert_path)
    report = view.reports.get(run_id)
    figures, note = figures_of_report(report) if report else ({}, "no evaluation report came")
    if bad_lines:
        note = "; ".join(filter(None, (note, f"{bad_lines} lines of the alert file are no alerts")))
    active, assignment, told = view.active, view.assignment, view.telemetry
    return DeviceResult(
        device_id=capture.device_id,
        profile=capture.labels.profile,
        group=capture.labels.family,
        engine=view.birth.engine if view.birth else "",
        family_id=assignment.family_id if assignment else None,
        family_reason=assignment.reason if assignment else "",
        in_use=model_name(report.active) if report else model_name(active.active) if active else "",
        choice=active.reason if active else "",
        gain=active.gain if active else None,
        z=active.z if active else None,
        threshold=active.threshold if active else None,
        exam_rows=report.exam_rows if report else 0,
        exam_s=report.exam_benign_s if report else 0.0,
        models=figures,
        packets=view.total("packets"),
        ignored_packets=view.total("ignored_packets"),
        dropped_packets=view.total("dropped_packets"),
        flows=view.total("flows"),
        alerts=len(alerts),
        suppressed_alerts=view.total("suppressed_alerts"),
        train_rows=told.train_rows if told else 0,
        validation_rows=told.validation_rows if told else 0,
        rss_peak_bytes=max(view.rss_peak_bytes, measured[0]),
        trainer_rss_peak_bytes=max(view.trainer_rss_peak_bytes, measured[1]),
        restarts=max(0, len(view.sessions) - 1),
        capture_s=(capture.summary.last_us - capture.summary.first_us) / _US_PER_S,
        exam_from_s=capture.labels.exam_from_s,
        episodes=episodes(marks, alerts),
        alert_points=alert_points(marks, alerts),
        signature=_signature(view),
        counters=dict(told.counters) if told else {},
        note=note,
    )


def _signature(view: DeviceView) -> tuple[float, ...]:
    if view.signature is None:
        return ()
    mean = np.frombuffer(view.signature.mean[: len(view.signature.mean) // 2 * 2], dtype="<f2").astype(float)
    return tuple(round(float(value), 4) for value in np.nan_to_num(mean, posinf=0.0, neginf=0.0))


def round_results(fleet: FleetView) -> tuple[RoundResult, ...]:
    """Return what each round looked like from outside."""
    return tuple(_round_result(fleet.rounds[number]) for number in sorted(fleet.rounds))


def _round_result(view: RoundView) -> RoundResult:
    by_model: dict[str, list[UpdateView]] = {}
    for update in view.updates.values():
        by_model.setdefault(f"{update.role} {update.family_id}" if update.family_id else update.role, []).append(update)
    return RoundResult(
        number=view.number,
        seconds=None if view.closed_s is None else round(view.closed_s - view.opened_s, 3),
        invited=len(view.invited),
        training=tuple(_training_line(model, by_model[model]) for model in sorted(by_model)),
    )


def _training_line(model: str, updates: Sequence[UpdateView]) -> TrainingLine:
    return TrainingLine(
        model=model,
        updates=len(updates),
        rows=sum(update.rows for update in updates),
        loss_before=_mean(update.loss_before for update in updates),
        loss_after=_mean(update.loss_after for update in updates),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def family_reason(fleet: FleetView, device_ids: Sequence[str]) -> str:
    """Return the gateway's words on the grouping: the reason that most devices were told."""
    reasons = [
        view.assignment.reason
        for device_id in device_ids
        if (view := fleet.device(device_id)).assignment is not None and view.assignment.reason
    ]
    return max(sorted(set(reasons)), key=reasons.count) if reasons else ""


def run_results(state: RunState, started: datetime) -> RunResults:
    """Return the results of a run that came to its end.

    Parameters
    ----------
    state
        What was heard and measured.
    started
        When the run began, wall time.
    """
    fleet, settings = state.fleet, state.settings
    if fleet.receipts_refused:
        refused = ", ".join(f"{reason} {count}" for reason, count in sorted(fleet.receipts_refused.items()))
        state.notes.append(f"the gateway refused updates: {refused}")
    return RunResults(
        run_id=state.run_id,
        started=started.isoformat(timespec="seconds"),
        wall_s=round(time.monotonic() - state.began_s, 1),
        phases_s=state.phases_s,
        command=command_line(),
        settings={
            "seed": str(settings.seed),
            "devices": str(len(state.captures)),
            "rounds": str(settings.rounds),
            "warm-up rounds": str(settings.warmup_rounds),
            "speed": "as fast as read" if settings.speed == 0 else f"{settings.speed:g}x",
            "chaos": ", ".join(settings.chaos) or "none",
        },
        source=_source(state.captures),
        families={family: tuple(devices) for family, devices in fleet.families.items()},
        family_reason=family_reason(fleet, state.device_ids),
        rounds_completed=fleet.rounds_completed,
        rounds_wanted=settings.rounds,
        rounds=round_results(fleet),
        devices=tuple(
            device_result(
                fleet.device(capture.device_id),
                capture,
                state.run_id,
                state.where.alerts(capture.device_id),
                state.memory.get(capture.device_id, (0, 0)),
            )
            for capture in state.captures
        ),
        environment=environment(state.broker, state.captures),
        notes=tuple(state.notes),
        refusals=dict(fleet.refused),
    )


def _source(captures: Sequence[LabelledCapture]) -> str:
    made = [c for c in captures if c.labels.generator is not None]
    real = sorted({part.name for c in captures for part in c.labels.sources})
    parts = [f"synthetic traffic of {len(made)} devices"] if made else []
    if real:
        parts.append(f"{len(real)} public captures: {', '.join(real[:4])}{', ...' if len(real) > 4 else ''}")
    return "; ".join(parts) or "captures given by the user"
