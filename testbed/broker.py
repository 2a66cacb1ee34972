"""The MQTT broker of a run: Mosquitto where it is installed, else the embedded one, on loopback only."""

import argparse
import asyncio
import getpass
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from contract.exit_codes import ExitCode
from testbed.errors import HarnessError
from testbed.processes import ProcessSpec, Supervisor, last_line, wait_until

BrokerKind = Literal["mosquitto", "embedded"]
BrokerChoice = Literal["auto", "mosquitto", "embedded"]

HOST = "127.0.0.1"
NAME = "broker"
READY_TIMEOUT_S = 15.0
# The largest message is a release or an update of a default model, about 34 kB; 2,000,000 is the limit that newer
# Mosquittos set by default, so that a run meets the same limit everywhere.
MAX_PACKET_BYTES = 2_000_000
_ATTEMPTS = 3
# CONNECT of MQTT 3.1.1: clean session, keep alive 10 s, client id "kinwatch-probe".
_CONNECT = b"\x10\x1a\x00\x04MQTT\x04\x02\x00\x0a\x00\x0ekinwatch-probe"
_CONNACK_ACCEPTED = b"\x20\x02\x00\x00"


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """A broker that answers.

    Attributes
    ----------
    kind, version
        Which one.
    host, port
        Where it listens.
    """

    kind: BrokerKind
    version: str
    host: str
    port: int


def find_mosquitto() -> str | None:
    """Return the path of Mosquitto, or ``None``; Debian keeps it outside an ordinary user's search path."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")


def choose(choice: BrokerChoice) -> BrokerKind:
    """Turn a choice into a broker that can run here.

    Raises
    ------
    HarnessError
        If Mosquitto is asked for and missing.
    """
    if choice == "auto":
        return "mosquitto" if find_mosquitto() else "embedded"
    if choice == "mosquitto" and find_mosquitto() is None:
        raise HarnessError(
            "Mosquitto is not installed (apt-get install mosquitto), or use --broker embedded", code=ExitCode.CONFIG
        )
    return choice


def start_broker(choice: BrokerChoice, *, run_dir: Path, supervisor: Supervisor, port: int = 0) -> RunningBroker:
    """Start a broker and wait until it accepts an MQTT connection.

    Parameters
    ----------
    choice
        Which broker; ``auto`` takes Mosquitto if it is installed.
    run_dir
        Takes the generated configuration and the log.
    supervisor
        Owns the process afterwards, under the name ``broker``.
    port
        TCP port on 127.0.0.1; 0 takes a free one.

    Raises
    ------
    HarnessError
        If the port is in use, the broker is missing, or it does not answer in time.
    """
    kind = choose(choice)
    if port and not port_is_free(port):
        raise HarnessError(
            f"port {port} on {HOST} is in use; stop what listens there or give another --port (0 takes a free one)",
            code=ExitCode.PORT_IN_USE,
        )
    log = run_dir / "broker.log"
    for _ in range(_ATTEMPTS):
        candidate = port or free_port()
        argv, text = _command(kind, candidate, run_dir)
        supervisor.start(ProcessSpec(NAME, argv, log, stage=0))
        wait_until(lambda at=candidate: not supervisor.alive(NAME) or answers(HOST, at), timeout_s=READY_TIMEOUT_S)  # type: ignore[misc]
        if supervisor.alive(NAME) and answers(HOST, candidate):
            return RunningBroker(kind, text, HOST, candidate)
        supervisor.died()
        if port or supervisor.alive(NAME):
            break  # only a free port that somebody else took first is worth another attempt
    raise HarnessError(f"the {kind} broker does not answer: {last_line(log)}", code=ExitCode.BROKER_UNREACHABLE)


def _command(kind: BrokerKind, port: int, run_dir: Path) -> tuple[tuple[str, ...], str]:
    if kind == "embedded":
        return (sys.executable, "-m", "testbed.broker", "--embedded", str(port)), f"amqtt {version('amqtt')}"
    program = find_mosquitto()
    if program is None:
        raise HarnessError("Mosquitto is not installed", code=ExitCode.CONFIG)
    config = run_dir / "mosquitto.conf"
    config.write_text(mosquitto_config(port, user=getpass.getuser()))
    return (program, "-c", str(config)), f"Mosquitto {_mosquitto_version(program)}"


def mosquitto_config(port: int, *, user: str) -> str:
    """Return a configuration for a broker that one experiment uses, on loopback, without passwords.

    Parameters
    ----------
    port
        TCP port.
    user
        The user to stay. Changing the user would also clear the kernel's order to end it with the harness.
    """
    return (
        f"listener {port} {HOST}\n"
        "allow_anonymous true\n"
        f"user {user}\n"
        "persistence false\n"
        f"max_packet_size {MAX_PACKET_BYTES}\n"
        "set_tcp_nodelay true\n"
        "log_dest stdout\n"
        "connection_messages false\n"
    )


def _mosquitto_version(program: str) -> str:
    shown = subprocess.run([program, "-h"], capture_output=True, text=True, check=False, timeout=10).stdout
    found = re.search(r"version (\S+)", shown)
    return found[1] if found else "of an unknown version"


def free_port() -> int:
    """Return a TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Return whether a server could listen on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def answers(host: str, port: int, *, timeout_s: float = 1.0) -> bool:
    """Return whether an MQTT broker accepts a connection there."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(_CONNECT)
            reply = connection.recv(4)
            connection.sendall(b"\xe0\x00")  # DISCONNECT
    except OSError:
        return False
    return reply == _CONNACK_ACCEPTED


async def _serve_embedded(port: int) -> None:
    from amqtt.broker import Broker  # noqa: PLC0415  # heavy, and needed in this process alone

    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await broker.start()
    await stop.wait()
    await broker.shutdown()


def main() -> int:
    """Run the embedded broker until SIGTERM: ``python -m testbed.broker --embedded PORT``."""
    parser = argparse.ArgumentParser(prog="python -m testbed.broker", description="The embedded MQTT broker.")
    parser.add_argument("--embedded", metavar="PORT", type=int, required=True, help="TCP port on 127.0.0.1")
    asyncio.run(_serve_embedded(parser.parse_args().embedded))
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
