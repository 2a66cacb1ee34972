"""Real agents, a real gateway and Mosquitto in network namespaces, faults on a seeded schedule, and an auditor.

The auditor listens at the broker and keeps its own record of tasks, updates, chunks and receipts. What it knows is
compared with the gateway's and the devices' stores at the end: nothing is counted twice, nothing that was acknowledged
is lost, every round is closed or expired in time, every device uses what it was assigned. Then damage is planted in
copies of the evidence, to see that the comparison finds it.

Half of the devices send their updates in chunks. The links are emulated by a relay on TAP devices, so that kernels
without ``sch_netem`` do; the clock is that of the gateway's and the agents' own processes, offset by a file.

Longer than most: the auditor, its evidence and the damage planted in it belong together.
"""

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from contract.canonical import sha256_hex
from contract.codec import decode
from contract.errors import ContractError
from contract.messages import ActiveModel, Assignment, BlobChunk, BlobOffer, ModelUpdate, Receipt, RoundTask
from contract.topics import ACTIVE, ASSIGNMENT, CHUNK, OFFER, RECEIPT, TASK, UPDATE, parse
from contract.transfer import n_chunks
from tests.integration.wire_audit import (
    Active,
    Assigned,
    Evidence,
    Result,
    Round,
    Sent,
    Stored,
    Word,
    audit,
    plant_each,
)

HERE = Path(__file__).resolve().parent
BROKER = "10.78.0.254"
PORT = 1883
ALL_FAULTS = (
    "broker-restart",
    "gateway-kill",
    "agent-kill",
    "agent-kill-mid-chunk",
    "gateway-kill-mid-chunk",
    "cut-off",
    "bad-link",
    "disk-full",
    "clock-step",
)
CHUNKED_BYTES = 4_096
CLOCK_STEPS_S = (3_600, -3_600, 0)


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Net:
    """One switch, one namespace for broker and gateway, one for every device behind an emulated link."""

    def __init__(self, prefix, devices, folder, seed):
        self.prefix, self.devices, self._fifo = prefix, devices, folder / "links"
        self._names = [self.of("sw"), self.of("hub"), *(self.of(d) for d in devices)]
        for name in self._names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        switch, hub = self.of("sw"), self.of("hub")
        ip("-n", switch, "link", "add", "br0", "type", "bridge")
        ip("-n", switch, "link", "set", "br0", "up")
        ip("-n", switch, "link", "add", "v-hub", "type", "veth", "peer", "name", "eth0", "netns", hub)
        ip("-n", switch, "link", "set", "v-hub", "master", "br0", "up")
        ip("-n", hub, "addr", "add", f"{BROKER}/24", "dev", "eth0")
        ip("-n", hub, "link", "set", "eth0", "up")
        self._relay = subprocess.Popen(
            [sys.executable, str(HERE / "netem_lite.py"), switch, "br0", str(self._fifo), ",".join(self._names[2:])],
            stdout=subprocess.PIPE,
            env=os.environ | {"SEED": str(seed)},
        )
        assert self._relay.stdout.readline() == b"ready\n"
        for number, device in enumerate(devices, 1):
            ip("-n", self.of(device), "addr", "add", f"10.78.0.{number}/24", "dev", "eth0")

    def of(self, name):
        return f"{self.prefix}-{name}"

    def link(self, device, *, delay_ms=0.0, jitter_ms=0.0, loss=0.0):
        with self._fifo.open("w") as fifo:
            fifo.write(f"{self.of(device)} {delay_ms} {jitter_ms} {loss} 0\n")

    def close(self):
        self._relay.kill()
        self._relay.wait()
        self._relay.stdout.close()
        for name in self._names:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


class Program:
    """A process in a namespace that can be killed and started again."""

    def __init__(self, command, log):
        self._command, self.log, self.process, self.starts = command, log, None, 0

    def start(self):
        self.starts += 1
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stderr=log, stdout=log)

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)

    def text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Auditor:
    """What crossed the broker, by an ear of its own."""

    def __init__(self):
        self.tasks, self.updates, self.receipts = {}, {}, []
        self.told, self.active = {}, {}
        self.offers, self.chunks = {}, {}
        self.connects = 0
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="auditor", clean_session=False)
        self._client.max_inflight_messages_set(200)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = self._hear
        self._client.on_connect = self._up

    def start(self):
        self._client.connect_async(BROKER, PORT, keepalive=10)
        self._client.loop_start()

    def stop(self):
        self._client.disconnect()
        self._client.loop_stop()

    def underway(self, device, known=frozenset()):
        """Return chunks heard and chunks in all of an offer of ``device`` that is on its way and was not known."""
        for digest, offer in list(self.offers.items()):
            heard, total = len(self.chunks.get(digest, ())), n_chunks(offer)
            if f"-{device}-" in offer.key and digest not in known and 0 < heard < total:
                return heard, total
        return None

    def _up(self, client, *_):
        self.connects += 1
        client.subscribe([(t.wildcard, 1) for t in (TASK, UPDATE, OFFER, CHUNK, RECEIPT, ASSIGNMENT, ACTIVE)])

    def _hear(self, _client, _data, message):
        if not message.payload:
            return
        with suppress(ContractError):
            self._note(decode(parse(message.topic).topic.message, message.payload))

    def _note(self, message):  # one branch per message
        match message:
            case RoundTask():
                self.tasks.setdefault(message.round_number, {})[message.device_id] = message
            case ModelUpdate():
                sent = Sent(message.device_id, message.base, message.rows, message.delta_digest)
                self.updates[message.update_id] = sent
            case BlobOffer():
                self.updates.setdefault(message.key, None)
                self.offers[message.digest] = message
            case BlobChunk():
                self._collect(message)
            case Receipt():
                self.receipts.append(message)
            case Assignment():
                self.told[message.device_id] = assigned(message)
            case ActiveModel():
                self.active[message.device_id] = Active(message.assignment_version, message.active.digest)

    def _collect(self, chunk):
        parts = self.chunks.setdefault(chunk.digest, {})
        parts[chunk.index] = chunk.data
        offer = self.offers.get(chunk.digest)
        if offer is not None and len(parts) == n_chunks(offer):
            whole = b"".join(parts[index] for index in sorted(parts))
            if sha256_hex(whole) == chunk.digest:
                self._note(decode(ModelUpdate, whole))


def assigned(message):
    digests = frozenset(m.digest for m in (message.fallback, message.expert) if m is not None)
    return Assigned(message.version, digests)


@dataclass
class Plan:
    """How long things last, in seconds."""

    rounds: int
    deadline_s: float = 12.0
    cut_s: float = 8.0
    bad_link_s: float = 8.0
    faults: tuple[str, ...] = ALL_FAULTS
    devices: int = 3
    seed: int = 7


@dataclass
class Outcome:
    """What happened, and what is wrong with it."""

    applied: list = field(default_factory=list)
    violations: list = field(default_factory=list)
    planted: dict = field(default_factory=dict)
    figures: dict = field(default_factory=dict)
    log: list = field(default_factory=list)


class Fleet:
    """Everything of one run."""

    def __init__(self, folder, plan, capture, *, prefix="kwf"):
        self.plan, self.folder, self._capture = plan, folder, capture
        self.names = [f"cam-{number}" for number in range(1, plan.devices + 1)]
        self.net = Net(prefix, self.names, folder, plan.seed)
        self.auditor = Auditor()
        self.offset = folder / "offset"
        self._rng = random.Random(plan.seed)  # noqa: S311
        self._mounts, self._fifos = [], {}
        hub = ["ip", "netns", "exec", self.net.of("hub")]
        self.broker = Program(
            [*hub, shutil.which("mosquitto", path="/usr/sbin:/usr/bin"), "-c", str(folder / "broker.conf")],
            folder / "broker.log",
        )
        (folder / "broker.conf").write_text(
            f"listener {PORT} {BROKER}\nallow_anonymous true\npersistence true\npersistence_location {folder}/\n"
            "autosave_interval 1\nautosave_on_changes false\nmax_packet_size 2000000\nset_tcp_nodelay true\nuser root\n"
        )
        shim = [sys.executable, str(HERE / "stepped_clock.py"), str(self.offset)]
        (folder / "gateway.toml").write_text(
            f'seed = 3\n[broker]\nhost = "{BROKER}"\nallow_plaintext = true\nkeepalive_s = 5\n[store]\ndir = "gw"\n[signing]\ndir = "keys"\n'  # noqa: E501
            f"[devices]\noffline_after_s = 6\n[rounds]\nmax_rounds = 0\nwarmup_rounds = 2\ninterval_s = 1.0\n"
            f"deadline_s = {plan.deadline_s}\nmin_devices = 2\nmin_rows = 60\nlocal_epochs = 2\nquorum = 0.5\n"
            "[aggregation]\nexpert_min_updates = 2\n"
        )
        config = str(folder / "gateway.toml")
        subprocess.run(
            [sys.executable, "-m", "gateway.cli", "keys", "--config", config], check=True, capture_output=True
        )
        self.gateway = Program([*hub, *shim, "gateway.cli", "run", "--config", config], folder / "gateway.log")
        # Every other device sends its updates in chunks.
        self.chunked = self.names[::2]
        self.agents = {name: self._agent(name, shim) for name in self.names}
        self._began_s = time.monotonic()

    def _agent(self, name, shim):
        folder = self.folder / name
        (folder / "state").mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder / "state")], check=True)
        self._mounts.append(folder / "state")
        os.mkfifo(folder / "traffic.pcap")
        inline = f"inline_bytes = {CHUNKED_BYTES}\n" if name in self.chunked else ""
        (folder / "agent.toml").write_text(
            f'[device]\nid = "{name}"\n[broker]\nhost = "{BROKER}"\nallow_plaintext = true\nkeepalive_s = 5\n{inline}'
            f'[capture]\nsource = "traffic.pcap"\n[store]\ndir = "state"\n[alerts]\npath = "eve.json"\n'
            f'[trust]\nkeys = ["{self.folder}/keys/release-1.pub"]\n[training]\nmin_benign_rows = 60\nengine = "numpy"\n'  # noqa: E501
            "[telemetry]\nevery_s = 1.0\n[labels]\nbaseline_s = 100000\n"
        )
        run = [*shim, "device_agent", "run", "--config", str(folder / "agent.toml")]
        return Program(["ip", "netns", "exec", self.net.of(name), *run], folder / "agent.log")

    def start(self):
        self.broker.start()
        time.sleep(0.5)
        # The auditor must be where the broker is.
        self._enter_hub()
        self.auditor.start()
        self.gateway.start()
        for name, agent in self.agents.items():
            agent.start()
            self._fifos[name] = (self.folder / name / "traffic.pcap").open("wb", buffering=0)
            self._fifos[name].write(self._capture)

    def _enter_hub(self):
        """Sockets that this thread opens from here on are in the hub's namespace; paho's thread inherits it."""
        descriptor = os.open(f"/run/netns/{self.net.of('hub')}", os.O_RDONLY)
        own = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._own_namespace = own
        setns(descriptor)
        os.close(descriptor)

    def close(self):
        self.auditor.stop()
        with suppress(AttributeError):
            setns(self._own_namespace)
            os.close(self._own_namespace)
        for fifo in self._fifos.values():
            with suppress(OSError):
                fifo.close()
        for program in (*self.agents.values(), self.gateway, self.broker):
            program.kill()
        for mount in self._mounts:
            subprocess.run(["umount", "-l", str(mount)], check=False)
        self.net.close()

    # --- what the rounds do

    def status(self):
        command = [
            sys.executable,
            "-m",
            "gateway.cli",
            "status",
            "--json",
            "--config",
            str(self.folder / "gateway.toml"),
        ]
        done = subprocess.run(command, capture_output=True, check=False, timeout=30)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def until(self, met, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := met():
                return value
            time.sleep(0.05)
        return None

    def newest_round(self):
        return max(self.auditor.tasks, default=0)

    # --- faults

    def run(self):
        outcome, plan = Outcome(), self.plan
        self.start()
        faults = list(plan.faults)
        self._rng.shuffle(faults)
        seen = 0
        for fault in faults:
            opened = self.until(lambda seen=seen: self.newest_round() > seen, 60 + plan.deadline_s)
            if opened is None:
                outcome.violations.append(f"no round opened before {fault}")
                break
            seen = self.newest_round()
            time.sleep(self._rng.uniform(0.05, 0.4))
            victim = self._rng.choice(self.chunked if "chunk" in fault else self.names)
            started = time.monotonic()
            more = getattr(self, "_" + fault.replace("-", "_"))(victim) or {}
            seconds = round(time.monotonic() - started, 1)
            entry = {"fault": fault, "round": seen, "victim": victim, "seconds": seconds, **more}
            outcome.applied.append(entry)
            self._say(outcome, " ".join(f"{key}={value}" for key, value in entry.items()))
            seen = self.newest_round()
        if not self._finish():
            outcome.violations.append("the rounds after the last fault did not end")
        self.until(self._converged, 30)
        self._audit(outcome)
        return outcome

    def _say(self, outcome, text):
        outcome.log.append(f"seed={self.plan.seed} t={time.monotonic() - self._began_s:.1f} {text}")

    def _finish(self):
        """Let two more rounds go by, then give the gateway an end that it can reach."""
        last = self.newest_round()
        self.until(lambda: self.newest_round() >= last + 2, 2 * self.plan.deadline_s + 30)
        self.gateway.process.terminate()
        self.gateway.process.wait(20)
        config = self.folder / "gateway.toml"
        self._last = self.newest_round() + 1
        config.write_text(config.read_text().replace("max_rounds = 0", f"max_rounds = {self._last}"))
        self.gateway.start()
        return self.until(self._done, 3 * self.plan.deadline_s + 30)

    def _done(self):
        status = self.status()
        time.sleep(0.5)
        return status and status["open_round"] is None and len(status["rounds"]) >= self._last

    def _converged(self):
        time.sleep(0.5)
        status = self.status()
        return status and all(self._follows(d) for d in status["devices"])

    @staticmethod
    def _follows(device):
        assignment, active = device["assignment"], device["active"]
        if assignment is None or active is None:
            return False
        named = [m["digest"] for m in (assignment["fallback"], assignment["expert"]) if m]
        return active["assignment_version"] == assignment["version"] and active["active"]["digest"] in named

    def _broker_restart(self, _victim):
        self.broker.kill()
        time.sleep(1.5)
        self.broker.start()

    def _gateway_kill(self, _victim):
        self.gateway.kill()
        time.sleep(1.0)
        self.gateway.start()

    def _agent_kill(self, victim):
        """At the moment its update of a round is at the broker, so that the receipt finds nobody."""
        known = set(self.auditor.updates)
        self.until(lambda: any(f"-{victim}-" in u for u in set(self.auditor.updates) - known), 15)
        self._kill_agent(victim)

    def _kill_agent(self, victim):
        self.agents[victim].kill()
        self._fifos[victim].close()
        time.sleep(0.5)
        self.agents[victim].start()
        self._fifos[victim] = (self.folder / victim / "traffic.pcap").open("wb", buffering=0)

    def _agent_kill_mid_chunk(self, victim):
        """With some of the chunks of an update at the broker and others not."""
        return self._mid_chunk(victim, lambda: self._kill_agent(victim))

    def _gateway_kill_mid_chunk(self, victim):
        return self._mid_chunk(victim, lambda: self._gateway_kill(victim))

    def _mid_chunk(self, victim, strike):
        """Strike while an update is on its way; a slow link makes that last."""
        known = set(self.auditor.offers)
        self.net.link(victim, delay_ms=150)
        at = self.until(lambda: self.auditor.underway(victim, known), 45)
        strike()
        self.net.link(victim)
        return {"chunks": None if at is None else f"{at[0]} of {at[1]}"}

    def _cut_off(self, victim):
        self.net.link(victim, loss=1.0)
        time.sleep(self.plan.cut_s)
        self.net.link(victim)

    def _bad_link(self, _victim):
        for name in self.names:
            self.net.link(name, delay_ms=200, jitter_ms=20, loss=0.05)
        time.sleep(self.plan.bad_link_s)
        for name in self.names:
            self.net.link(name)

    def _disk_full(self, victim):
        filler = self.folder / victim / "state" / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 65_536)
        full_since = self.newest_round()
        self.until(lambda: self.newest_round() > full_since, 2 * self.plan.deadline_s)
        time.sleep(1.5)
        filler.unlink()

    def _clock_step(self, _victim):
        for step in CLOCK_STEPS_S:
            self.offset.write_text(str(step))
            time.sleep(2.0)

    # --- the audit

    def _audit(self, outcome):
        evidence, counters = self._evidence()
        # The wall clock was stepped, so the length of a round is only told to within the steps.
        bounds = {
            "rounds": self.plan.rounds,
            "longest_round_s": 2 * self.plan.deadline_s + max(CLOCK_STEPS_S) - min(CLOCK_STEPS_S),
        }
        outcome.violations += audit(evidence, **bounds)
        outcome.violations += [
            f"{entry['fault']} hit no transfer on its way"
            for entry in outcome.applied
            if entry.get("chunks", "") is None
        ]
        outcome.planted = plant_each(evidence, **bounds)
        rounds = [f"{r.state}: {r.reason}" for r in evidence.rounds]
        outcome.figures = {
            "rounds": {how: rounds.count(how) for how in sorted(set(rounds))},
            "invited": len(evidence.invited),
            "updates_stored": len(evidence.stored),
            "updates_heard_by_auditor": len(self.auditor.updates),
            "of_them_whole": sum(sent is not None for sent in self.auditor.updates.values()),
            "chunks_heard_by_auditor": sum(map(len, self.auditor.chunks.values())),
            "receipts_accepted": len({w.key for w in evidence.receipts if w.accepted}),
            "receipts_refused": len({w.key for w in evidence.receipts if not w.accepted}),
            "still_waiting": len(evidence.waiting),
            "auditor_connections": self.auditor.connects,
            "counters": counters,
        }
        for violation in outcome.violations:
            self._say(outcome, f"violation={violation!r}")
        self._say(outcome, f"figures={json.dumps(outcome.figures)}")
        self._say(outcome, f"planted={json.dumps(outcome.planted)}")

    def _evidence(self):
        auditor = self.auditor
        with closing(sqlite3.connect(self.folder / "gw" / "gateway.sqlite3")) as store:
            stored = store.execute("SELECT update_id, number, device_id, base, rows FROM updates").fetchall()
            rounds = store.execute("SELECT number, state, reason, opened_s, closed_s FROM rounds").fetchall()
            results = store.execute("SELECT number, target, devices, measurements FROM results").fetchall()
            invited = store.execute("SELECT number, device_id FROM tasks").fetchall()
            assignments = [decode(Assignment, row[0]) for row in store.execute("SELECT message FROM assignments")]
            counters = dict(store.execute("SELECT reason, count FROM counters").fetchall())
        return Evidence(
            heard=dict(auditor.updates),
            receipts=[Word(r.device_id, r.key, r.accepted) for r in auditor.receipts],
            told=dict(auditor.told),
            active=dict(auditor.active),
            trained=self._trained(),
            waiting=self._waiting(),
            stored=[Stored(*row) for row in stored],
            rounds=[Round(*row) for row in rounds],
            results=[
                Result(number, target, tuple(json.loads(devices)), json.loads(measurements).get("clients"))
                for number, target, devices, measurements in results
            ],
            invited=set(invited),
            assignments={a.device_id: assigned(a) for a in assignments},
            ended_alone=[name for name, agent in self.agents.items() if agent.process.poll() is not None],
        ), counters

    def _trained(self):
        pattern = re.compile(r"event=trained job=(round-\S+)")
        return {key for agent in self.agents.values() for key in pattern.findall(agent.text())}

    def _waiting(self):
        found = set()
        for name in self.names:
            with closing(sqlite3.connect(self.folder / name / "state" / "outbox.db")) as store:
                found |= {row[0] for row in store.execute("SELECT key FROM outbox WHERE kind = 'update'")}
        return found


def setns(descriptor):
    """``os.setns`` came with Python 3.12."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")
