"""Delay, jitter, loss and rate without the kernel's netem: every device's eth0 is a TAP that this process relays.

    python netem_lite.py SWITCH_NS BRIDGE CONTROL_FIFO NS[,NS...]

A line ``NS delay_ms jitter_ms loss rate_bps`` in the FIFO changes a link while it runs; loss 1 cuts it.
"""

import fcntl
import heapq
import os
import random
import selectors
import struct
import subprocess
import sys
import time

TUNSETIFF, TAP_NO_PI = 0x400454CA, 0x1002
QUEUE_S = 1.0


def tap(name):
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP_NO_PI))
    return descriptor


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


class Link:
    def __init__(self):
        self.delay = self.jitter = self.loss = self.rate = 0.0
        self.free = {}

    def change(self, delay_ms, jitter_ms, loss, rate):
        self.delay, self.jitter = float(delay_ms) / 1e3, float(jitter_ms) / 1e3
        self.loss, self.rate = float(loss), float(rate)

    def due(self, out, length, rng):
        """Return when a frame leaves the link, ``None`` if it is lost."""
        if self.loss and rng.random() < self.loss:
            return None
        now = time.monotonic()
        at = now
        if self.rate:
            at = max(at, self.free.get(out, 0.0)) + length * 8 / self.rate
            if at - now > QUEUE_S:
                return None
            self.free[out] = at
        return at + self.delay + (rng.uniform(-self.jitter, self.jitter) if self.jitter else 0.0)


def main():
    switch, bridge, control = sys.argv[1:4]
    links, selector, rng = {}, selectors.DefaultSelector(), random.Random(int(os.environ.get("SEED", "0")))  # noqa: S311
    for number, namespace in enumerate(sys.argv[4].split(",")):
        link = links[namespace] = Link()
        inner, outer = f"t{os.getpid() % 10000}a{number}", f"t{os.getpid() % 10000}b{number}"
        ends = tap(inner), tap(outer)
        ip("link", "set", inner, "netns", namespace, "name", "eth0")
        ip("-n", namespace, "link", "set", "eth0", "up")
        ip("link", "set", outer, "netns", switch, "name", f"l-{number}")
        ip("-n", switch, "link", "set", f"l-{number}", "master", bridge, "up")
        selector.register(ends[0], selectors.EVENT_READ, (link, ends[1]))
        selector.register(ends[1], selectors.EVENT_READ, (link, ends[0]))
    os.mkfifo(control)
    fifo = os.open(control, os.O_RDWR | os.O_NONBLOCK)
    selector.register(fifo, selectors.EVENT_READ, None)
    print("ready", flush=True)  # noqa: T201
    queue, sequence = [], 0
    while True:
        now = time.monotonic()
        while queue and queue[0][0] <= now:
            _, _, out, frame = heapq.heappop(queue)
            try:
                os.write(out, frame)
            except OSError:
                continue
        for key, _ in selector.select(max(0.0, queue[0][0] - now) if queue else None):
            if key.data is None:
                for line in os.read(fifo, 65_536).decode().splitlines():
                    namespace, *values = line.split()
                    links[namespace].change(*values)
                continue
            link, out = key.data
            for _ in range(64):
                try:
                    frame = os.read(key.fd, 65_536)
                except BlockingIOError:
                    break
                at = link.due(out, len(frame), rng)
                if at is not None:
                    sequence += 1
                    heapq.heappush(queue, (at, sequence, out, frame))


if __name__ == "__main__":
    main()
