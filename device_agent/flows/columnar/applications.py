"""Application payloads of a batch: selected in columns, dissected one by one within the budget, counted in flows."""

from collections.abc import Callable

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
_FEW = 16
"""Up to so many payloads are dissected one by one."""
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
    bits = np.zeros(len(batch), dtype=np.uint16)
    bits[at[chosen]] = _dissected(batch.data, kind[chosen], start[chosen], size[chosen], applications)
    return bits


def _dissected(
    data: npt.NDArray[np.uint8], kind: npt.NDArray[np.uint8], start: I64, size: I64, applications: Applications
) -> Bits:
    """Return what payloads are; heads that are remembered are taken out of the bytes together."""
    data = np.ascontiguousarray(data)
    bits, single = np.zeros(len(kind), dtype=np.uint16), np.ones(len(kind), dtype=np.bool_)

    def payload(number: int) -> bytes:
        return data[start[number] : start[number] + size[number]].tobytes()

    def payload_of(numbers: Index) -> Callable[[int], bytes]:
        return lambda number: payload(int(numbers[number]))

    for of, (low, high) in applications.heads.items() if len(kind) > _FEW else ():
        alike = ((kind == of) & (size >= high)).nonzero()[0]
        if len(alike):
            whole = np.ndarray((len(data) - (high - low) + 1,), dtype=f"V{high - low}", buffer=data, strides=(1,))
            heads = whole[start[alike] + low].tolist()
            bits[alike] = applications.dissect_heads(of, heads, payload_of(alike))
            single[alike] = False
    for number in single.nonzero()[0].tolist():
        bits[number] = applications.dissect(Kind(int(kind[number])), payload(number))
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
