"""Network namespaces of the lab: a switch, one namespace per machine, and a replayer behind a mirror port.

Nothing here touches the host's own network: every link has both ends in a namespace of this lab.
"""

import os
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

NETNS_DIR = Path("/run/netns")


def run(*argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command, its output as text; a failure carries what the command said."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-800:]}")
    return done


class Network:
    """A switch namespace, machines on it, and a replayer wired to the ``span0`` interface of one machine.

    Parameters
    ----------
    prefix
        Start of all namespace names; short, and unique on this host.
    machines
        Machine name -> IPv4 address in 10.77.0.0/24.
    mirrored
        The machine that gets ``span0``, whose other end is ``replay0`` in the replayer's namespace.
    """

    def __init__(self, prefix: str, machines: dict[str, str], mirrored: str) -> None:
        self.prefix = prefix
        self.machines = machines
        self.mirrored = mirrored
        self.switch = f"{prefix}-sw"
        self.replayer = f"{prefix}-replay"

    def namespace(self, machine: str) -> str:
        return f"{self.prefix}-{machine}"

    @property
    def namespaces(self) -> list[str]:
        return [self.switch, self.replayer, *(self.namespace(m) for m in self.machines)]

    def __enter__(self) -> Self:
        try:
            for namespace in self.namespaces:
                run("ip", "netns", "add", namespace)
                run("ip", "-n", namespace, "link", "set", "lo", "up")
            run("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge")
            run("ip", "-n", self.switch, "link", "set", "br0", "up")
            run("ip", "-n", self.switch, "addr", "add", "10.77.0.254/24", "dev", "br0")
            for number, (machine, address) in enumerate(self.machines.items()):
                self._plug(self.namespace(machine), f"port{number}", address)
            target = self.namespace(self.mirrored)
            run(
                "ip",
                "-n",
                self.replayer,
                "link",
                "add",
                "replay0",
                "type",
                "veth",
                "peer",
                "name",
                "span0",
                "netns",
                target,
            )
            # The mark by which the replay knows an interface of a testbed.
            run("ip", "-n", self.replayer, "link", "set", "replay0", "alias", "kinwatch-lab", "up")
            run("ip", "-n", target, "link", "set", "span0", "up")
        except BaseException:
            self.close()
            raise
        return self

    def _plug(self, namespace: str, port: str, address: str) -> None:
        run("ip", "-n", self.switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        run("ip", "-n", self.switch, "link", "set", port, "master", "br0", "up")
        run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", namespace, "link", "set", "eth0", "up")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what still runs in the namespaces and delete them; may be called twice."""
        for namespace in self.namespaces:
            if not (NETNS_DIR / namespace).exists():
                continue
            for sign in (signal.SIGTERM, signal.SIGKILL):
                pids = [int(pid) for pid in run("ip", "netns", "pids", namespace).stdout.split()]
                for pid in pids:
                    try:
                        os.kill(pid, sign)
                    except ProcessLookupError:
                        continue
                if not pids:
                    break
                time.sleep(0.3)
            run("ip", "netns", "delete", namespace)
