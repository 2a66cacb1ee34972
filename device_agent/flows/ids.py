"""Ids of flows: the same packets give the same id everywhere, with all engines and on every machine."""

import numpy as np
import numpy.typing as npt

from contract.mixing import GOLDEN, splitmix64

U64 = npt.NDArray[np.uint64]

N_WORDS = 6
"""Words of a flow: source address in two, destination address in two, then see ``flow_ids``."""


def flow_ids(words: npt.ArrayLike) -> U64:
    """Return the ids of flows, below 2**63.

    Two chains of SplitMix64, one by exclusive or and one by addition, go over the words; the id is what both make of
    them together. Each step of one chain can be undone, so one alone would let a sender choose a flow for a given id.

    Parameters
    ----------
    words
        uint64, shape ``(N_WORDS, n)``: the 16 bytes of the initiator's address (IPv4 as in ``records.IDENTITY``) as two
        big-endian numbers, those of the responder's; ``src_port << 48 | dst_port << 32 | vlan << 8 | proto`` with all
        VLAN tags as in ``packets.Packet``; and the flow's first microsecond.
    """
    columns = np.asarray(words, dtype=np.uint64)
    chains = np.zeros((2, columns.shape[1]), dtype=np.uint64)
    chains[1] = GOLDEN
    for word in columns:
        chains[0] ^= word
        chains[1] += word
        chains = splitmix64(chains)
    ids: U64 = (chains[0] ^ chains[1]) >> np.uint64(1)
    return ids
