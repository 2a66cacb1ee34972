"""The script of a run: start, learn, rounds, exam, evaluation; each step waits, within a bound, for the fleet."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.exit_codes import ExitCode
from contract.messages import RunCommand
from testbed import demo_chaos
from testbed.demo_setup import agent_config, gateway_config, write_toml
from testbed.demo_state import Progress, RunState
from testbed.errors import HarnessError
from testbed.processes import ProcessSpec, Supervisor, last_line, python_command
from testbed.transport import HarnessClient

GATEWAY = "gateway"
_START_TIMEOUT_S = 60.0
_FEED_TIMEOUT_S = 180.0
_REPORT_TIMEOUT_S = 60.0
_REPORT_RETRY_S = 15.0
_STALLED_S = 60.0
_SETTLE_S = 20.0
_SAMPLE_MEMORY_EVERY_S = 0.5
_TICK_S = 0.1
Condition = Callable[[], bool]


class Script:
    """The script of a run: each step waits for what the fleet says, within a bound."""

    def __init__(
        self,
        state: RunState,
        supervisor: Supervisor,
        client: HarnessClient,
        progress: Progress,
        strikes: list[demo_chaos.Strike],
    ) -> None:
        self.state = state
        self.supervisor = supervisor
        self.client = client
        self.progress = progress
        self.strikes = strikes
        self.down: dict[str, float] = {}
        self.next_sample_s = 0.0

    def play(self) -> None:
        """Go through all phases."""
        with self._phase("start", "starting the gateway and the agents"):
            self._start_gateway()
            self._start_agents()
        self._feed_and_learn()
        self._examine()
        self._evaluate()

    def linger(self) -> None:
        """Keep everything up until Ctrl-C."""
        self.progress.phase("results are written; everything stays up until Ctrl-C")
        while True:
            self._pump(lambda: False, timeout_s=3_600.0)

    def _start_gateway(self) -> None:
        state = self.state
        path = state.where.config(GATEWAY)
        write_toml(path, gateway_config(state.where, state.settings, state.broker, devices=len(state.captures)))
        self._start(GATEWAY, "gateway.cli", path, stage=1)
        fleet = state.fleet
        self._need(
            lambda: fleet.gateway is not None and fleet.gateway.online and bool(self._keys()),
            timeout_s=_START_TIMEOUT_S,
            what="the gateway is not ready",
            log=state.where.log(GATEWAY),
        )

    def _keys(self) -> list[Path]:
        return sorted(self.state.where.signing.glob("*.pub"))

    def _start_agents(self) -> None:
        state = self.state
        for capture in state.captures:
            self.client.publish_marks(capture.mark_set(state.run_id))
            path = state.where.config(capture.device_id)
            rows = state.settings.min_rows
            write_toml(path, agent_config(state.where, capture, state.broker, self._keys(), min_rows=rows))
            self._start(demo_chaos.agent_name(capture.device_id), "device_agent.cli", path, stage=2)
        ready = lambda device_id: state.fleet.device(device_id).online  # noqa: E731
        if not self._pump(lambda: state.every(ready), timeout_s=_START_TIMEOUT_S):
            first = state.missing(ready).split(",", 1)[0]
            raise HarnessError(
                f"agents not ready within {_START_TIMEOUT_S:.0f} s: {state.missing(ready)}; "
                f"{first} says: {last_line(state.where.log(first)) or 'nothing'}"
            )

    def _start(self, name: str, module: str, config: Path, *, stage: int) -> None:
        argv = (*python_command(module), "run", "--config", str(config))
        log = self.state.where.log(name.removeprefix("agent "))
        self.supervisor.start(ProcessSpec(name, argv, log, stage=stage))

    def _feed_and_learn(self) -> None:
        state, wanted = self.state, self.state.settings.rounds
        with self._phase("learn", "feeding the learning part"):
            state.gates["learn"].set()
            self._await_part("learn")
        with self._phase("rounds", f"federated rounds (of {wanted})"):
            self._await_rounds(wanted)
            settled = lambda device_id: state.fleet.device(device_id).follows_assignment  # noqa: E731
            if not self._pump(lambda: state.every(settled), timeout_s=_SETTLE_S):
                self._note(f"not on the newest assignment when the exam began: {state.missing(settled)}")

    def _await_part(self, part: str) -> None:
        fed = lambda device_id: self.state.feeders[device_id].done[part].is_set()  # noqa: E731
        pace = self.state.settings.speed
        longest_s = max((c.summary.last_us - c.summary.first_us) / 1e6 for c in self.state.captures)
        bound_s = _FEED_TIMEOUT_S + (longest_s / pace if pace > 0 else 0.0)
        if not self._pump(lambda: self.state.every(fed), timeout_s=bound_s):
            self._note(f"the {part} part was not read in time by: {self.state.missing(fed)}")

    def _await_rounds(self, wanted: int) -> None:
        """Wait for the rounds; give up when nothing moves any more."""
        fleet = self.state.fleet
        last = (self._rounds_moved(), time.monotonic())

        def over() -> bool:
            nonlocal last
            moved = self._rounds_moved()
            if moved != last[0]:
                last = (moved, time.monotonic())
            return fleet.rounds_completed >= wanted or time.monotonic() - last[1] > _STALLED_S

        self._pump(over, timeout_s=self.state.settings.rounds_timeout_s)
        if fleet.rounds_completed < wanted:
            self._note(f"{fleet.rounds_completed} of {wanted} rounds were complete when the exam began")

    def _rounds_moved(self) -> tuple[int, int, int]:
        rounds = self.state.fleet.rounds
        return len(rounds), sum(len(r.updates) for r in rounds.values()), len(self.state.fleet.releases)

    def _examine(self) -> None:
        state = self.state
        with self._phase("exam", "feeding the exam part"):
            state.gates["exam"].set()
            self._await_part("exam")
            ended = lambda device_id: state.fleet.device(device_id).capture_state in {"ended", "failed"}  # noqa: E731
            if not self._pump(lambda: state.every(ended) and not self.down, timeout_s=_FEED_TIMEOUT_S):
                self._note(f"still reading when the exam was over: {state.missing(ended)}")
            failed = [d for d in state.device_ids if state.fleet.device(d).capture_state == "failed"]
            if failed:
                self._note(f"the capture failed on: {', '.join(failed)}")

    def _evaluate(self) -> None:
        state = self.state
        reported = lambda device_id: state.run_id in state.fleet.device(device_id).reports  # noqa: E731
        with self._phase("evaluate", "evaluating on the held-out exam flows"):
            for sequence in range(1, 1 + int(_REPORT_TIMEOUT_S / _REPORT_RETRY_S)):
                self.client.publish_command(RunCommand(run_id=state.run_id, verb="evaluate", sequence=sequence))
                if self._pump(lambda: state.every(reported), timeout_s=_REPORT_RETRY_S):
                    break
            else:
                self._note(f"no evaluation report from: {state.missing(reported)}")
            seen = {device_id: state.fleet.device(device_id).telemetry for device_id in state.device_ids}
            self._pump(  # one more telemetry of each, so that the last counters are in the table
                lambda: state.every(lambda d: state.fleet.device(d).telemetry is not seen[d]), timeout_s=5.0
            )

    @contextmanager
    def _phase(self, name: demo_chaos.Phase, text: str) -> Iterator[None]:
        began_s = time.monotonic()
        self.state.phase = name
        self.progress.phase(text)
        yield
        self.state.phases_s[name] = round(time.monotonic() - began_s, 1)

    def _note(self, text: str) -> None:
        self.state.notes.append(text)
        self.progress.note(text)

    def _need(self, condition: Condition, *, timeout_s: float, what: str, log: Path) -> None:
        if not self._pump(condition, timeout_s=timeout_s):
            raise HarnessError(f"{what} within {timeout_s:.0f} s: {last_line(log) or 'its log is empty'}")

    def _pump(self, condition: Condition, *, timeout_s: float) -> bool:
        """Hear messages, watch processes and strike until the condition holds or the time is over."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            self._hear()
            self._watch()
            self.progress.tick(self.state)
            if condition():
                return True
            if time.monotonic() >= deadline_s:
                return False

    def _hear(self) -> None:
        message = self.client.receive(_TICK_S)
        until_s = time.monotonic() + _TICK_S
        while message is not None:
            self.state.fleet.hear(message.topic, message.payload, time.monotonic())
            message = self.client.receive(0.0) if time.monotonic() < until_s else None

    def _watch(self) -> None:
        for died in self.supervisor.died():
            ours = died.returncode in set(ExitCode)
            raise HarnessError(str(died), code=ExitCode(died.returncode) if ours else ExitCode.INTERNAL)
        now_s = time.monotonic()
        for name in [name for name, since_s in self.down.items() if now_s - since_s >= demo_chaos.DOWN_S]:
            del self.down[name]
            self.supervisor.restart(name)
            if name != GATEWAY:
                self.state.feeders[name.removeprefix("agent ")].reader_restarted()
        for strike in [s for s in self.strikes if self._due(s)]:
            self.strikes.remove(strike)
            self.supervisor.kill(strike.target)
            self.down[strike.target] = now_s
            when = f"after round {self.state.fleet.rounds_completed}" if strike.phase == "rounds" else strike.phase
            self._note(f"{strike.target} killed ({when}), started again {demo_chaos.DOWN_S:.0f} s later")
        if now_s >= self.next_sample_s:
            self.next_sample_s = now_s + _SAMPLE_MEMORY_EVERY_S
            self._sample_memory()

    def _due(self, strike: demo_chaos.Strike) -> bool:
        if strike.target in self.down:
            return False
        part = "exam" if self.state.phase == "exam" else "learn"
        if strike.target == GATEWAY:
            flows = any(feeder.sent[part] > 0 for feeder in self.state.feeders.values())
        else:
            flows = self.state.feeders[strike.target.removeprefix("agent ")].sent[part] > 0
        return strike.due(self.state.phase, self.state.fleet.rounds_completed, traffic_flows=flows)

    def _sample_memory(self) -> None:
        for device_id in self.state.device_ids:
            name = demo_chaos.agent_name(device_id)
            try:
                agent, trainer = self.supervisor.resident_bytes(name)
            except KeyError:
                continue  # not started yet
            before = self.state.memory.get(device_id, (0, 0))
            self.state.memory[device_id] = (max(before[0], agent), max(before[1], trainer))
