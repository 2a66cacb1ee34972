"""The detection line between its stations: quiet kinds of alerts, verdicts on flows that go on."""

from dataclasses import replace

import numpy as np

from contract import codec
from contract.features import FEATURES, N_FEATURES, SPAN
from contract.initial import initial_theta
from contract.messages import MarkSet, Verdict
from contract.messages.truth import Coverage
from contract.model import DEFAULT_SPEC, ModelId
from contract.taxonomy import CLASS_INDEX, N_CLASSES
from contract.topics import VERDICT
from device_agent.choosing import SILENT
from device_agent.detection.calibration import Calibration
from device_agent.detection.detector import Detector
from device_agent.detection.suppression import Suppressor
from device_agent.events import VerdictReceived
from device_agent.flows.records import IDENTITY, EndReason, FlowBatch, PacketBatch
from device_agent.inbound import Reader, own_topics
from device_agent.inference.engine import Inference
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.labels.source import Source
from device_agent.pipeline import Pipeline
from device_agent.trust import Keyring

S = 1_000_000


class Meter:
    """Gives what it was told to, whatever the packets are."""

    def __init__(self):
        self.next = FlowBatch(np.zeros(0, IDENTITY), np.zeros((0, N_FEATURES)))

    def feed(self, _packets):
        return self.next


def line(**changes):
    factory = ModelId(role="factory", digest="f" * 64)
    detector = Detector(
        NumpyEngine(DEFAULT_SPEC.layout),
        initial_theta(DEFAULT_SPEC, 0),
        factory,
        SILENT,
    )
    seen = []
    made = Pipeline(
        device_id="cam-1",
        meter=Meter(),
        detector=detector,
        suppressor=Suppressor(60.0),
        baseline_s=3_600.0,
        on_alerts=lambda _alerts: None,
        on_rows=lambda rows, _exam, _alerted: seen.append(rows),
        **changes,
    )
    return made, seen


def packets(at_s):
    return PacketBatch.from_frames([b"\0" * 60], [at_s * S])


def test_repeats_of_a_kind_that_went_quiet_are_counted():
    pipeline, _ = line()
    for _ in range(3):
        pipeline.suppressor.admit(b"x" * 16, "scan", 100 * S)
    pipeline.feed(packets(110))
    assert len(pipeline.suppressor) == 1
    pipeline.feed(packets(170))
    assert len(pipeline.suppressor) == 0
    assert pipeline.counters.unreported == 2


SPOKEN = next(number for number, feature in enumerate(FEATURES) if feature.kind == "log")


class Scorer(NumpyEngine):
    """Gives every flow the probability of a scan that one of its features says."""

    def infer(self, theta, x):
        probs = np.zeros((len(x), N_CLASSES), np.float32)
        probs[:, CLASS_INDEX["scan"]] = x[:, SPOKEN]
        probs[:, 0] = 1.0 - x[:, SPOKEN]
        return Inference(probs, np.zeros(len(x), np.float32))


def test_flows_between_both_thresholds_belong_to_the_open_alert_of_their_source():
    """They raise none, they count as repeats, and they stay out of the benign rows like the alert itself."""
    pipeline, _ = line()
    suspects, alerts = [], []
    pipeline.on_rows = lambda _rows, _exam, alerted: suspects.append(alerted.tolist())
    pipeline.on_alerts = alerts.extend
    pipeline.detector = replace(
        pipeline.detector, engine=Scorer(DEFAULT_SPEC.layout), calibration=Calibration(0.8, None, 100, 60.0, 1.0)
    )

    def flows(at_s, *scores, source=1):
        identity = np.zeros(len(scores), IDENTITY)
        identity["ts_start_us"] = identity["ts_end_us"] = at_s * S
        identity["src_ip"][:, 15] = source
        identity["proto"] = 6
        features = np.zeros((len(scores), N_FEATURES))
        column = FEATURES[SPOKEN]
        features[:, SPOKEN] = np.expm1(np.array(scores) / SPAN * np.log1p(column.per_unit * column.ceiling))
        features[:, SPOKEN] /= column.per_unit
        pipeline.meter.next = FlowBatch(identity, features)
        pipeline.feed(packets(at_s))
        return suspects[-1]

    assert flows(100, 0.7) == [False], "nothing is open"
    assert flows(101, 0.9, 0.1) == [True, False]
    assert flows(110, 0.7, 0.5) == [True, False]
    assert flows(110, 0.7, source=2) == [False]
    assert (len(alerts), pipeline.counters.suppressed) == (1, 1)
    assert flows(171, 0.7) == [False], "a quiet minute has cleared it"


def test_a_verdict_outweighs_the_baseline_on_later_records_of_the_flow():
    pipeline, seen = line()
    identity = np.zeros(2, IDENTITY)
    identity["flow_id"], identity["ts_start_us"] = (7, 8), 100 * S
    pipeline.meter.next = FlowBatch(identity, np.ones((2, N_FEATURES)))
    pipeline.add_verdict(7, CLASS_INDEX["scan"])
    pipeline.feed(packets(100))
    assert seen[0].y.tolist() == [CLASS_INDEX["scan"], 0]
    assert seen[0].source.tolist() == [Source.VERDICT, Source.BASELINE]


def test_a_verdict_on_its_topic_becomes_an_event():
    reader = Reader(DEFAULT_SPEC, Keyring())
    verdict = Verdict(device_id="cam-1", flow_id=7, label="benign")
    topic = VERDICT.of(device="cam-1")
    assert topic in own_topics("cam-1", accept_marks=False)
    assert reader.read(topic, codec.encode(verdict)) == VerdictReceived(verdict)
    assert reader.read(topic, b"\xff") is None
    assert sum(reader.refused.values()) == 1


def test_early_records_are_judged_and_learnt_from_but_counted_apart_and_kept_out_of_exams():
    offered = []
    pipeline, _ = line()
    pipeline.on_rows = lambda rows, exam, alerted: offered.append((rows, exam, alerted))
    pipeline.set_marks(
        MarkSet(
            run_id="r",
            device_id="cam-1",
            coverage=(Coverage(start_us=200 * S, end_us=300 * S, split="exam", default_label="benign"),),
        )
    )
    identity = np.zeros(4, IDENTITY)
    identity["flow_id"] = (7, 7, 8, 8)
    identity["ts_start_us"] = np.array((100, 100, 250, 250)) * S
    identity["end_reason"] = (EndReason.EARLY, EndReason.IDLE) * 2
    pipeline.meter.next = FlowBatch(identity, np.ones((4, N_FEATURES)))
    pipeline.feed(packets(100))
    ((rows, exam, alerted),) = offered
    assert rows.flow_id.tolist() == [7 | 1 << 63, 7, 8]
    assert exam.tolist() == [False, False, True]
    assert len(alerted) == len(rows) == 3
    assert (pipeline.counters.flows, pipeline.counters.early) == (2, 2)


def test_a_batch_of_nothing_but_early_records_of_an_exam_teaches_nothing():
    pipeline, seen = line()
    coverage = Coverage(start_us=0, end_us=300 * S, split="exam", default_label="benign")
    pipeline.set_marks(MarkSet(run_id="r", device_id="cam-1", coverage=(coverage,)))
    identity = np.zeros(1, IDENTITY)
    identity["end_reason"] = EndReason.EARLY
    pipeline.meter.next = FlowBatch(identity, np.ones((1, N_FEATURES)))
    pipeline.feed(packets(100))
    assert seen == []
