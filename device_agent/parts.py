"""Everything an agent is made of, built from its configuration in the right order.

Longer than other modules, since it is the one that knows them all.
"""

from dataclasses import dataclass, field
from uuid import uuid4

from contract.messages import Birth, DeviceState, Release, Status, Telemetry
from contract.messages.transfer import INLINE_BYTES
from contract.model import DEFAULT_SPEC, ModelId, ModelSpec
from contract.taxonomy import BENIGN_INDEX
from contract.topics import FETCH, STATUS
from device_agent.allocator import let_go_of_code
from device_agent.boards import Board, Budgets, detect_board, load_board
from device_agent.choosing import SILENT, Evidence, calibrated
from device_agent.config import AgentConfig, BrokerConfig, read_secret
from device_agent.detection.detector import Detector
from device_agent.detection.profile import BenignProfile
from device_agent.detection.suppression import Suppressor
from device_agent.errors import AgentError, ConfigError, ModelError
from device_agent.flows.meter import MeterSettings
from device_agent.flows.select import Meter, make_meter
from device_agent.inbound import Reader, own_topics
from device_agent.inference.engine import Engine
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.inference.opening import EngineError
from device_agent.inference.select import choose_training_engine
from device_agent.intake import Capture
from device_agent.learner import Learner
from device_agent.machine import AgentMachine, MachineSettings
from device_agent.memory import Memory, Restored, model_id
from device_agent.notify import Supervisor
from device_agent.pipeline import Pipeline
from device_agent.post import Post
from device_agent.pulls import Pulls
from device_agent.samples.buffer import BufferSettings, SampleBuffer
from device_agent.samples.split import Split, SplitSettings
from device_agent.telemetry import make_birth, merge_counters, rss_bytes
from device_agent.training.client import Trainer
from device_agent.transport import Link, Transport
from device_agent.trust import Keyring, load_keyring

_MAPPED_MB = 512
"""Address space that libraries map and hardly touch; the limit of the process counts it, the budget does not."""


@dataclass(slots=True)
class Parts:
    """The parts; see :func:`build`."""

    config: AgentConfig
    board: Board
    spec: ModelSpec
    session: str
    birth: Birth
    memory: Memory
    buffer: SampleBuffer
    capture: Capture
    pipeline: Pipeline
    engine: Engine
    learner: Learner
    machine: AgentMachine
    reader: Reader
    transport: Transport | None
    post: Post
    pulls: Pulls
    supervisor: Supervisor
    restored: Restored
    counted: dict[str, int] = field(default_factory=dict)

    def count(self, reason: str, by: int = 1) -> None:
        """Count a refusal or drop."""
        self.counted[reason] = self.counted.get(reason, 0) + by

    def flows_per_hour(self) -> float:
        """Return the rate of benign flows, from before the restart until there is a new one."""
        return self.buffer.benign_flows_per_hour() or self.restored.flows_per_hour

    def evidence(self) -> Evidence:
        """Return what a choice of the model rests on."""
        return gather_evidence(self.config, self.buffer, self.flows_per_hour())

    def assigned(self) -> list[ModelId]:
        """Return the models of the assignment that are held, fallback first."""
        assignment = self.machine.facts.assignment
        named = (assignment.fallback, assignment.expert) if assignment is not None else ()
        return [model for model in named if model is not None and model.digest in self.memory.models]

    def status(self, state: DeviceState, reason: str) -> Status:
        """Return a status message of this process."""
        return Status(device_id=self.config.device.id, session=self.session, state=state, reason=reason[:400])

    def telemetry(self, *, uptime_s: float) -> Telemetry:
        """Return the present counters."""
        meter, pipeline, capture = self.pipeline.meter.counters, self.pipeline, self.capture.counters()
        dropped = {name: value for name, value in capture.items() if "drop" in name}
        rows = {split: sum(self.buffer.counts(split).values()) for split in Split}
        pid = self.learner.pid
        return Telemetry(
            device_id=self.config.device.id,
            session=self.session,
            uptime_s=round(uptime_s, 3),
            capture_state=self.capture.state,
            capture_time_us=pipeline.last_us,
            packets=meter.metered,
            ignored_packets=sum(meter.ignored.values()),
            dropped_packets=sum(dropped.values()),
            flows=pipeline.counters.flows,
            alerts=pipeline.counters.alerts,
            suppressed_alerts=pipeline.counters.suppressed,
            train_rows=rows[Split.TRAIN],
            validation_rows=rows[Split.VALIDATION],
            exam_rows=rows[Split.EXAM],
            drifted_features=pipeline.drift.drifted[:8],
            outbox=len(self.memory.outbox),
            rss_bytes=rss_bytes(),
            trainer_rss_bytes=rss_bytes(pid) if pid else 0,
            counters=merge_counters(
                self.counted,
                self.memory.counters(),
                self.reader.refused,
                self.post.counters,
                self.pulls.counters,
                self.transport.counters if self.transport is not None else {},
                {f"ignored-{reason}": count for reason, count in meter.ignored.items()},
                {name.replace("_", "-"): value for name, value in dropped.items()},
                {"features-repaired": pipeline.counters.repaired, "alerts-unreported": pipeline.counters.unreported},
                {"flows-early": pipeline.counters.early, "payloads-dissected": meter.dissected},
                {"payloads-over-budget": meter.undissected, "payloads-malformed": meter.malformed},
            ),
        )


def gather_evidence(config: AgentConfig, buffer: SampleBuffer, flows_per_hour: float) -> Evidence:
    """Return what a choice of the model rests on."""
    train = buffer.rows(Split.TRAIN)
    return Evidence(
        validation=buffer.rows(Split.VALIDATION),
        benign_train=train.x[train.y == BENIGN_INDEX],
        flows_per_hour=flows_per_hour,
        budget_per_hour=config.detector.false_alarms_per_hour,
        split=buffer.settings.split,
    )


def build(config: AgentConfig, *, version: str) -> Parts:
    """Open and connect all parts; nothing is sent and no packet is judged yet.

    Raises
    ------
    AgentError
        If a file, the store, the capture or the engine cannot be used.
    """
    spec = DEFAULT_SPEC
    board = load_board(config.device.board) if config.device.board else detect_board()
    keyring = load_keyring(config.trust.keys)
    memory = Memory(config, spec)
    try:
        return _assemble(config, version=version, spec=spec, board=board, keyring=keyring, memory=memory)
    except AgentError:
        memory.close()
        raise


def _assemble(
    config: AgentConfig, *, version: str, spec: ModelSpec, board: Board, keyring: Keyring, memory: Memory
) -> Parts:
    restored = memory.restore()
    prefer = config.training.engine if config.training.engine != "auto" else board.budget.engine
    buffer = _buffer(config, board.budget, memory)
    try:
        training = choose_training_engine(spec, prefer)
    except EngineError as error:
        raise ModelError(f"[training] engine = {prefer!r}: {error}") from None
    # Flows end in small batches: there LiteRT is no faster than NumPy by anything that counts, and takes 12 MB.
    engine = NumpyEngine(spec.layout)
    session = f"s-{uuid4().hex[:12]}"
    lone_note = "" if keyring.keys else "no key in [trust] keys: releases are refused"
    machine = AgentMachine(
        MachineSettings(
            device_id=config.device.id,
            spec_id=spec.spec_id,
            factory=memory.factory,
            accept_marks=config.labels.accept_marks,
            min_benign_rows=config.training.min_benign_rows,
            note=lone_note if config.broker is not None else "",
            signature_rows=config.signature_rows,
            noisy=bool(config.privacy.signature_noise),
        ),
        restored.facts,
        held={digest: model_id(model) for digest, model in memory.models.items()},
        waiting_updates=frozenset(memory.outbox.keys("update")),
    )
    transport = _transport(config, session)
    pipeline = Pipeline(
        device_id=config.device.id,
        meter=_meter(config, board.budget),
        detector=_first_detector(config, memory, restored, buffer, engine),
        suppressor=Suppressor(config.alerts.suppress_s) if config.alerts.suppress_s else None,
        baseline_s=config.labels.baseline_s,
        on_alerts=lambda _alerts: None,
        on_rows=lambda _rows, _exam, _alerted: None,
        first_us=restored.first_us,
    )
    inline_bytes = config.broker.inline_bytes if config.broker is not None else INLINE_BYTES
    let_go_of_code()  # everything but the capture is loaded, and its thread not yet running
    post = Post(config.device.id, memory.outbox, transport, inline_bytes=inline_bytes)
    return Parts(
        config=config,
        board=board,
        spec=spec,
        session=session,
        birth=make_birth(
            device_id=config.device.id,
            session=session,
            version=version,
            board=board.name,
            engine=training.name,
            engine_reason=training.reason,
            spec_id=spec.spec_id,
        ),
        memory=memory,
        buffer=buffer,
        capture=Capture(config, board.budget),
        pipeline=pipeline,
        engine=engine,
        learner=Learner(
            make_trainer(board.budget),
            spec,
            training.artifact,
            budget_s=board.budget.trainer_seconds,
            store=memory.state,
        ),
        machine=machine,
        reader=Reader(spec, keyring),
        transport=transport,
        post=post,
        pulls=Pulls(memory.blobs, lambda request: post.say(FETCH, request), max_bytes=Release.max_bytes),
        supervisor=Supervisor(),
        restored=restored,
    )


def make_trainer(budget: Budgets) -> Trainer:
    """Return the handle to a training process within a board's budget of memory and threads."""
    limit_bytes = (budget.trainer_memory_mb + _MAPPED_MB) * 1_048_576
    return Trainer(memory_limit_bytes=limit_bytes, threads=budget.trainer_threads)


def _meter(config: AgentConfig, budget: Budgets) -> Meter:
    flows, dissect_pps = config.flows, config.capture.dissect_pps
    dissect_pps = budget.dissect_pps if dissect_pps is None else dissect_pps
    settings = MeterSettings(
        idle_s=flows.idle_s,
        active_s=flows.active_s,
        max_flows=budget.flow_table_rows,
        early_pkts=flows.early_pkts,
        early_s=flows.early_s,
        dissect_pps=dissect_pps,
    )
    if not dissect_pps:
        return make_meter(settings)
    from device_agent.capture.applications import ScapyDissector  # noqa: PLC0415 - loads Scapy

    return make_meter(settings, dissector=ScapyDissector())


def _buffer(config: AgentConfig, budget: Budgets, memory: Memory) -> SampleBuffer:
    # Exam rows exist in experiments only; room that is never written costs no memory.
    rows = budget.buffer_rows
    settings = BufferSettings(
        train_rows=rows - rows // 4,
        validation_rows=rows // 4,
        exam_rows=2 * rows,
        split=SplitSettings(block_s=config.training.block_s),
    )
    buffer = SampleBuffer(DEFAULT_SPEC.inputs, settings)
    for split, kept in memory.samples.load().items():
        if len(kept):
            buffer.restore(split, kept)
    return buffer


def _first_detector(
    config: AgentConfig, memory: Memory, restored: Restored, buffer: SampleBuffer, engine: Engine
) -> Detector:
    """Return the detector of the last process, or the factory model, which stays silent."""
    active = restored.facts.active
    if active is None or active == memory.factory:
        return Detector(engine, memory.models[memory.factory.digest].weights, memory.factory, SILENT)
    evidence = gather_evidence(config, buffer, restored.flows_per_hour)
    theta = memory.models[active.digest].weights
    if restored.calibration is None:
        return calibrated(active, theta, evidence, engine)
    return Detector(engine, theta, active, restored.calibration, BenignProfile.of(evidence.benign_train))


def _transport(config: AgentConfig, session: str) -> Transport | None:
    broker = config.broker
    if broker is None:
        return None
    device_id = config.device.id
    will = Status(device_id=device_id, session=session, state="lost", reason="the connection broke off")
    link = Link(
        host=broker.host,
        port=broker.port,
        client_id=device_id,
        will_topic=STATUS.of(device=device_id),
        will_payload=will.model_dump_json().encode(),
        keepalive_s=broker.keepalive_s,
        username=broker.username,
        password=read_secret(broker.password_file) if broker.password_file else None,
        **_tls(broker),
    )
    return Transport(link, own_topics(device_id, accept_marks=config.labels.accept_marks))


def _tls(broker: BrokerConfig) -> dict[str, str]:
    files = {"ca_file": broker.ca_file, "cert_file": broker.cert_file, "key_file": broker.key_file}
    missing = [
        f"{path}: no such file, see [broker] {name}" for name, path in files.items() if path and not path.exists()
    ]
    if missing:
        raise ConfigError(missing[0])
    return {name: str(path) for name, path in files.items() if path}
