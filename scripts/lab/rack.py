"""The machines of the deployment proof as Ansible and SSH see them, and the report of what was checked."""

import json
import os
import pwd
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from network import Network, run

REPOSITORY = Path(__file__).resolve().parents[2]
ANSIBLE = REPOSITORY / "ansible"
GATEWAY, DEVICE = "rack-gw", "cam-1"
ADDRESSES = {GATEWAY: "10.77.0.1", DEVICE: "10.77.0.11"}
APT_PROXY_PORT = 3142
DESK = f"{ADDRESSES[GATEWAY]}:8885"
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


def expect(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def recap(hosts: dict[str, dict[str, int]]) -> dict[str, int]:
    """Return the sums over all hosts of what a playbook did."""
    told = {"tasks_ok": "ok", "changed": "changed", "failed": "failed"}
    return {key: sum(row[name] for row in hosts.values()) for key, name in told.items()}
