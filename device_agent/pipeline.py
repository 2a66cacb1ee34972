"""The detection line: packets -> flows -> scores -> alerts, and the same flows, labelled, into the sample buffer.

It knows no broker and no gateway. Everything here runs in the agent's one loop; what it produces leaves by callbacks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from contract.messages import EveAlert, MarkSet
from contract.transform import to_model_input
from device_agent.detection.alerts import Finding, Judge, build_alert
from device_agent.detection.detector import Decision, Detector
from device_agent.detection.drift import DriftMonitor
from device_agent.detection.suppression import Suppressor
from device_agent.flows.records import EndReason, FlowBatch, PacketBatch
from device_agent.flows.select import Meter
from device_agent.labels.marks import BaselineWindow, Marks, label_flows
from device_agent.samples.pool import EARLY_ROW, Rows

_SECOND_US = 1_000_000
_EXPIRE_US = 10_000_000
_MAX_RUNS = 8
_MAX_VERDICTS = 4_096


@dataclass(slots=True)
class PipelineCounters:
    """Running totals: flows judged, alerts let through, repeats left out, feature values repaired.

    Early records are judged like others but counted as ``early``, so that ``flows`` has each part of a flow once.
    ``unreported`` repeats are those of kinds that went quiet: no later alert names their number.
    """

    flows: int = 0
    early: int = 0
    alerts: int = 0
    suppressed: int = 0
    unreported: int = 0
    repaired: int = 0


RowSink = Callable[[Rows, npt.NDArray[np.bool_], npt.NDArray[np.bool_]], None]
"""Takes labelled rows, which of them belong to exams, and which raised an alert."""


@dataclass(slots=True)
class Pipeline:
    """The line.

    Attributes
    ----------
    device_id
        Goes into alerts.
    meter, detector, suppressor
        Its stations; ``detector`` is swapped as a whole when the model changes.
    baseline_s
        Length of the learning window that starts with the first packet, 0 = none.
    on_alerts, on_rows
        Take what comes out.
    first_us, last_us
        Times of the first and the latest packet, 0 before them; the shell restores the first after a restart.
    ended
        No packet will come any more.
    """

    device_id: str
    meter: Meter
    detector: Detector
    suppressor: Suppressor | None
    baseline_s: float
    on_alerts: Callable[[list[EveAlert]], None]
    on_rows: RowSink
    first_us: int = 0
    last_us: int = 0
    counters: PipelineCounters = field(default_factory=PipelineCounters)
    drift: DriftMonitor = field(default_factory=DriftMonitor)
    ended: bool = False
    _marks: dict[str, Marks] = field(default_factory=dict)
    _expire_us: int = 0
    _verdicts: dict[int, int] = field(default_factory=dict)

    @property
    def baseline_open(self) -> bool:
        """Whether the learning window still runs."""
        if not self.baseline_s or self.ended:
            return False
        return not self.first_us or self.last_us < self._baseline_end_us

    @property
    def has_marks(self) -> bool:
        """Whether a test harness said what the traffic is."""
        return bool(self._marks)

    @property
    def exam_seconds(self) -> float:
        """Packet time that is covered by exam windows."""
        spans = sorted(
            (c.start_us, c.end_us) for m in self._marks.values() for c in m.mark_set.coverage if c.split == "exam"
        )
        total, reached = 0, 0
        for start, end in spans:
            total += max(0, end - max(start, reached))
            reached = max(reached, end)
        return total / _SECOND_US

    def feed(self, packets: PacketBatch) -> None:
        """Meter packets and judge the flows that end."""
        if len(packets):
            self.first_us = self.first_us or int(packets.ts_us[0])
            self.last_us = max(self.last_us, int(packets.ts_us[-1]))
            self._judge(self.meter.feed(packets))
            self._forget_quiet_kinds()

    def expire(self, now_us: int) -> None:
        """Close flows by the wall clock; live sources only."""
        self._judge(self.meter.expire(now_us))

    def flush(self) -> None:
        """Close all flows."""
        self._judge(self.meter.flush())

    def _forget_quiet_kinds(self) -> None:
        """Let the suppressor forget, once in ten seconds of packet time, what has been quiet."""
        if self.suppressor is not None and self.last_us >= self._expire_us:
            self._expire_us = self.last_us + _EXPIRE_US
            self.counters.unreported += sum(summary.repeats for summary in self.suppressor.expire(self.last_us))

    def set_marks(self, marks: MarkSet) -> None:
        """Label by these marks from now on; a newer set of the same run replaces the older."""
        self._marks.pop(marks.run_id, None)
        self._marks[marks.run_id] = Marks(marks)
        while len(self._marks) > _MAX_RUNS:
            del self._marks[next(iter(self._marks))]

    def add_verdict(self, flow_id: int, label: int) -> None:
        """Label later records of a flow, which alerts early and may go on, by the operator's word."""
        self._verdicts[flow_id] = label
        while len(self._verdicts) > _MAX_VERDICTS:
            del self._verdicts[next(iter(self._verdicts))]

    @property
    def _baseline_end_us(self) -> int:
        return self.first_us + round(self.baseline_s * _SECOND_US)

    def _judge(self, flows: FlowBatch) -> None:
        if not len(flows):
            return
        x, repaired = to_model_input(flows.features)
        self.counters.repaired += repaired
        n_early = int(np.count_nonzero(flows.identity["end_reason"] == EndReason.EARLY))
        self.counters.early += n_early
        self.counters.flows += len(flows) - n_early
        decision = self.detector.judge(x)
        if decision.alerted.any():
            self._alert(flows, x, decision)
        suspect = decision.alerted | self._lingers(flows, decision)
        self.drift.observe(x, suspect, self.last_us)
        self._label(flows, x, suspect)

    def _lingers(self, flows: FlowBatch, decision: Decision) -> npt.NDArray[np.bool_]:
        """Return the flows between both thresholds whose kind has an open alert: they are part of it."""
        part = np.zeros(len(flows), dtype=bool)
        if self.suppressor is None:
            return part
        for row in np.flatnonzero(decision.lingering).tolist():
            identity = flows.identity[row]
            name, at_us = decision.attack_class(row), int(identity["ts_end_us"])
            part[row] = self.suppressor.linger(identity["src_ip"].tobytes(), name, at_us)
        self.counters.suppressed += int(part.sum())
        return part

    def _alert(self, flows: FlowBatch, x: npt.NDArray[np.float32], decision: Decision) -> None:
        detector = self.detector
        judge = Judge(self.device_id, detector.model, detector.calibration)
        alerts: list[EveAlert] = []
        for row in np.flatnonzero(decision.alerted).tolist():
            identity = flows.identity[row]
            name = decision.attack_class(row)
            repeats = 0
            if self.suppressor is not None:
                admitted = self.suppressor.admit(identity["src_ip"].tobytes(), name, int(identity["ts_end_us"]))
                if admitted is None:
                    self.counters.suppressed += 1
                    continue
                repeats = admitted.repeats
            score = float(decision.scores.score[row])
            drivers = detector.top_features(x[row], by_reconstruction=bool(decision.by_reconstruction[row]))
            finding = Finding(score, name, drivers, repeats)
            alerts.append(build_alert(flows, row, finding, judge))
        self.counters.alerts += len(alerts)
        if alerts:
            self.on_alerts(alerts)

    def _label(self, flows: FlowBatch, x: npt.NDArray[np.float32], alerted: npt.NDArray[np.bool_]) -> None:
        window = None
        if self.baseline_s:
            window = BaselineWindow(self.first_us, self._baseline_end_us)
        labelling = label_flows(flows.identity, marks=self._marks.values(), baseline=window, verdicts=self._verdicts)
        # An exam asks once about each flow, and its rows never train: early records have no place there.
        identity = flows.identity
        early = identity["end_reason"] == EndReason.EARLY
        kept = ~(labelling.exam & early)
        rows = Rows(
            x=x,
            y=labelling.y,
            start_us=identity["ts_start_us"].astype(np.int64),
            flow_id=np.where(early, identity["flow_id"] | EARLY_ROW, identity["flow_id"]),
            source=labelling.source,
        )
        if kept.all():
            self.on_rows(rows, labelling.exam, alerted)
        elif kept.any():
            self.on_rows(rows.select(kept), labelling.exam[kept], alerted[kept])
