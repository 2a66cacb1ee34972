"""Application payloads of a batch: selected in columns, dissected one by one within the budget, counted in flows."""

import numpy as np
import numpy.typing as npt

from device_agent.flows.applications import HANDSHAKE_RECORD, KINDS, MAX_PAYLOAD, N_APPLICATIONS, Applications, Kind
from device_agent.flows.columnar.parse import Packets
from device_agent.flows.columnar.parts import Parts
from device_agent.flows.packets import TCP
from device_agent.flows.records import PacketBatch

I64 = npt.NDArray[np.int64]
Index = npt.NDArray[np.intp]
Bits = npt.NDArray[np.uint16]

_SECOND_US = 1_000_000
_ANY_KIND: npt.NDArray[np.bool_] = np.logical_or(KINDS[0], KINDS[1])
_PORT_1, _PORT_2, _LOW_16, _LOW_8 = np.uint64(48), np.uint64(32), np.uint64(0xFFFF), np.uint64(0xFF)


def read_batch(
    batch: PacketBatch, packets: Packets, span: tuple[int, int], clock: I64, applications: Applications
) -> Bits | None:
    """Return what packets of a batch are.

    Parameters
    ----------
    batch, packets
        The frames, and the columns parsed from them.
    span
        The packets to read, indices into ``packets.at``.
    clock
        Packet clock at each of them, microseconds, ascending.
    applications
        Where the budget is kept and payloads are dissected.

    Returns
    -------
    uint16 array or None
        By position in the batch; None if nothing is known of any packet.
    """
    low, high = span
    key_1 = packets.key_1[low:high]
    few = (_ANY_KIND[key_1 >> _PORT_1] | _ANY_KIND[key_1 >> _PORT_2 & _LOW_16]).nonzero()[0]
    if not len(few):
        return None
    at, key_1 = packets.at[low:high][few], key_1[few]
    tcp = (key_1 & _LOW_8 == TCP).astype(np.intp)
    kind = np.maximum(KINDS[tcp, key_1 >> _PORT_1], KINDS[tcp, key_1 >> _PORT_2 & _LOW_16])
    start = batch.offsets[at] + packets.network_at[at] + packets.ip_len[at] - packets.payload_len[at]
    size = np.minimum(np.minimum(packets.payload_len[at], MAX_PAYLOAD), batch.offsets[at + 1] - start)
    selected = (kind != 0) & (size > 0)
    hello = (selected & (kind == Kind.TLS)).nonzero()[0]
    selected[hello] = batch.data[start[hello]] == HANDSHAKE_RECORD
    chosen = _within_budget(selected.nonzero()[0], clock[few] // _SECOND_US, applications)
    if not len(chosen):
        return None
    data = memoryview(np.ascontiguousarray(batch.data))  # type: ignore[arg-type]
    found = [
        applications.dissect_part(of, data, begin, n)
        for of, begin, n in zip(kind[chosen].tolist(), start[chosen].tolist(), size[chosen].tolist(), strict=True)
    ]
    bits = np.zeros(len(batch), dtype=np.uint16)
    bits[at[chosen]] = found
    return bits


def _within_budget(selected: Index, second: I64, applications: Applications) -> Index:
    """Return those of the selected packets that may be dissected."""
    if not len(selected):
        return selected
    seconds = second[selected]
    begin = np.concatenate(([0], (seconds[1:] != seconds[:-1]).nonzero()[0] + 1))
    end = np.append(begin[1:], len(seconds))
    taken = [
        selected[low : low + applications.take(of, high - low)]
        for low, high, of in zip(begin.tolist(), end.tolist(), seconds[begin].tolist(), strict=True)
    ]
    return np.concatenate(taken)


def count(flows: npt.NDArray[np.void], parts: Parts, bits: Bits) -> None:
    """Add what packets are to the counters of the parts they belong to."""
    of_packet = bits[parts.place]
    told = of_packet.nonzero()[0]
    if len(told):
        part = np.searchsorted(parts.begin, told, side="right") - 1
        np.add.at(flows["applications"], part, _lanes(of_packet[told]))


def _lanes(bits: Bits) -> npt.NDArray[np.uint32]:
    """Return bits as columns of 0 and 1, shape ``(n, N_APPLICATIONS)``."""
    lanes: npt.NDArray[np.uint32] = (bits[:, None] >> np.arange(N_APPLICATIONS, dtype=np.uint16) & 1).astype(np.uint32)
    return lanes
