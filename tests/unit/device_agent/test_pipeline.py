"""The detection line between its stations: quiet kinds of alerts, verdicts on flows that go on."""

import numpy as np

from contract import codec
from contract.features import N_FEATURES
from contract.initial import initial_theta
from contract.messages import Verdict
from contract.model import DEFAULT_SPEC, ModelId
from contract.taxonomy import CLASS_INDEX
from contract.topics import VERDICT
from device_agent.choosing import SILENT
from device_agent.detection.detector import Detector
from device_agent.detection.suppression import Suppressor
from device_agent.events import VerdictReceived
from device_agent.flows.records import IDENTITY, FlowBatch, PacketBatch
from device_agent.inbound import Reader, own_topics
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
