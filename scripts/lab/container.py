"""A Debian system that boots in a container, systemd as process 1, in a network namespace of the lab."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from network import run

# nspawn gets its own view of the cgroup hierarchy, version 2 only: hosts that still carry version 1 confuse the
# systemd inside. Exit code 133 is a reboot from within.
_BOOT = """
umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && mkdir -p /run/systemd || exit 90
while :; do
  systemd-nspawn -q --register=no --keep-unit --notify-ready=yes -D "$0" -M "$1" \\
    --network-namespace-path=/run/netns/"$2" --resolv-conf=off --timezone=off --link-journal=no --console=pipe \\
    --capability=CAP_NET_RAW,CAP_NET_ADMIN --kill-signal=SIGRTMIN+3 --boot
  [ $? = 133 ] || break
done
"""
_POWEROFF = signal.SIGRTMIN + 4


class Container:
    """One machine: an overlay over the shared tree, booted on enter, powered off and unmounted on exit.

    Parameters
    ----------
    name
        Host name of the machine.
    tree
        Directory of the unpacked root file system; stays untouched.
    namespace
        Network namespace that already owns ``eth0`` with an address.
    work
        Directory for the overlay and the console log.
    public_key
        SSH public key file of the user ``pi``.
    """

    def __init__(self, name: str, tree: Path, namespace: str, work: Path, public_key: Path) -> None:
        self.name = name
        self.tree = tree
        self.namespace = namespace
        self.directory = work / name
        self.root = self.directory / "root"
        self.public_key = public_key
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._mount()
            self._prepare()
            with (self.directory / "console.log").open("wb") as console:
                self._process = subprocess.Popen(
                    [
                        "unshare",
                        "-m",
                        "--propagation",
                        "slave",
                        "bash",
                        "-c",
                        _BOOT,
                        self.root,
                        self.name,
                        self.namespace,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except BaseException:
            self.close()
            raise
        return self

    def _mount(self) -> None:
        upper, scratch = self.directory / "upper", self.directory / "scratch"
        for path in (upper, scratch, self.root):
            path.mkdir(parents=True)
        layers = f"lowerdir={self.tree},upperdir={upper},workdir={scratch}"
        run("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root))

    def _prepare(self) -> None:
        (self.root / "etc/hostname").write_text(f"{self.name}\n")
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        ssh = self.root / "home/pi/.ssh"
        ssh.mkdir(mode=0o700)
        shutil.copy(self.public_key, ssh / "authorized_keys")
        os.chown(ssh, 1000, 1000)
        os.chown(ssh / "authorized_keys", 1000, 1000)
        address = run("ip", "-n", self.namespace, "-br", "-4", "addr", "show", "eth0").stdout.split()[2]
        network = self.root / "etc/systemd/network"
        # A static address: waiting for a lease that nobody gives would hold the boot for two minutes.
        (network / "80-eth0.network").write_text(
            f"[Match]\nName=eth0\n[Network]\nAddress={address}\nLinkLocalAddressing=no\nKeepConfiguration=yes\n"
        )
        (network / "80-span0.network").write_text(
            "[Match]\nName=span0\n[Link]\nRequiredForOnline=no\n[Network]\nLinkLocalAddressing=no\nKeepConfiguration=yes\n"
        )
        # As on a Raspberry Pi, though nothing boots from it here.
        (self.root / "boot/firmware").mkdir(parents=True)
        (self.root / "boot/firmware/cmdline.txt").write_text("console=tty1 root=PARTUUID=1-02 rootwait\n")
        (self.root / "etc/apt/apt.conf.d/90lab-proxy").write_text('Acquire::http::Proxy "http://127.0.0.1:3142";\n')

    def leader(self) -> int | None:
        """Return the pid of the systemd inside, or ``None`` while there is none; it changes with a reboot."""
        if self._process is None:
            return None
        for child in _children(self._process.pid):
            inner = _children(child)
            if inner:
                return inner[0]
        return None

    def wait_running(self, timeout_s: float) -> float:
        """Wait until systemd inside has finished its boot; return the seconds that took.

        Raises
        ------
        TimeoutError
            If it does not within the time.
        """
        start = time.monotonic()
        while time.monotonic() - start < timeout_s:
            leader = self.leader()
            if leader:
                argv = ["nsenter", "-t", str(leader), "-a", "systemctl", "is-system-running"]
                done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
                if done.stdout.strip() in {"running", "degraded"}:
                    return time.monotonic() - start
            time.sleep(0.2)
        raise TimeoutError(f"{self.name} did not boot within {timeout_s:.0f} s; see {self.directory}/console.log")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Power off, unmount, delete the overlay; may be called twice."""
        if self._process is not None and self._process.poll() is None:
            self._power_off(self._process)
        if os.path.ismount(self.root):
            subprocess.run(["umount", self.root], check=False)
            if os.path.ismount(self.root):
                run("umount", "-l", str(self.root))
        shutil.rmtree(self.directory, ignore_errors=True)

    def _power_off(self, process: subprocess.Popen[bytes]) -> None:
        for sign, patience_s in ((_POWEROFF, 25.0), (signal.SIGKILL, 5.0)):
            leader = self.leader()
            if leader:
                os.kill(leader, sign)
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
            return
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(5.0)


def _children(pid: int) -> list[int]:
    """Return the direct child processes of a process; empty when it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
