"""The deployment proof: boots a gateway and a device, provisions them with site.yml, attacks, and takes all away again.

Run by ``scripts/acceptance-deploy``; see there for the command line.

Longer than most: one story, told in its order.
"""

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from apt_proxy import make_server
from container import Container
from network import Network, run
from proof_identity import mqtt, prove_access, prove_enrolment, prove_revocation, watch
from rack import ADDRESSES, APT_PROXY_PORT, DEVICE, GATEWAY, REPOSITORY, Rack, Report, Settings, expect, recap, wait_for

from contract.codec import encode
from contract.messages.truth import Coverage, MarkRule, MarkSet
from contract.topics import MARKS

SECURITY_LIMIT = 2.5
NOT_QUICK = (
    "check mode on bare machines",
    "check mode changed nothing",
    "second run changes nothing",
    "check mode after the installation finds nothing to change",
)
CHECKS = (
    "wheelhouses and captures from the tree",
    "root file system",
    "boot",
    "check mode on bare machines",
    "check mode changed nothing",
    "site.yml",
    "second run changes nothing",
    "check mode after the installation finds nothing to change",
    "services are active and start at boot",
    "the agent has its own user and one capability",
    "unit files on their own systemd",
    "the kernel command line has the memory cgroup, on its one line",
    "clustering runs inside the sandbox of the gateway",
    "a device writes below its own id and nowhere else",
    "the broker refuses strangers",
    "secrets are readable by their owners only",
    "a device joins at the desk with a code that is good once",
    "the unit of the renewal keeps a fresh certificate and renews one that is about to end",
    "the device learns from marked traffic in rounds with the gateway",
    "an attack on the live interface raises an alert",
    "killed, the agent comes back",
    "hung, the watchdog brings it back",
    "with the broker dead, detection goes on",
    "after a reboot of the device the agent runs",
    "a revoked device is not let in",
    "reset.yml",
    "reset.yml left nothing",
    "a second reset changes nothing",
    "nothing of the lab is left on the host",
)
"""Names of all checks in their order; the first is that of the caller. ``NOT_QUICK`` are left out of a quick run."""
UNITS = (
    (GATEWAY, "mosquitto"),
    (GATEWAY, "kinwatch-gateway"),
    (GATEWAY, "kinwatch-enrol-desk"),
    (DEVICE, "kinwatch-agent"),
    (DEVICE, "kinwatch-renew.timer"),
)
OUR_UNITS = (
    (DEVICE, "kinwatch-agent"),
    (DEVICE, "kinwatch-renew"),
    (GATEWAY, "kinwatch-gateway"),
    (GATEWAY, "kinwatch-enrol-desk"),
)


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
        seen.update(recap(rack.playbook("site.yml")))
    if not rack.settings.quick:
        _prove_idempotence(rack, report)
    _prove_services(rack, report)
    prove_access(rack, report)
    prove_enrolment(rack, report)
    _prove_detection(rack, report)
    _prove_recovery(rack, report)
    prove_revocation(rack, report)
    _prove_reset(rack, report, before)


def _prove_idempotence(rack: Rack, report: Report) -> None:
    with report.check("second run changes nothing") as seen:
        told = recap(rack.playbook("site.yml"))
        seen.update(told)
        expect(told["changed"] == 0, f"changed={told['changed']}")
    with report.check("check mode after the installation finds nothing to change") as seen:
        told = recap(rack.playbook("site.yml", "--check"))
        seen.update(told)
        expect(told["changed"] == 0, f"changed={told['changed']}")


def _prove_reset(rack: Rack, report: Report, before: dict[str, tuple[set[str], str, set[str]]]) -> None:
    with report.check("reset.yml") as seen:
        seen.update(recap(rack.playbook("reset.yml", "-e", "kinwatch_reset_confirmed=true")))
    with report.check("reset.yml left nothing") as seen:
        for machine in ADDRESSES:
            _expect_same(rack, machine, before[machine])
        seen["compared"] = "files, users, groups, packages"
        units = rack.ssh(DEVICE, "systemctl list-units --all --no-legend 'kinwatch*'")
        expect(not units, f"units are left: {units}")
    with report.check("a second reset changes nothing") as seen:
        told = recap(rack.playbook("reset.yml", "-e", "kinwatch_reset_confirmed=true"))
        seen.update(told)
        expect(told["changed"] == 0, f"changed={told['changed']}")


def _expect_same(rack: Rack, machine: str, before: tuple[set[str], str, set[str]]) -> None:
    files, accounts, packages = before
    now = rack.files(machine)
    expect(now == files, f"{machine}: files differ: added {sorted(now - files)[:12]}, gone {sorted(files - now)[:5]}")
    expect(rack.accounts(machine) == accounts, f"{machine}: users or groups differ")
    expect(rack.packages(machine) == packages, f"{machine}: packages: {sorted(rack.packages(machine) ^ packages)[:12]}")


def _prove_services(rack: Rack, report: Report) -> None:
    with report.check("services are active and start at boot") as seen:
        for machine, unit in UNITS:
            expect(rack.ssh(machine, f"systemctl is-active {unit}", check=False) == "active", f"{unit} is not active")
            expect(
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
        expect(seen["user"] == "kinwatch", f"user {seen['user']}")
        expect(int(capabilities["CapEff"], 16) == int(capabilities["CapBnd"], 16) == net_raw, f"{capabilities}")
    with report.check("unit files on their own systemd") as seen:
        for machine, unit in OUR_UNITS:
            said = rack.ssh(
                machine, f"systemd-analyze verify --man=no /etc/systemd/system/{unit}.service 2>&1", check=False
            )
            expect(not said, f"{unit}: {said}")
            said = rack.ssh(machine, f"sudo systemd-analyze security --no-pager {unit}.service 2>&1 | tail -1")
            score = re.search(r"exposure level for \S+: ([\d.]+)", said)
            expect(score, f"{unit}: {said}")
            seen[f"{unit}_security"] = float(score[1]) if score else 10.0
            expect(seen[f"{unit}_security"] <= SECURITY_LIMIT, f"{unit}: exposure {seen[f'{unit}_security']}")

    with report.check("the kernel command line has the memory cgroup, on its one line") as seen:
        seen["cmdline"] = rack.ssh(DEVICE, "cat /boot/firmware/cmdline.txt")
        wanted = "console=tty1 root=PARTUUID=1-02 rootwait cgroup_enable=memory cgroup_memory=1"
        expect(seen["cmdline"] == wanted, seen["cmdline"])
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
        expect(seen["clusters"] == "3", seen["clusters"])


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
        expect(time.monotonic() - start < timeout_s, "the device changes its model again and again")
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
        *mqtt(rack, 8884, "mosquitto_pub", "-u", "harness", "-P", password),
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
        # The ladder of the device may end at a model of its own, which it compares with every release.
        models = _models(rack)
        seen["models_taken"] = len(models)
        seen["released_models_taken"] = sum("role=fallback" in model for model in models)
        seen["model"] = models[-1]
        expect(seen["released_models_taken"], "the device never used a model that the gateway released")
        expect("role=factory" not in models[-1], "the device is back at the model that it came with")
    with report.check("an attack on the live interface raises an alert") as seen:
        heard = rack.work / "alerts.txt"
        watcher = watch(rack, f"kinwatch/1/device/{DEVICE}/alert", heard)
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
        expect(int(journal or 0) >= 1, "the journal names no watchdog timeout")
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
