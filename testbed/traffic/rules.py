"""The rule by which an attack's flows are told from benign ones: addresses, protocol and ports."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FlowRule:
    """What the flows of an attack have in common.

    Parameters
    ----------
    label
        Class name of the taxonomy.
    hosts
        One endpoint is among these addresses.
    peers
        The other endpoint is among these; empty means any.
    proto
        IP protocol number, or None for any.
    ports
        One endpoint's port is among these; empty means any.
    """

    label: str
    hosts: tuple[str, ...]
    peers: tuple[str, ...] = ()
    proto: int | None = None
    ports: tuple[int, ...] = ()
