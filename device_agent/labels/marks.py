"""Labels of flows: a verdict goes before a mark, a mark before the baseline window."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.messages.truth import Coverage, MarkRule, MarkSet
from contract.taxonomy import BENIGN_INDEX, CLASS_INDEX, UNLABELLED
from device_agent.flows.records import address_bytes
from device_agent.labels.source import Source

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class BaselineWindow:
    """A stretch of packet time that the operator declared benign; both ends included.

    Attributes
    ----------
    start_us, end_us
        Microseconds since the epoch.
    """

    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class Labelling:
    """Labels of rows.

    Attributes
    ----------
    y
        Shape ``(n,)``, int32: class index, -1 for unlabelled rows.
    source
        Shape ``(n,)``, uint8: a :class:`Source` each.
    exam
        Shape ``(n,)``, bool: rows that never train, because they start inside an exam window.
    """

    y: npt.NDArray[np.int32]
    source: npt.NDArray[np.uint8]
    exam: Mask


class Marks:
    """The ground truth of one run in a form that is fast to apply.

    Parameters
    ----------
    mark_set
        As received.
    """

    def __init__(self, mark_set: MarkSet) -> None:
        self.mark_set = mark_set
        self._rules = [_Rule(rule) for rule in mark_set.rules]

    def apply(self, identity: npt.NDArray[np.void], labelling: Labelling) -> None:
        """Write the labels of flows into ``labelling``: the first rule that fits wins, then the first coverage.

        Parameters
        ----------
        identity
            Shape ``(n,)``, dtype ``device_agent.flows.records.IDENTITY``.
        labelling
            Of the same rows; rows that nothing claims are left alone.
        """
        start = identity["ts_start_us"]
        flows = _Endpoints(identity)
        free = np.ones(len(identity), dtype=bool)
        for rule in self._rules:
            hit = rule.matches(flows, np.flatnonzero(free & rule.in_window(start)))
            _claim(labelling, hit, rule.label)
            free[hit] = False
        for coverage in self.mark_set.coverage:
            inside = _within(start, coverage)
            hit = np.flatnonzero(inside & free)
            _claim(labelling, hit, CLASS_INDEX[coverage.default_label])
            free[hit] = False
            # Overlapping windows: holding out wins.
            if coverage.split == "exam":
                labelling.exam[inside] = True


def label_flows(
    identity: npt.NDArray[np.void],
    *,
    marks: Iterable[Marks] = (),
    baseline: BaselineWindow | None = None,
    verdicts: Mapping[int, int] | None = None,
) -> Labelling:
    """Label flows.

    Parameters
    ----------
    identity
        Shape ``(n,)``, dtype ``device_agent.flows.records.IDENTITY``. A flow counts at the time of its first packet.
    marks
        Ground truth of the runs the device takes part in; the first one that claims a flow wins.
    baseline
        Traffic that counts as benign.
    verdicts
        Class index by flow id, from the operator.
    """
    n = len(identity)
    labelling = Labelling(
        y=np.full(n, UNLABELLED, dtype=np.int32),
        source=np.zeros(n, dtype=np.uint8),
        exam=np.zeros(n, dtype=bool),
    )
    if not n:
        return labelling
    if baseline is not None:
        start = identity["ts_start_us"]
        inside = (start >= baseline.start_us) & (start <= baseline.end_us)
        labelling.y[inside] = BENIGN_INDEX
        labelling.source[inside] = Source.BASELINE
    for truth in reversed(list(marks)):
        truth.apply(identity, labelling)
    if verdicts:
        judged = np.flatnonzero(np.isin(identity["flow_id"], np.array(list(verdicts), dtype=np.uint64)))
        labelling.y[judged] = [verdicts[int(flow_id)] for flow_id in identity["flow_id"][judged]]
        labelling.source[judged] = Source.VERDICT
    return labelling


class _Endpoints:
    """Both endpoints of flows as comparable columns."""

    def __init__(self, identity: npt.NDArray[np.void]) -> None:
        self.src, self.dst = _address_keys(identity["src_ip"]), _address_keys(identity["dst_ip"])
        self.proto = identity["proto"]
        self.src_port, self.dst_port = identity["src_port"], identity["dst_port"]


class _Rule:
    """One mark rule with its addresses as keys."""

    def __init__(self, rule: MarkRule) -> None:
        self._rule = rule
        self.label = CLASS_INDEX[rule.label]
        self._hosts = _text_keys(rule.hosts)
        self._peers = _text_keys(rule.peers)
        self._ports = np.array(rule.ports, dtype=np.uint16)

    def in_window(self, start_us: npt.NDArray[np.int64]) -> Mask:
        return _within(start_us, self._rule)

    def matches(self, flows: _Endpoints, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Return those of ``rows`` that fit addresses, protocol and ports."""
        if not len(rows):
            return rows
        src, dst = flows.src[rows], flows.dst[rows]
        # The host is one end and the peer the other end of the same flow.
        fits = (self._is_host(src) & self._is_peer(dst)) | (self._is_host(dst) & self._is_peer(src))
        if self._rule.proto is not None:
            fits &= flows.proto[rows] == self._rule.proto
        if len(self._ports):
            fits &= np.isin(flows.src_port[rows], self._ports) | np.isin(flows.dst_port[rows], self._ports)
        return rows[fits]

    def _is_host(self, keys: npt.NDArray[np.bytes_]) -> Mask:
        return np.isin(keys, self._hosts) if len(self._hosts) else np.ones(len(keys), dtype=bool)

    def _is_peer(self, keys: npt.NDArray[np.bytes_]) -> Mask:
        return np.isin(keys, self._peers) if len(self._peers) else np.ones(len(keys), dtype=bool)


def _within(start_us: npt.NDArray[np.int64], window: MarkRule | Coverage) -> Mask:
    return (start_us >= window.start_us) & (start_us <= window.end_us)


def _claim(labelling: Labelling, rows: npt.NDArray[np.intp], label: int) -> None:
    labelling.y[rows] = label
    labelling.source[rows] = Source.MARK


def _address_keys(column: npt.NDArray[np.uint8]) -> npt.NDArray[np.bytes_]:
    """Return 16-byte addresses, shape ``(n, 16)``, as single comparable values, shape ``(n,)``."""
    return np.ascontiguousarray(column).view("S16").reshape(-1)


def _text_keys(addresses: tuple[str, ...]) -> npt.NDArray[np.bytes_]:
    packed = np.frombuffer(b"".join(address_bytes(text) for text in addresses), dtype=np.uint8)
    return _address_keys(packed.reshape(-1, 16))
