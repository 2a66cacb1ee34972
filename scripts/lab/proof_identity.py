"""The part of the deployment proof about identity: who may do what at the broker, enrolment at the desk, revocation."""

import re
import subprocess
from pathlib import Path

from rack import ADDRESSES, DESK, DEVICE, GATEWAY, Rack, Report, expect, recap, wait_for

KEPT = "/var/lib/kinwatch/identity"
AGENT = "/opt/kinwatch/venv/bin/kinwatch-agent"
ENROL = f"{AGENT} enrol --device {DEVICE} --dir {KEPT} --gateway {DESK}"
AUTHORITY = "/opt/kinwatch-gateway/venv/bin/kinwatch-gateway"
DROP_IN = "/run/systemd/system/kinwatch-renew.service.d"


def mqtt(rack: Rack, port: int, *options: str) -> list[str]:
    return [
        "ip", "netns", "exec", rack.network.switch, *options[:1], "-h", ADDRESSES[GATEWAY], "-p", str(port),
        "--cafile", str(rack.secrets / "authority/ca.crt"), *options[1:],
    ]  # fmt: skip


def watch(rack: Rack, topic: str, path: Path) -> subprocess.Popen[bytes]:
    """Subscribe as the reader of the inventory; lines ``topic payload`` go to a file."""
    password = (rack.secrets / "mqtt/watcher").read_text().strip()
    argv = mqtt(rack, 8884, "mosquitto_sub", "-u", "watcher", "-P", password, "-v", "-q", "1", "-t", topic)
    return subprocess.Popen(argv, stdout=path.open("wb"), stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def _identity(rack: Rack) -> list[str]:
    """Return the options by which a client shows the device's certificate."""
    key, certificate = rack.work / "device.key", rack.work / "device.crt"
    for path in (key, certificate):
        path.write_text(rack.ssh(DEVICE, f"sudo cat /etc/kinwatch/{path.name}") + "\n")
        path.chmod(0o600)
    return ["--cert", str(certificate), "--key", str(key)]


def _publish(rack: Rack, topic: str, *who: str, port: int = 8883) -> subprocess.CompletedProcess[str]:
    argv = mqtt(rack, port, "mosquitto_pub", *who, "-i", "probe", "-q", "1", "-t", topic, "-m", "probe")
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)


def prove_access(rack: Rack, report: Report) -> None:
    """Prove that the device reaches its own topics, others nothing, and that secrets are not open to all."""
    identity = _identity(rack)
    with report.check("a device writes below its own id and nowhere else") as seen:
        heard = rack.work / "heard.txt"
        watcher = watch(rack, "kinwatch/#", heard)
        try:
            # The answer to the first one is what says that the subscription stands.
            wait_for(
                "the device's own topic",
                lambda: (
                    _publish(rack, f"kinwatch/1/device/{DEVICE}/telemetry", *identity)
                    and b"/telemetry probe" in heard.read_bytes()
                ),
                15.0,
            )
            for topic in ("device/plug-1/telemetry", f"device/{DEVICE}/task", "gateway/state", "run/x/command"):
                _publish(rack, f"kinwatch/1/{topic}", *identity)
            _publish(rack, f"kinwatch/1/device/{DEVICE}/report", *identity)
            wait_for("the last message", lambda: b"/report probe" in heard.read_bytes(), 15.0)
        finally:
            watcher.terminate()
            watcher.wait()
        topics = {
            line.split(" ")[0] for line in heard.read_text(errors="replace").splitlines() if line.endswith(" probe")
        }
        seen["arrived"] = sorted(topics)
        expect(topics == {f"kinwatch/1/device/{DEVICE}/{leaf}" for leaf in ("telemetry", "report")}, f"{topics}")
    with report.check("the broker refuses strangers"):
        expect(_publish(rack, "x", port=8883).returncode, "a client without a certificate got in")
        expect(_publish(rack, "x", port=8884).returncode, "a client without a password got in")
        expect(_publish(rack, "x", "-u", "gateway", "-P", "wrong", port=8884).returncode, "a wrong password got in")
    with report.check("secrets are readable by their owners only") as seen:
        modes = rack.ssh(DEVICE, "sudo stat -c '%a %U:%G %n' /etc/kinwatch/device.key")
        modes += "\n" + rack.ssh(GATEWAY, "sudo stat -c '%a %U:%G %n' /etc/mosquitto/kinwatch/passwd")
        seen["modes"] = modes.replace("\n", "; ")
        expect(re.findall(r"^(\d+ \w+)", modes, re.MULTILINE) == ["640 root", "600 mosquitto"], modes)


def prove_enrolment(rack: Rack, report: Report) -> None:
    """Prove that a device gets a certificate at the desk by a code that is good once, and renews it in its unit."""
    with report.check("a device joins at the desk with a code that is good once") as seen:
        config = "/etc/kinwatch-gateway/gateway.toml"
        code = rack.ssh(GATEWAY, f"sudo -u kinwatch-gateway {AUTHORITY} join-code {DEVICE} --config {config}")
        seen["told"] = rack.ssh(DEVICE, f"sudo -u kinwatch {ENROL} --code {code.split()[-1]}")
        seen["mode"] = rack.ssh(DEVICE, f"sudo stat -c '%a %U' {KEPT}/device.key")
        expect(seen["mode"] == "600 kinwatch", f"{seen['mode']}")
        again = rack.ssh(DEVICE, f"sudo -u kinwatch {ENROL} --code {code.split()[-1]} 2>&1; echo $?", check=False)
        seen["again"] = again.splitlines()[0]
        expect(again.splitlines()[-1] != "0", "the code was good twice")
    with report.check("the unit of the renewal keeps a fresh certificate and renews one that is about to end") as seen:
        first = _certificate(rack)
        rack.ssh(DEVICE, "sudo systemctl start kinwatch-renew.service")
        expect(_certificate(rack) == first, "a certificate that is good for a year was renewed")
        # Ahead of time: by the same unit, in its sandbox, with another number of days.
        lines = f"[Service]\\nExecStart=\\nExecStart={ENROL} --renew-days 1000\\n"
        rack.ssh(DEVICE, f"sudo mkdir -p {DROP_IN} && printf '{lines}' | sudo tee {DROP_IN}/early.conf")
        rack.ssh(DEVICE, "sudo systemctl daemon-reload && sudo systemctl start kinwatch-renew.service")
        rack.ssh(DEVICE, f"sudo rm -r {DROP_IN} && sudo systemctl daemon-reload")
        expect(_certificate(rack) != first, "the certificate was not renewed")
        seen["journal"] = rack.ssh(
            DEVICE, "sudo journalctl -u kinwatch-renew --no-pager -o cat | grep -F 'good until' | tail -1", check=False
        )


def _certificate(rack: Rack) -> str:
    return rack.ssh(DEVICE, f"sudo sha256sum {KEPT}/device.crt")


def prove_revocation(rack: Rack, report: Report) -> None:
    """Prove that a device which was named as stolen is not let in any more, and that others are."""
    with report.check("a revoked device is not let in") as seen:
        identity, topic = _identity(rack), f"kinwatch/1/device/{DEVICE}/telemetry"
        expect(not _publish(rack, topic, *identity).returncode, "its certificate was no good before")
        stolen = ("--limit", "brokers", "-e", f'{{"broker_revoked_ids": ["{DEVICE}"]}}')
        seen.update(recap(rack.playbook("site.yml", *stolen)))
        expect(_publish(rack, topic, *identity).returncode, "it got in")
        password = (rack.secrets / "mqtt/harness").read_text().strip()
        marks = f"kinwatch/1/run/none/mark/{DEVICE}"
        others = _publish(rack, marks, "-u", "harness", "-P", password, port=8884)
        expect(not others.returncode, f"others do not get in either: {others.stderr}")
