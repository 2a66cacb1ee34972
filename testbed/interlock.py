"""Whether captured traffic may be sent out of an interface: rules without I/O, the safe answer when in doubt.

1. The loopback interface is fine.
2. The interface of a default route is never fine: it leads to other people's networks.
3. A public destination address is refused unless the user allows public addresses.
4. Outside the machine's initial network namespace, an interface that carries the marker in its alias is fine:
   it belongs to a testbed. Where the namespace cannot be told, it must have no default route at all.
5. An interface that the user named as the isolated lab's is fine, with a warning.
6. Everything else is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from typing import Final

LOOPBACK: Final = "lo"
MARKER: Final = "kinwatch-lab"
_EXAMPLES: Final = 3
_CARRIER_SHARED: Final = IPv4Network("100.64.0.0/10")


class Namespace(Enum):
    """Which network namespace the program runs in."""

    INITIAL = "the machine's own network namespace"
    OTHER = "a network namespace of its own"
    UNKNOWN = "a network namespace that cannot be told from the machine's own"


@dataclass(frozen=True, slots=True)
class Interface:
    """What is known about the interface to send from.

    Parameters
    ----------
    name
        Name in its namespace.
    alias
        The interface's alias; a testbed marks its interfaces there.
    default_routes
        Names of all interfaces of the namespace that carry a default route.
    namespace
        Where the program runs.
    """

    name: str
    alias: str
    default_routes: frozenset[str]
    namespace: Namespace


@dataclass(frozen=True, slots=True)
class Permit:
    """What the user allowed.

    Parameters
    ----------
    isolated_interface
        Name of the interface of an isolated lab network, or None.
    public_addresses
        Whether packets to public addresses may be sent.
    """

    isolated_interface: str | None = None
    public_addresses: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision; ``reason`` is a slug, ``text`` one line for a person, ``warning`` one more or empty."""

    allowed: bool
    reason: str
    text: str
    warning: str = ""


def is_public(address: str) -> bool:
    """Return whether packets to this address could reach somebody else.

    Private, documentation, benchmark, loopback, link-local and multicast ranges are not public; a carrier's shared
    range (100.64.0.0/10) is, because it may reach other customers.
    """
    parsed: IPv4Address | IPv6Address = ip_address(address)
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if isinstance(parsed, IPv4Address) and parsed in _CARRIER_SHARED:
        return True
    return parsed.is_global and not parsed.is_multicast


def decide(interface: Interface, destinations: Sequence[str], permit: Permit) -> Verdict:
    """Decide whether packets to these destinations may be sent from this interface.

    Parameters
    ----------
    interface
        Facts of the interface.
    destinations
        Distinct destination addresses of the capture.
    permit
        What the user allowed.
    """
    name = interface.name
    if name in interface.default_routes:
        return _refuse("default-route", f"{name} carries the default route; replay from an interface of the lab")
    public = [address for address in destinations if is_public(address)]
    if public and not permit.public_addresses:
        examples = ", ".join(public[:_EXAMPLES])
        return _refuse(
            "public-destination",
            f"the capture holds packets to {len(public)} public addresses ({examples}); map them with --map-public"
            " or, in an isolated lab, allow them with --allow-public",
        )
    warning = f"packets to {len(public)} public addresses will be sent from {name}" if public else ""
    if name == LOOPBACK:
        return Verdict(allowed=True, reason="loopback", text=f"{name} is the loopback interface", warning=warning)
    return _decide_by_place(interface, permit, warning)


def _decide_by_place(interface: Interface, permit: Permit, warning: str) -> Verdict:
    """Decide for an interface other than loopback, by its namespace, marker and the user's word."""
    name = interface.name
    if permit.isolated_interface is not None and permit.isolated_interface != name:
        return _refuse("other-interface", f"--lab-isolated names {permit.isolated_interface}, not {name}")
    if permit.isolated_interface == name:
        text = f"{name} is declared an isolated lab network: attack traffic will leave this machine"
        return Verdict(allowed=True, reason="lab-isolated", text=text, warning=f"{text}; {warning}".rstrip("; "))
    declare = f"if {name} leads to an isolated lab, say --lab-isolated {name}"
    if interface.namespace is Namespace.INITIAL:
        return _refuse("initial-namespace", f"{name} is in {interface.namespace.value}; {declare}")
    if not interface.alias.startswith(MARKER):
        mark = f"mark it with: ip link set dev {name} alias {MARKER}"
        return _refuse("no-marker", f"{name} is not marked as a testbed's interface; {mark}; or {declare}")
    if interface.namespace is Namespace.UNKNOWN and interface.default_routes:
        routed = ", ".join(sorted(interface.default_routes))
        place = interface.namespace.value
        return _refuse("unknown-namespace", f"{name} is in {place} and {routed} leads out; {declare}")
    return Verdict(allowed=True, reason="marked", text=f"{name} is a testbed's interface", warning=warning)


def _refuse(reason: str, text: str) -> Verdict:
    return Verdict(allowed=False, reason=reason, text=text)
