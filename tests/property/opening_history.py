"""What the ``initiator_*`` features of a flow are, told from everything that was opened before: slow and plain."""

from dataclasses import dataclass, field
from itertools import pairwise
from math import log2

from contract.features import WINDOW_S


@dataclass
class PastFlow:
    """A flow that was opened; ``answered`` once a packet other than a RST came back."""

    window: int
    responder: object
    port: int
    answered: bool = False


@dataclass
class History:
    """Openings and answers of all initiators that are not forgotten, oldest opening of an initiator first.

    ``saturation``, ``most_counted``, ``max_initiators`` and ``max_values`` are the bounds of the windows.
    """

    saturation: int = 1_000
    most_counted: int = 1 << 18
    max_initiators: int = 4_096
    max_values: int = 131_072
    flows: dict[object, list[PastFlow]] = field(default_factory=dict)
    evicted: int = 0

    def open(self, initiator: object, responder: object, port: int, clock_us: int) -> tuple[PastFlow, list[float]]:
        """Note a flow; return it and its features."""
        past = self.flows.pop(initiator, [])
        flow = PastFlow(clock_us // (WINDOW_S * 1_000_000), responder, port)
        self.flows[initiator] = past = [*past, flow]
        while len(self.flows) > 1 and (
            len(self.flows) > self.max_initiators or sum(map(self.stored, self.flows.values())) > self.max_values
        ):
            del self.flows[next(iter(self.flows))]
            self.evicted += 1
        return flow, self.features(past)

    def clear(self) -> None:
        """Forget all, as when the clock is set back."""
        self.flows.clear()

    def features(self, past: list[PastFlow]) -> list[float]:
        """Return the features of the last flow of an initiator."""
        now = past[-1].window
        both = [flow for flow in past if flow.window in {now, now - 1}]
        peers, ports = self.values(past, now, "responder"), self.values(past, now, "port")
        known = set().union(*self.known(past))
        return [
            len(both),
            min(len(set().union(*peers)), self.saturation),
            min(len(set().union(*ports)), self.saturation),
            sum(not flow.answered for flow in both[:-1]),
            min(len(set().union(*peers) - known), self.saturation),
            self.entropy(past, now, "responder"),
            self.entropy(past, now, "port"),
        ]

    def values(self, past: list[PastFlow], now: int, what: str) -> list[list[object]]:
        """Return the values stored in the last and in the current window."""
        out = []
        for window in (now - 1, now):
            seen = list(dict.fromkeys(getattr(flow, what) for flow in past if flow.window == window))
            out.append([value for value in seen if what != "port" or value][: self.saturation])
        return out

    def entropy(self, past: list[PastFlow], now: int, what: str) -> float:
        """Return the entropy of the flows' values as far as they are stored."""
        found: list[object] = []
        for window, stored in zip((now - 1, now), self.values(past, now, what), strict=True):
            here = [getattr(flow, what) for flow in past if flow.window == window]
            found += [value for value in here if value in stored][: self.most_counted]
        shares = [found.count(value) / len(found) for value in set(found)]
        return max(-sum(share * log2(share) for share in shares), 0.0)

    def known(self, past: list[PastFlow]) -> list[set[object]]:
        """Return the responders handed down to the last and to the current hour."""
        per_hour = 3_600 // WINDOW_S
        windows = sorted({flow.window for flow in past})
        hours: dict[int, list[object]] = {}
        forgotten: set[int] = set()
        for newest, following in pairwise(windows):
            for window in windows:
                if window < following - 1 and window not in forgotten:
                    forgotten.add(window)
                    hour = hours.setdefault(newest // per_hour, [])
                    for responder in self.values(past, window, "responder")[1]:
                        if responder not in hour and len(hour) < self.saturation:
                            hour.append(responder)
        now = windows[-1] // per_hour
        return [set(hours.get(now - 1, [])), set(hours.get(now, []))]

    def stored(self, past: list[PastFlow]) -> int:
        """Return how many values are stored for an initiator."""
        now = past[-1].window
        windows = [*self.values(past, now, "responder"), *self.values(past, now, "port")]
        return sum(map(len, windows)) + sum(map(len, self.known(past)))
