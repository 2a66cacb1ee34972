"""The deployment proof: boots a gateway and a device, provisions them with site.yml, attacks, and takes all away again.

Run by ``scripts/acceptance-deploy``; see there for the command line.
"""

import json
import os
import pwd
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from apt_proxy import make_server
from container import Container
from network import Network, run

from contract.codec import encode
from contract.messages.truth import Coverage, MarkRule, MarkSet
from contract.topics import MARKS

REPOSITORY = Path(__file__).resolve().parents[2]
ANSIBLE = REPOSITORY / "ansible"
GATEWAY, DEVICE = "rack-gw", "cam-1"
ADDRESSES = {GATEWAY: "10.77.0.1", DEVICE: "10.77.0.11"}
APT_PROXY_PORT = 3142
SECURITY_LIMIT = 2.5
# Left behind by any machine that runs or by apt, whoever used it.
_NOT_OURS = (
    "/boot",
    "/dev",
    "/home",
    "/proc",
    "/run",
    "/sys",
    "/tmp",
    "/usr/share",
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/systemd",
    "/var/log/journal",
    "/var/log/apt",
    "/var/log/dpkg.log",
    "/var/log/alternatives.log",
    "/var/tmp",
    # Ansible leaves its folder in the home of whoever it becomes.
    f"{pwd.getpwuid(0).pw_dir}/.ansible",
    "/var/lib/dbus",
    "/var/backups",
    "/etc/.pwd.lock",
    "/etc/machine-id",
    "/etc/alternatives",
)


@dataclass
class Settings:
    """What the proof works with."""

    lab: Path
    suite: str
    wheelhouses: dict[str, Path]
    captures: Path
    replay: list[str]
    agent_variables: dict[str, object]
    gateway_variables: dict[str, object]
    rounds: int
    lesson_s: float
    quick: bool = False


class Report:
    """Named checks with their time and what was seen; printed as they come."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self.checks: list[dict[str, object]] = []
        self._log = log

    @contextmanager
    def check(self, name: str) -> Iterator[dict[str, object]]:
        seen: dict[str, object] = {}
        start = time.monotonic()
        try:
            yield seen
        except BaseException as error:
            seen["error"] = f"{type(error).__name__}: {error}"[-1500:]
            self._close(name, False, start, seen)
            raise
        self._close(name, True, start, seen)

    def _close(self, name: str, ok: bool, start: float, seen: dict[str, object]) -> None:
        seconds = round(time.monotonic() - start, 1)
        self.checks.append({"name": name, "ok": ok, "seconds": seconds, **seen})
        shown = "  ".join(f"{key}={value}" for key, value in seen.items())
        self._log(f"{'ok  ' if ok else 'FAIL'} {seconds:6.1f} s  {name}  {shown}")


class Rack:
    """The machines of the proof as Ansible and SSH see them."""

    def __init__(self, settings: Settings, network: Network, work: Path, log: Callable[[str], None]) -> None:
        self.settings = settings
        self.network = network
        self.work = work
        self._log = log
        self.key = work / "id"
        # Short: the path of a Unix socket has 107 characters.
        self.control = work / "cp"
        self.control.mkdir()
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        self.secrets = work / "secrets"
        self._write_inventory()

    def _ssh_options(self) -> list[str]:
        proxy = f"ip netns exec {self.network.switch} nc %h %p"
        return [
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
            "-o", f"ProxyCommand={proxy}", "-i", str(self.key),
        ]  # fmt: skip

    def _write_inventory(self) -> None:
        options = " ".join(f'"{o}"' if " " in o else o for o in self._ssh_options())
        inventory = {
            "all": {
                "vars": {
                    "ansible_user": "pi",
                    "ansible_python_interpreter": "/usr/bin/python3",
                    "ansible_ssh_common_args": f"{options} -R {APT_PROXY_PORT}:127.0.0.1:{APT_PROXY_PORT}",
                    "kinwatch_broker_host": ADDRESSES[GATEWAY],
                    "kinwatch_secrets_dir": str(self.secrets),
                },
                "children": {
                    "brokers": {
                        "hosts": {
                            GATEWAY: {
                                "ansible_host": ADDRESSES[GATEWAY],
                                "broker_reader_users": ["watcher"],
                                "broker_harness_users": ["harness"],
                            }
                        }
                    },
                    "gateways": {
                        "hosts": {
                            GATEWAY: {
                                "gateway_wheelhouse": str(self.settings.wheelhouses["gateway"]),
                                **self.settings.gateway_variables,
                            }
                        }
                    },
                    "agents": {
                        "hosts": {
                            DEVICE: {
                                "ansible_host": ADDRESSES[DEVICE],
                                "device_agent_wheelhouse": str(self.settings.wheelhouses["agent"]),
                                "device_agent_capture_interface": "span0",
                                **self.settings.agent_variables,
                            }
                        }
                    },
                },
            }
        }
        (self.work / "hosts.json").write_text(json.dumps(inventory, indent=1))

    def playbook(self, name: str, *options: str) -> dict[str, dict[str, int]]:
        """Run a playbook; return host -> {ok, changed, failed, …}.

        Raises
        ------
        RuntimeError
            If it fails; carries the end of its output.
        """
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.control),
            "ANSIBLE_LOCAL_TEMP": str(self.work / "ansible-tmp"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_HOME": str(self.work / "ansible-home"),
        }
        argv = ["ansible-playbook", "-i", str(self.work / "hosts.json"), str(ANSIBLE / name), *options]
        done = subprocess.run(
            argv, env=environment, capture_output=True, text=True, check=False, timeout=1200, stdin=subprocess.DEVNULL
        )
        # A passed run says enough in its recap.
        told = done.stdout + done.stderr if done.returncode else done.stdout.split("PLAY RECAP")[-1].lstrip(" *\n")
        self._log(f"--- {name} {' '.join(options)}\n{told.rstrip()}")
        if done.returncode:
            raise RuntimeError(f"{name}: exit {done.returncode}: {_failures(done.stdout + done.stderr)}")
        recap = re.findall(r"^(\S+) +: (ok=.*)$", done.stdout.split("PLAY RECAP")[-1], re.MULTILINE)
        return {host: {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", row)} for host, row in recap}

    def ssh(self, machine: str, command: str, *, check: bool = True, timeout_s: float = 60.0) -> str:
        """Run a shell command on a machine as ``pi``; return its standard output, stripped."""
        argv = ["ssh", "-n", *self._ssh_options(), f"pi@{ADDRESSES[machine]}", command]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout_s)
        if check and done.returncode:
            raise RuntimeError(f"{machine}: {command}: exit {done.returncode}: {done.stderr.strip()[-500:]}")
        return done.stdout.strip()

    def files(self, machine: str) -> set[str]:
        """Return what is on a machine, without what changes by itself."""
        skip = " -o ".join(f"-path {path}" for path in _NOT_OURS)
        listing = self.ssh(
            machine, rf"sudo find / -xdev \( {skip} \) -prune -o ! -name __pycache__ ! -name '*.pyc' -print"
        )
        return set(listing.splitlines())

    def accounts(self, machine: str) -> str:
        return self.ssh(machine, "getent passwd; getent group")

    def packages(self, machine: str) -> set[str]:
        return set(self.ssh(machine, "dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n'").splitlines())


def _failures(output: str) -> str:
    lines = output.splitlines()
    at = [n for n, line in enumerate(lines) if line.startswith(("fatal:", "failed:", "[ERROR]", "ERROR"))]
    return "\n".join(lines[at[0] : at[0] + 15])[-1400:] if at else "\n".join(lines[-15:])


def wait_for(what: str, probe: Callable[[], object], timeout_s: float, every_s: float = 0.5) -> float:
    """Wait until a probe returns something true; return the seconds that took."""
    start = time.monotonic()
    while not probe():
        if time.monotonic() - start > timeout_s:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(every_s)
    return round(time.monotonic() - start, 1)


def prove(settings: Settings, report: Report, log: Callable[[str], None]) -> None:
    """Run the whole proof.

    Raises
    ------
    Exception
        What stopped it; the report then ends with the failed check. Everything that was started is ended first.
    """
    work = settings.lab / f"run-{os.getpid()}"
    work.mkdir(parents=True)
    network = Network(f"kwl{os.getpid() % 10000}", ADDRESSES, DEVICE)
    try:
        with report.check("root file system") as seen:
            builder = REPOSITORY / "scripts/lab/build-rootfs"
            environment = {**os.environ, "KINWATCH_LAB_DIR": str(settings.lab)}
            tree = Path(run(str(builder), settings.suite, env=environment).stdout.strip())
            seen["suite"] = settings.suite
        with ExitStack() as stack:
            server = make_server(APT_PROXY_PORT, settings.lab / "apt-cache")
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.enter_context(network)
            rack = Rack(settings, network, work, log)
            with report.check("boot") as seen:
                machines = [
                    stack.enter_context(
                        Container(name, tree, network.namespace(name), work, rack.key.with_suffix(".pub"))
                    )
                    for name in ADDRESSES
                ]
                seen["boot_s"] = [round(machine.wait_running(60.0), 1) for machine in machines]
                for machine in ADDRESSES:
                    wait_for("ssh", lambda m=machine: rack.ssh(m, "echo up", check=False) == "up", 30.0)
            try:
                _prove_rack(rack, report)
            except BaseException:
                _collect(rack, log)
                raise
    finally:
        with report.check("nothing of the lab is left on the host") as seen:
            leftovers = [name for name in run("ip", "netns", "list").stdout.split() if name in network.namespaces]
            mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(work) in line]
            seen["left"] = leftovers + mounts
            if leftovers or mounts:
                raise RuntimeError("the lab did not clean up")
        subprocess.run(["rm", "-rf", work], check=True)


def _collect(rack: Rack, log: Callable[[str], None]) -> None:
    """Log what the services said, for the reader of a failed run."""
    for machine in ADDRESSES:
        command = "sudo journalctl -b --no-pager -n 120 -u mosquitto -u kinwatch-gateway -u kinwatch-agent; "
        command += "sudo tail -n 20 /var/log/mosquitto/mosquitto.log"
        try:
            log(f"--- journal of {machine}\n{rack.ssh(machine, command, check=False)}")
        except (OSError, subprocess.SubprocessError) as error:
            log(f"--- journal of {machine}: {error}")


def _prove_rack(rack: Rack, report: Report) -> None:
    before = {m: (rack.files(m), rack.accounts(m), rack.packages(m)) for m in ADDRESSES}

    if not rack.settings.quick:
        with report.check("check mode on bare machines"):
            rack.playbook("site.yml", "--check", "--diff")
        with report.check("check mode changed nothing"):
            for machine in ADDRESSES:
                _expect_same(rack, machine, before[machine])
    with report.check("site.yml") as seen:
        seen.update(_recap(rack.playbook("site.yml")))
    if not rack.settings.quick:
        _prove_idempotence(rack, report)
    _prove_services(rack, report)
    _prove_access(rack, report)
    _prove_detection(rack, report)
    _prove_recovery(rack, report)
    _prove_reset(rack, report, before)


def _prove_idempotence(rack: Rack, report: Report) -> None:
    with report.check("second run changes nothing") as seen:
        recap = _recap(rack.playbook("site.yml"))
        seen.update(recap)
        _expect(recap["changed"] == 0, f"changed={recap['changed']}")
    with report.check("check mode after the installation finds nothing to change") as seen:
        recap = _recap(rack.playbook("site.yml", "--check"))
        seen.update(recap)
        _expect(recap["changed"] == 0, f"changed={recap['changed']}")


def _prove_reset(rack: Rack, report: Report, before: dict[str, tuple[set[str], str, set[str]]]) -> None:
    with report.check("reset.yml") as seen:
        seen.update(_recap(rack.playbook("reset.yml", "-e", "kinwatch_reset_confirmed=true")))
    with report.check("reset.yml left nothing") as seen:
        for machine in ADDRESSES:
            _expect_same(rack, machine, before[machine])
        seen["compared"] = "files, users, groups, packages"
        units = rack.ssh(DEVICE, "systemctl list-units --all --no-legend 'kinwatch*'")
        _expect(not units, f"units are left: {units}")
    with report.check("a second reset changes nothing") as seen:
        recap = _recap(rack.playbook("reset.yml", "-e", "kinwatch_reset_confirmed=true"))
        seen.update(recap)
        _expect(recap["changed"] == 0, f"changed={recap['changed']}")


def _expect(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _expect_same(rack: Rack, machine: str, before: tuple[set[str], str, set[str]]) -> None:
    files, accounts, packages = before
    now = rack.files(machine)
    _expect(now == files, f"{machine}: files differ: added {sorted(now - files)[:12]}, gone {sorted(files - now)[:5]}")
    _expect(rack.accounts(machine) == accounts, f"{machine}: users or groups differ")
    _expect(
        rack.packages(machine) == packages, f"{machine}: packages: {sorted(rack.packages(machine) ^ packages)[:12]}"
    )


def _recap(recap: dict[str, dict[str, int]]) -> dict[str, int]:
    return {key: sum(row[key] for row in recap.values()) for key in ("ok", "changed", "failed")}


def _prove_services(rack: Rack, report: Report) -> None:
    with report.check("services are active and start at boot") as seen:
        for machine, unit in ((GATEWAY, "mosquitto"), (GATEWAY, "kinwatch-gateway"), (DEVICE, "kinwatch-agent")):
            _expect(rack.ssh(machine, f"systemctl is-active {unit}", check=False) == "active", f"{unit} is not active")
            _expect(
                rack.ssh(machine, f"systemctl is-enabled {unit}", check=False) == "enabled", f"{unit} is not enabled"
            )
        seen["mosquitto"] = rack.ssh(GATEWAY, "dpkg-query -W -f '${Version}' mosquitto")
        seen["python"] = rack.ssh(DEVICE, "/opt/kinwatch/venv/bin/python -V")
        seen["systemd"] = rack.ssh(DEVICE, "systemctl --version | head -1")
    with report.check("the agent has its own user and one capability") as seen:
        pid = rack.ssh(DEVICE, "systemctl show -P MainPID kinwatch-agent")
        status = rack.ssh(DEVICE, f"sudo cat /proc/{pid}/status")
        capabilities = dict(re.findall(r"^(Cap\w+):\s+(\w+)$", status, re.MULTILINE))
        seen["user"] = rack.ssh(DEVICE, f"ps -o user= -p {pid}", check=False) or rack.ssh(
            DEVICE, f"stat -c %U /proc/{pid}"
        )
        seen["bounding"] = capabilities["CapBnd"]
        net_raw = 1 << 13
        _expect(seen["user"] == "kinwatch", f"user {seen['user']}")
        _expect(int(capabilities["CapEff"], 16) == int(capabilities["CapBnd"], 16) == net_raw, f"{capabilities}")
    with report.check("unit files on their own systemd") as seen:
        for machine, unit in ((DEVICE, "kinwatch-agent"), (GATEWAY, "kinwatch-gateway")):
            said = rack.ssh(
                machine, f"systemd-analyze verify --man=no /etc/systemd/system/{unit}.service 2>&1", check=False
            )
            _expect(not said, f"{unit}: {said}")
            said = rack.ssh(machine, f"sudo systemd-analyze security --no-pager {unit}.service 2>&1 | tail -1")
            score = re.search(r"exposure level for \S+: ([\d.]+)", said)
            _expect(score, f"{unit}: {said}")
            seen[f"{unit}_security"] = float(score[1]) if score else 10.0
            _expect(seen[f"{unit}_security"] <= SECURITY_LIMIT, f"{unit}: exposure {seen[f'{unit}_security']}")

    with report.check("the kernel command line has the memory cgroup, on its one line") as seen:
        seen["cmdline"] = rack.ssh(DEVICE, "cat /boot/firmware/cmdline.txt")
        wanted = "console=tty1 root=PARTUUID=1-02 rootwait cgroup_enable=memory cgroup_memory=1"
        _expect(seen["cmdline"] == wanted, seen["cmdline"])
    with report.check("clustering runs inside the sandbox of the gateway") as seen:
        code = "import numpy as n, sklearn.cluster as c; r = n.random.default_rng(1).random((60, 5)); "
        code += "r[:20] += 5; r[20:40] += 10; print(len(set(c.HDBSCAN(min_cluster_size=5).fit_predict(r))))"
        sandbox = [
            line
            for line in (REPOSITORY / "firmware_configs/systemd/kinwatch-gateway.service").read_text().splitlines()
            if re.match(r"(Protect|Private|Restrict[A-Z]\w+=AF|Lock|MemoryDeny|SystemCall|Capability|NoNew|User)", line)
        ]
        options = " ".join(f"-p '{line}'" for line in sandbox)
        python = "/opt/kinwatch-gateway/venv/bin/python"
        seen["clusters"] = rack.ssh(GATEWAY, f"sudo systemd-run --quiet --wait --pipe {options} {python} -c '{code}'")
        seen["settings"] = len(sandbox)
        _expect(seen["clusters"] == "3", seen["clusters"])


def _mqtt(rack: Rack, port: int, *options: str) -> list[str]:
    return [
        "ip", "netns", "exec", rack.network.switch, *options[:1], "-h", ADDRESSES[GATEWAY], "-p", str(port),
        "--cafile", str(rack.secrets / "authority/ca.crt"), *options[1:],
    ]  # fmt: skip


def _watch(rack: Rack, topic: str, path: Path) -> subprocess.Popen[bytes]:
    """Subscribe as the reader of the inventory; lines ``topic payload`` go to a file."""
    password = (rack.secrets / "mqtt/watcher").read_text().strip()
    argv = _mqtt(rack, 8884, "mosquitto_sub", "-u", "watcher", "-P", password, "-v", "-q", "1", "-t", topic)
    return subprocess.Popen(argv, stdout=path.open("wb"), stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def _prove_access(rack: Rack, report: Report) -> None:
    key, certificate = rack.work / "device.key", rack.work / "device.crt"
    for path in (key, certificate):
        path.write_text(rack.ssh(DEVICE, f"sudo cat /etc/kinwatch/{path.name}") + "\n")
        path.chmod(0o600)
    identity = ["--cert", str(certificate), "--key", str(key)]

    def publish(topic: str, *who: str, port: int = 8883) -> subprocess.CompletedProcess[str]:
        argv = _mqtt(rack, port, "mosquitto_pub", *who, "-i", "probe", "-q", "1", "-t", topic, "-m", "probe")
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)

    with report.check("a device writes below its own id and nowhere else") as seen:
        heard = rack.work / "heard.txt"
        watcher = _watch(rack, "kinwatch/#", heard)
        try:
            # The answer to the first one is what says that the subscription stands.
            wait_for(
                "the device's own topic",
                lambda: (
                    publish(f"kinwatch/1/device/{DEVICE}/telemetry", *identity)
                    and b"/telemetry probe" in heard.read_bytes()
                ),
                15.0,
            )
            for topic in ("device/plug-1/telemetry", f"device/{DEVICE}/task", "gateway/state", "run/x/command"):
                publish(f"kinwatch/1/{topic}", *identity)
            publish(f"kinwatch/1/device/{DEVICE}/report", *identity)
            wait_for("the last message", lambda: b"/report probe" in heard.read_bytes(), 15.0)
        finally:
            watcher.terminate()
            watcher.wait()
        topics = {
            line.split(" ")[0] for line in heard.read_text(errors="replace").splitlines() if line.endswith(" probe")
        }
        seen["arrived"] = sorted(topics)
        _expect(topics == {f"kinwatch/1/device/{DEVICE}/{leaf}" for leaf in ("telemetry", "report")}, f"{topics}")
    with report.check("the broker refuses strangers"):
        _expect(publish("x", port=8883).returncode, "a client without a certificate got in")
        _expect(publish("x", port=8884).returncode, "a client without a password got in")
        _expect(publish("x", "-u", "gateway", "-P", "wrong", port=8884).returncode, "a wrong password got in")
    with report.check("secrets are readable by their owners only") as seen:
        modes = rack.ssh(DEVICE, "sudo stat -c '%a %U:%G %n' /etc/kinwatch/device.key")
        modes += "\n" + rack.ssh(GATEWAY, "sudo stat -c '%a %U:%G %n' /etc/mosquitto/kinwatch/passwd")
        seen["modes"] = modes.replace("\n", "; ")
        _expect(re.findall(r"^(\d+ \w+)", modes, re.MULTILINE) == ["640 root", "600 mosquitto"], modes)


def _alerts(rack: Rack) -> list[dict[str, object]]:
    """Return all alerts in the device's alert file."""
    lines = rack.ssh(DEVICE, "sudo cat /var/log/kinwatch/eve.json", check=False).splitlines()
    return [event for event in map(json.loads, lines) if event.get("event_type") == "alert"]


def _is_attack(rack: Rack, alert: dict[str, object]) -> bool:
    """Return whether an alert is about a flow of the attacks in the attack capture."""
    rules = json.loads((rack.settings.captures / "attack.json").read_text())
    hosts, ports = {alert["src_ip"], alert["dest_ip"]}, {alert.get("src_port"), alert.get("dest_port")}
    return any(
        (not rule["hosts"] or hosts & set(rule["hosts"])) and (not rule["ports"] or ports & set(rule["ports"]))
        for rule in rules
    )


def _heard_attack(rack: Rack, heard: Path) -> bool:
    """Return whether an alert on an attack flow is among the lines ``topic payload`` of a subscriber."""
    payloads = (line.partition(" ")[2] for line in heard.read_text().splitlines())
    return any(_is_attack(rack, json.loads(payload)) for payload in payloads)


def _hits(rack: Rack) -> int:
    return sum(_is_attack(rack, alert) for alert in _alerts(rack))


def _replay(rack: Rack, name: str) -> float:
    capture = rack.settings.captures / f"{name}.pcap"
    argv = [part.format(capture=capture, interface="replay0") for part in rack.settings.replay]
    start = time.monotonic()
    run("ip", "netns", "exec", rack.network.replayer, *argv, timeout=600)
    return round(time.monotonic() - start, 1)


def _journal(rack: Rack, machine: str, unit: str, pattern: str) -> list[str]:
    """Return the lines of a service's journal that fit."""
    command = f"sudo journalctl -u {unit} --no-pager -o cat | grep -E '{pattern}'"
    return rack.ssh(machine, command, check=False).splitlines()


def _models(rack: Rack) -> list[str]:
    return [
        line.partition("model-in-use ")[2] for line in _journal(rack, DEVICE, "kinwatch-agent", "event=model-in-use")
    ]


def _wait_settled(rack: Rack, quiet_s: float, timeout_s: float) -> None:
    """Wait until the device has kept its model for a while."""
    start = changed = time.monotonic()
    count = -1
    while time.monotonic() - changed < quiet_s:
        _expect(time.monotonic() - start < timeout_s, "the device changes its model again and again")
        now = len(_models(rack))
        if now != count:
            count, changed = now, time.monotonic()
        time.sleep(1.0)


def _publish_marks(rack: Rack, name: str) -> None:
    """Tell the device, as the replay harness, which flows of a capture that is about to be replayed are attacks."""
    start_us = time.time_ns() // 1_000
    end_us = start_us + round(rack.settings.lesson_s * 1e6)
    rules = [
        MarkRule(start_us=start_us, end_us=end_us, **rule)
        for rule in json.loads((rack.settings.captures / f"{name}.json").read_text())
    ]
    coverage = Coverage(start_us=start_us, end_us=end_us, default_label="benign", split="learn")
    marks = MarkSet(run_id="proof", device_id=DEVICE, rules=tuple(rules), coverage=(coverage,))
    message = rack.work / "marks.cbor"
    message.write_bytes(encode(marks))
    password = (rack.secrets / "mqtt/harness").read_text().strip()
    topic = MARKS.of(run="proof", device=DEVICE)
    run(
        *_mqtt(rack, 8884, "mosquitto_pub", "-u", "harness", "-P", password),
        *("-q", "1", "-r", "-t", topic),
        "-f",
        str(message),
    )
    time.sleep(2.0)  # The rules must be there before the first packet, and nobody answers to them.


def _prove_detection(rack: Rack, report: Report) -> None:
    with report.check("the device learns from marked traffic in rounds with the gateway") as seen:
        _publish_marks(rack, "lesson")
        seen["replay_s"] = _replay(rack, "lesson")
        last = rf"event=round-ended round={rack.settings.rounds} .*state=closed"
        seen["rounds_after_replay_s"] = wait_for(
            "the last round", lambda: _journal(rack, GATEWAY, "kinwatch-gateway", last), 240.0, 1.0
        )
        _wait_settled(rack, 8.0, 120.0)
        seen["rounds"] = rack.settings.rounds
        seen["models_taken"] = len(_models(rack))
        seen["model"] = _models(rack)[-1]
        _expect("role=fallback" in seen["model"], "the device does not use a model that the gateway released")
    with report.check("an attack on the live interface raises an alert") as seen:
        heard = rack.work / "alerts.txt"
        watcher = _watch(rack, f"kinwatch/1/device/{DEVICE}/alert", heard)
        try:
            earlier = len(_alerts(rack))
            seen["replay_s"] = _replay(rack, "attack")
            seen["alert_after_replay_s"] = wait_for("an alert on an attack flow", lambda: _hits(rack), 120.0)
            seen["mqtt_after_file_s"] = wait_for("an alert over MQTT", lambda: _heard_attack(rack, heard), 30.0)
        finally:
            watcher.terminate()
            watcher.wait()
        new = _alerts(rack)[earlier:]
        seen["classes"] = sorted({str(alert["kinwatch"]["attack_class"]) for alert in new})  # type: ignore[index]
        seen["alerts_on_attack_flows"] = sum(_is_attack(rack, alert) for alert in new)
        seen["other_alerts"] = len(new) - seen["alerts_on_attack_flows"]
        seen["example"] = next(alert for alert in new if _is_attack(rack, alert))


def _prove_recovery(rack: Rack, report: Report) -> None:
    def started() -> str:
        return rack.ssh(DEVICE, "systemctl show -P ExecMainStartTimestampMonotonic kinwatch-agent", check=False)

    def back(since: str) -> bool:
        state = rack.ssh(DEVICE, "systemctl is-active kinwatch-agent", check=False)
        return state == "active" and started() not in {since, "", "0"}

    with report.check("killed, the agent comes back") as seen:
        since = started()
        rack.ssh(DEVICE, "sudo systemctl kill --signal=KILL kinwatch-agent")
        seen["back_s"] = wait_for("the agent", lambda: back(since), 60.0)
    with report.check("hung, the watchdog brings it back") as seen:
        since = started()
        rack.ssh(DEVICE, "sudo systemctl kill --kill-whom=main --signal=STOP kinwatch-agent")
        seen["back_s"] = wait_for("the agent", lambda: back(since), 120.0)
        journal = rack.ssh(
            DEVICE, "sudo journalctl -u kinwatch-agent --no-pager | grep -c 'Watchdog timeout'", check=False
        )
        _expect(int(journal or 0) >= 1, "the journal names no watchdog timeout")
    with report.check("with the broker dead, detection goes on") as seen:
        rack.ssh(GATEWAY, "sudo systemctl stop mosquitto")
        try:
            earlier = _hits(rack)
            _replay(rack, "attack")
            seen["alert_after_replay_s"] = wait_for("an alert on an attack flow", lambda: _hits(rack) > earlier, 120.0)
        finally:
            rack.ssh(GATEWAY, "sudo systemctl start mosquitto")
    with report.check("after a reboot of the device the agent runs") as seen:
        boot = rack.ssh(DEVICE, "systemctl show -P UserspaceTimestampMonotonic")
        rack.ssh(DEVICE, "sudo systemctl reboot", check=False)

        def up() -> bool:
            try:
                fresh = rack.ssh(DEVICE, "systemctl show -P UserspaceTimestampMonotonic", check=False, timeout_s=5.0)
            except subprocess.TimeoutExpired:
                return False
            return (
                bool(fresh)
                and fresh != boot
                and rack.ssh(DEVICE, "systemctl is-active kinwatch-agent", check=False) == "active"
            )

        seen["active_after_s"] = wait_for("the agent", up, 90.0)
