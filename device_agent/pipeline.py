"""The detection line: packets -> flows -> scores -> alerts, and the same flows, labelled, into the sample buffer.

It knows no broker and no gateway. Everything here runs in the agent's one loop; what it produces leaves by callbacks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from contract.messages import EveAlert, MarkSet
from contract.taxonomy import BENIGN_INDEX
from contract.transform import to_model_input
from device_agent.detection.alerts import Finding, Judge, build_alert
from device_agent.detection.detector import Decision, Detector
from device_agent.detection.suppression import Suppressor
from device_agent.flows.meter import FlowMeter
from device_agent.flows.records import FlowBatch, PacketBatch
from device_agent.labels.marks import BaselineWindow, Labelling, Marks, label_flows

_SECOND_US = 1_000_000
_HOUR_US = 3_600 * _SECOND_US
_MAX_RUNS = 8


@dataclass(slots=True)
class TrafficClock:
    """Packet time of what was seen, and how busy benign learning traffic is.

    Attributes
    ----------
    first_us, last_us
        Times of the first and the latest packet; 0 before the first.
    benign_flows, benign_first_us, benign_last_us
        Benign flows outside exams, and the packet time they span.
    """

    first_us: int = 0
    last_us: int = 0
    benign_flows: int = 0
    benign_first_us: int = 0
    benign_last_us: int = 0

    def saw_packets(self, batch: PacketBatch) -> None:
        """Take the times of a batch."""
        if not self.first_us:
            self.first_us = int(batch.ts_us[0])
        self.last_us = max(self.last_us, int(batch.ts_us[-1]))

    def saw_benign(self, start_us: npt.NDArray[np.int64]) -> None:
        """Take the start times of benign flows."""
        if not len(start_us):
            return
        self.benign_flows += len(start_us)
        first, last = int(start_us.min()), int(start_us.max())
        self.benign_first_us = min(self.benign_first_us, first) if self.benign_first_us else first
        self.benign_last_us = max(self.benign_last_us, last)

    @property
    def benign_flows_per_hour(self) -> float:
        """Rate of benign flows; at least a minute is assumed, so that a burst at the start does not fool it."""
        span_us = max(self.benign_last_us - self.benign_first_us, 60 * _SECOND_US)
        return self.benign_flows * _HOUR_US / span_us


@dataclass(slots=True)
class PipelineCounters:
    """Running totals: flows judged, alerts let through, repeats left out, feature values repaired."""

    flows: int = 0
    alerts: int = 0
    suppressed: int = 0
    repaired: int = 0


@dataclass(frozen=True, slots=True)
class LabelledFlows:
    """Flows that carry a label, ready for the buffer.

    Attributes
    ----------
    x
        Shape ``(n, D)``, float32 model inputs.
    labelling
        Labels, sources and exam flags of the rows.
    identity
        Shape ``(n,)``, dtype ``IDENTITY``.
    """

    x: npt.NDArray[np.float32]
    labelling: Labelling
    identity: npt.NDArray[np.void]


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
    on_alerts, on_labelled
        Take what comes out.
    clock
        Packet time seen; restored by the shell after a restart.
    """

    device_id: str
    meter: FlowMeter
    detector: Detector
    suppressor: Suppressor | None
    baseline_s: float
    on_alerts: Callable[[list[EveAlert]], None]
    on_labelled: Callable[[LabelledFlows], None]
    clock: TrafficClock = field(default_factory=TrafficClock)
    counters: PipelineCounters = field(default_factory=PipelineCounters)
    ended: bool = False
    _marks: dict[str, Marks] = field(default_factory=dict)

    @property
    def baseline_open(self) -> bool:
        """Whether the learning window still runs."""
        if not self.baseline_s or self.ended:
            return False
        return not self.clock.first_us or self.clock.last_us < self._baseline_end_us

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
            self.clock.saw_packets(packets)
            self._judge(self.meter.feed(packets))

    def expire(self, now_us: int) -> None:
        """Close flows by the wall clock; live sources only."""
        self._judge(self.meter.expire(now_us))

    def flush(self) -> None:
        """Close all flows."""
        self._judge(self.meter.flush())

    def set_marks(self, marks: MarkSet) -> None:
        """Label by these marks from now on; a newer set of the same run replaces the older."""
        self._marks.pop(marks.run_id, None)
        self._marks[marks.run_id] = Marks(marks)
        while len(self._marks) > _MAX_RUNS:
            del self._marks[next(iter(self._marks))]

    @property
    def _baseline_end_us(self) -> int:
        return self.clock.first_us + round(self.baseline_s * _SECOND_US)

    def _judge(self, flows: FlowBatch) -> None:
        if not len(flows):
            return
        x, repaired = to_model_input(flows.features)
        self.counters.repaired += repaired
        self.counters.flows += len(flows)
        decision = self.detector.judge(x)
        if decision.alerted.any():
            self._alert(flows, x, decision)
        self._label(flows, x)

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
            finding = Finding(score, name, detector.top_features(x[row]), repeats)
            alerts.append(build_alert(flows, row, finding, judge))
        self.counters.alerts += len(alerts)
        if alerts:
            self.on_alerts(alerts)

    def _label(self, flows: FlowBatch, x: npt.NDArray[np.float32]) -> None:
        window = None
        if self.baseline_s:
            window = BaselineWindow(self.clock.first_us, self._baseline_end_us)
        labelling = label_flows(flows.identity, marks=self._marks.values(), baseline=window)
        known = np.flatnonzero(labelling.y >= 0)
        if not len(known):
            return
        start_us = flows.identity["ts_start_us"]
        self.clock.saw_benign(start_us[(labelling.y == BENIGN_INDEX) & ~labelling.exam])
        kept = Labelling(y=labelling.y[known], source=labelling.source[known], exam=labelling.exam[known])
        self.on_labelled(LabelledFlows(x[known], kept, flows.identity[known]))
