"""The agent's shell: one loop that feeds the detection line, the core, the training process and the broker.

Threads: capture reads ahead into a bounded queue, paho moves bytes, the trainer's handle waits for its process. All
decisions and all state live in the loop of :meth:`Agent.run`, so nothing here needs a lock. A slow or dead broker, a
stuck trainer and a full disk cost counters, never packets.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from contract.exit_codes import ExitCode
from contract.messages import BlobChunk, BlobOffer, BlobRequest
from contract.taxonomy import BENIGN_INDEX, CLASSES
from contract.topics import RELEASE, STATUS, TELEMETRY
from device_agent.allocator import give_back
from device_agent.errors import AgentError
from device_agent.events import (
    Connected,
    Disconnected,
    Event,
    HealthChanged,
    RowsCounted,
    Ticked,
    TrafficDrifted,
    TrainingFailed,
    TrainingFinished,
)
from device_agent.ladder import MIN_CLASS_ROWS
from device_agent.learner import Outcome
from device_agent.parts import Parts
from device_agent.performer import Performer
from device_agent.samples.split import Split
from device_agent.training.jobs import TrainingFailed as JobFailed
from device_agent.transport import Arrived, Delivered, LinkDown, LinkUp

log = logging.getLogger("kinwatch.agent")

_READ_S = 0.1
_TICK_S = 0.5
_SAVE_S = 1.0
_GIVE_BACK_S = 30.0
_REOPEN_S = 5.0
_MARKS_GRACE_S = 15.0
"""Marks are retained and come with the connection; without them the capture goes on unlabelled after this time."""


class Agent:
    """A running agent.

    Parameters
    ----------
    parts
        Everything that was built from the configuration.
    clock
        Monotonic seconds.
    """

    def __init__(self, parts: Parts, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.parts = parts
        self.exit_code = ExitCode.OK
        self._clock = clock
        self._stop = threading.Event()
        self._performer = Performer(parts)
        self._events = self._performer.events
        self._next: dict[str, float] = {}
        self._drifted = False
        self._started_s = clock()
        parts.pipeline.on_alerts = self._performer.take_alerts
        parts.pipeline.on_rows = self._performer.take_rows

    def stop(self) -> None:
        """Ask the loop to end; safe in a signal handler and from other threads."""
        self._stop.set()

    def run(self, *, exit_at_end: bool = False) -> ExitCode:
        """Work until :meth:`stop`, or with ``exit_at_end`` until the capture ends."""
        parts = self.parts
        if parts.transport is not None:
            parts.transport.start()
        parts.supervisor.ready()
        self._count_rows()
        log.info("event=started device=%s source=%s", parts.config.device.id, parts.config.capture.source)
        try:
            while not self._stop.is_set():
                self._turn()
                if exit_at_end and parts.pipeline.ended and not self._events and parts.machine.desk.job is None:
                    break
        finally:
            self._shut_down()
        return self.exit_code if exit_at_end else ExitCode.OK

    def _turn(self) -> None:
        self._read_packets()
        self._read_broker()
        self._read_trainer()
        now_s = self._clock()
        if self._due("tick", _TICK_S, now_s):
            self._tick(now_s)
        if self._due("telemetry", self.parts.config.telemetry.every_s, now_s):
            self.parts.post.say(TELEMETRY, self.parts.telemetry(uptime_s=now_s - self._started_s))
        self._work_off()
        self.parts.post.flush()

    def _hear(self, event: Event) -> None:
        """Give an event to the core and do what it asks for; what comes of that is next in line."""
        for effect in self.parts.machine.handle(event, self._clock()):
            self._performer.perform(effect)

    def _work_off(self) -> None:
        while self._events:
            self._hear(self._events.popleft())

    def _read_packets(self) -> None:
        pipeline, capture = self.parts.pipeline, self.parts.capture
        if pipeline.ended or self._waits_for_marks():
            self._stop.wait(_READ_S)
            return
        try:
            packets = capture.read(_READ_S)
        except AgentError as error:
            self._end_capture("failed", str(error), error.exit_code)
            return
        if packets is None:
            self._end_capture("ended", "", ExitCode.OK)
            return
        pipeline.feed(packets)
        if capture.live:
            pipeline.expire(time.time_ns() // 1_000)

    def _waits_for_marks(self) -> bool:
        """Whether a recorded capture should stand still until the test harness has said what is in it."""
        parts = self.parts
        if parts.capture.live or parts.transport is None or not parts.config.labels.accept_marks:
            return False
        return not parts.pipeline.has_marks and self._clock() - self._started_s < _MARKS_GRACE_S

    def _end_capture(self, state: str, reason: str, exit_code: ExitCode) -> None:
        pipeline = self.parts.pipeline
        pipeline.flush()
        if self.parts.capture.live:
            # An interface that went away may come back; until then the device is as good as degraded.
            self.parts.capture.reopen_later(self._clock() + _REOPEN_S)
            log.warning("event=capture-lost reason=%r", reason)
            return
        pipeline.ended = True
        self.parts.capture.state = state
        self.exit_code = exit_code
        log.log(logging.WARNING if reason else logging.INFO, "event=capture-%s reason=%r", state, reason)
        self._count_rows()
        self._next["telemetry"] = 0.0

    def _read_broker(self) -> None:
        transport = self.parts.transport
        if transport is None:
            return
        for event in transport.take():
            match event:
                case LinkUp(protocol):
                    log.info("event=connected protocol=%s", protocol)
                    self._hear(Connected())
                case LinkDown(reason):
                    log.info("event=disconnected reason=%r", reason)
                    self._hear(Disconnected())
                case Arrived(topic, payload, correlation):
                    self._take(topic, payload, correlation)
                    self._work_off()
                case Delivered(handle):
                    self.parts.post.delivered(handle)

    def _take(self, topic: str, payload: bytes, correlation: bytes | None = None) -> None:
        parts = self.parts
        match parts.reader.read(topic, payload):
            case None:
                pass
            case BlobRequest() as request:
                parts.post.supply(request, correlation)
            case BlobOffer() as offer:
                # An offer that nobody asked for any more was on its way when its release was let go.
                if offer.key in parts.machine.subscribed:
                    parts.pulls.offered(offer, self._clock())
            case BlobChunk() as chunk:
                whole = parts.pulls.took(chunk, self._clock())
                if whole is not None:
                    self._take(RELEASE.of(digest=whole[0]), whole[1])
            case event:
                self._hear(event)

    def _read_trainer(self) -> None:
        outcome = self.parts.learner.poll()
        match outcome:
            case Outcome():
                self._performer.outcomes[outcome.job.key] = outcome
                result = outcome.finished.result
                log.info(
                    "event=trained job=%s steps=%d loss=%s cpu_s=%.2f engine=%s rss_bytes=%d",
                    outcome.job.update_id or "own-model",
                    result.steps,
                    f"{result.losses[-1]:.4f}" if result.losses else "none",
                    outcome.finished.cpu_s,
                    outcome.finished.engine,
                    outcome.finished.peak_rss_bytes,
                )
                if result.skipped_steps:
                    self.parts.count("training-steps-undone", result.skipped_steps)
                self._events.append(TrainingFinished(outcome.job.key))
            case JobFailed():
                log.warning("event=training-failed reason=%s detail=%r", outcome.reason, outcome.detail)
                self._events.append(TrainingFailed(outcome.job_id, f"training-{outcome.reason}"))
            case None:
                return
        give_back()

    def _tick(self, now_s: float) -> None:
        parts = self.parts
        parts.supervisor.alive()
        parts.learner.rest(now_s)
        if self._due("save", _SAVE_S, now_s):
            self._save()
        if self._due("give-back", _GIVE_BACK_S, now_s):
            give_back()
        trouble = parts.memory.trouble or parts.reader.version_trouble
        if parts.post.online:
            parts.pulls.keep_only(parts.machine.subscribed)
            parts.pulls.tick(now_s)
        if parts.capture.state in ("failed", "starting"):
            trouble = "the capture failed; the log says why"
        self._events.append(HealthChanged(trouble))
        drifted = bool(parts.pipeline.drift.drifted)
        if drifted and not self._drifted:
            self._events.append(TrafficDrifted())
        self._drifted = drifted
        self._count_rows()
        self._events.append(Ticked())

    def _count_rows(self) -> None:
        buffer = self.parts.buffer
        train, validation = buffer.counts(Split.TRAIN), buffer.counts(Split.VALIDATION)
        self._events.append(
            RowsCounted(
                benign=train.get(BENIGN_INDEX, 0),
                train=sum(train.values()),
                validation=sum(validation.values()),
                baseline_open=self.parts.pipeline.baseline_open,
                attacks=sum(count for label, count in validation.items() if label > BENIGN_INDEX),
                classes=frozenset(
                    CLASSES[label] for label, count in train.items() if label >= 0 and count >= MIN_CLASS_ROWS
                ),
            )
        )

    def _save(self) -> None:
        memory, pipeline = self.parts.memory, self.parts.pipeline
        memory.samples.flush()
        memory.keep_rates(first_us=pipeline.first_us, flows_per_hour=self.parts.flows_per_hour())

    def _due(self, what: str, every_s: float, now_s: float) -> bool:
        if now_s < self._next.get(what, 0.0):
            return False
        self._next[what] = now_s + every_s
        return True

    def _shut_down(self) -> None:
        parts = self.parts
        parts.supervisor.stopping()
        log.info("event=stopping")
        with suppress(AgentError):
            parts.pipeline.flush()
        self._save()
        # The trainer first: it may hold a core, and it is killed, not waited for.
        parts.learner.close()
        if parts.transport is not None:
            parts.transport.stop(
                topic=STATUS.of(device=parts.config.device.id),
                last_words=parts.status("disconnected", "").model_dump_json().encode(),
            )
        parts.memory.close()
        parts.capture.close()
        log.info("event=stopped")
