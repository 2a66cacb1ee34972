"""The shell around the machine: one queue in, effects out. Owns clock, store, signer and connection."""

import contextlib
import signal
import time
from collections import deque
from importlib import metadata
from itertools import takewhile
from queue import Empty, Queue
from secrets import token_hex
from threading import Event as Flag
from types import FrameType

from contract import CONTRACT_VERSION
from contract.messages import GatewayState
from contract.model import DEFAULT_SPEC
from gateway import log, supervision
from gateway.config import GatewayConfig, read_password
from gateway.events import Effect, Event, SessionUp, Ticked
from gateway.intake import Intake
from gateway.machine import GatewayMachine
from gateway.performer import STORED_TOGETHER, Performer
from gateway.restore import restore
from gateway.signing import open_signer
from gateway.store import Store
from gateway.transport import Connected, Disconnected, MessageArrived, Transport, TransportEvent

_TICK_S = 0.1
_FLUSH_S = 1.0
_QUEUE_LENGTH = 10_000
_GOODBYE_S = 1.0


class Service:
    """A running gateway.

    Parameters
    ----------
    config
        Configuration.

    Raises
    ------
    GatewayError
        If keys, password or store cannot be used.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self._queue: Queue[TransportEvent] = Queue(_QUEUE_LENGTH)
        self._stopping = Flag()
        signer = open_signer(config.signing.dir)
        password = read_password(config.broker)
        state = GatewayState(
            online=True,
            session=token_hex(8),
            contract_version=CONTRACT_VERSION,
            gateway_version=_version(),
            mode=config.rounds.mode,
        )
        self._store = Store(config.store.dir)
        try:
            restored = restore(self._store, config, DEFAULT_SPEC, signer, now_s=time.time())
        except BaseException:
            self._store.close()
            raise
        self._transport = Transport(config.broker, password, state, self._queue)
        self._performer = Performer(config, self._store, signer, self._transport.publish, state)
        self._machine = GatewayMachine(config, DEFAULT_SPEC, restored.memory)
        self._intake = Intake(config.screening, self._store, self._performer, self._handle)
        self._offline_reason: str | None = None
        self._restored = restored
        self._broker = f"{config.broker.host}:{config.broker.port}"

    def run(self) -> None:
        """Serve until ``stop``.

        Raises
        ------
        StoreError
            If the disk fails; what was acknowledged is stored, the rest will come again.
        """
        log.info("gateway-started", broker=self._broker, spec=DEFAULT_SPEC.spec_id[:12])
        try:
            self._settle(self._machine.start(self._restored.tasks, self._restored.update_ids, time.monotonic()))
            self._intake.tell_confined()
            self._transport.start()
            supervision.notify("READY=1")
            self._loop()
        finally:
            supervision.notify("STOPPING=1")
            self._transport.stop(timeout_s=_GOODBYE_S)
            try:
                self._performer.flush()
            finally:
                self._store.close()
        log.info("gateway-stopped")

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Ask ``run`` to return; safe in a signal handler."""
        self._stopping.set()

    def stop_on_signals(self) -> None:
        """Stop on SIGTERM and SIGINT."""
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)

    def _loop(self) -> None:
        watchdog_s = supervision.watchdog_interval_s()
        next_tick = next_flush = next_watchdog = 0.0
        while not self._stopping.is_set():
            with contextlib.suppress(Empty):
                self._take(self._queue.get(timeout=_TICK_S))
            self._transport.tick()
            now = time.monotonic()
            if now >= next_tick:
                # Looking at all devices after every message would cost the square of the fleet.
                self._settle(self._machine.handle(Ticked(), now))
                if self._transport.connected:
                    self._intake.tick(now)
                next_tick = now + _TICK_S
            if now >= next_flush:
                self._performer.flush()
                if self._transport.connected:
                    self._performer.send_verdicts()
                next_flush = now + _FLUSH_S
            if watchdog_s is not None and now >= next_watchdog:
                supervision.notify("WATCHDOG=1")
                next_watchdog = now + watchdog_s

    def _take(self, event: TransportEvent) -> None:
        match event:
            case Connected(protocol):
                log.info("broker-connected", broker=self._broker, mqtt=protocol)
                self._offline_reason = None
                self._handle(SessionUp())
            case Disconnected(reason):
                # paho reports every attempt; a line per change of reason is enough.
                if reason != self._offline_reason:
                    log.warn("broker-away", broker=self._broker, reason=reason, action="trying again")
                self._offline_reason = reason
            case MessageArrived(topic, payload, token, correlation):
                self._intake.take(topic, payload, correlation)
                self._transport.acknowledge(token)

    def _handle(self, event: Event) -> None:
        self._settle(self._machine.handle(event, time.monotonic()))

    def _settle(self, effects: list[Effect]) -> None:
        """Perform effects in order; the outcome of one is handled before the next, so stores stay in step."""
        pending = deque(effects)
        while pending:
            unit = [*takewhile(lambda effect: isinstance(effect, STORED_TOGETHER), pending)]
            if unit:
                self._performer.store_together(unit)
                for _ in unit:
                    pending.popleft()
                continue
            outcome = self._performer.perform(pending.popleft())
            if outcome is not None:
                pending.extendleft(reversed(self._machine.handle(outcome, time.monotonic())))


def _version() -> str:
    try:
        return metadata.version("kinwatch")
    except metadata.PackageNotFoundError:
        return "0"
