"""The interlock: what may be sent where, and that doubt means no."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.interlock import MARKER, Interface, Namespace, Permit, decide, is_public

PRIVATE = ["10.20.0.1", "198.51.100.10", "224.0.0.251"]


def interface(
    name: str = "veth1",
    alias: str = MARKER,
    routed: tuple[str, ...] = (),
    namespace: Namespace = Namespace.OTHER,
) -> Interface:
    return Interface(name, alias, frozenset(routed), namespace)


@pytest.mark.parametrize(
    ("given_interface", "permit", "reason"),
    [
        (interface("lo", "", namespace=Namespace.INITIAL), Permit(), "loopback"),
        (interface(), Permit(), "marked"),
        (interface(alias=f"{MARKER} rig 2"), Permit(), "marked"),
        (interface(namespace=Namespace.UNKNOWN), Permit(), "marked"),
        (interface(routed=("eth9",)), Permit(), "marked"),
        (interface("eth1", "", ("eth0",), Namespace.INITIAL), Permit("eth1"), "lab-isolated"),
    ],
)
def test_allowed(given_interface: Interface, permit: Permit, reason: str) -> None:
    verdict = decide(given_interface, PRIVATE, permit)
    assert (verdict.allowed, verdict.reason) == (True, reason)


@pytest.mark.parametrize(
    ("given_interface", "permit", "reason"),
    [
        (interface(alias=""), Permit(), "no-marker"),
        (interface(alias="my kinwatch-lab"), Permit(), "no-marker"),
        (interface(namespace=Namespace.INITIAL), Permit(), "initial-namespace"),
        (interface(namespace=Namespace.UNKNOWN, routed=("eth0",)), Permit(), "unknown-namespace"),
        (interface(routed=("veth1",)), Permit(), "default-route"),
        (interface(routed=("veth1",)), Permit("veth1"), "default-route"),
        (interface("lo", routed=("lo",)), Permit(), "default-route"),
        (interface("eth1", "", namespace=Namespace.INITIAL), Permit("eth2"), "other-interface"),
    ],
)
def test_refused(given_interface: Interface, permit: Permit, reason: str) -> None:
    verdict = decide(given_interface, PRIVATE, permit)
    assert (verdict.allowed, verdict.reason) == (False, reason)
    assert given_interface.name in verdict.text
    assert "\n" not in verdict.text


@pytest.mark.parametrize("name", ["lo", "veth1"])
def test_public_destinations_need_their_own_permit(name: str) -> None:
    destinations = [*PRIVATE, "8.8.8.8", "2001:4860::8"]
    refused = decide(interface(name), destinations, Permit())
    assert (refused.allowed, refused.reason) == (False, "public-destination")
    assert "2 public addresses (8.8.8.8, 2001:4860::8)" in refused.text
    allowed = decide(interface(name), destinations, Permit(public_addresses=True))
    assert allowed.allowed
    assert "2 public addresses" in allowed.warning


def test_a_declared_lab_does_not_open_public_addresses_and_warns() -> None:
    eth1 = interface("eth1", "", namespace=Namespace.INITIAL)
    assert decide(eth1, ["8.8.8.8"], Permit("eth1")).reason == "public-destination"
    assert "attack traffic will leave this machine" in decide(eth1, PRIVATE, Permit("eth1")).warning


@given(
    name=st.sampled_from(("eth0", "veth1", "wlan0")),
    alias=st.sampled_from(("", MARKER, "uplink")),
    routed=st.frozensets(st.sampled_from(("eth0", "veth1", "wlan0"))),
    namespace=st.sampled_from(Namespace),
    isolated=st.sampled_from((None, "eth0", "veth1")),
    public=st.booleans(),
)
def test_nothing_leaves_without_a_marker_or_the_users_word(
    *, name: str, alias: str, routed: frozenset[str], namespace: Namespace, isolated: str | None, public: bool
) -> None:
    verdict = decide(Interface(name, alias, routed, namespace), PRIVATE, Permit(isolated, public))
    if verdict.allowed:
        assert name not in routed
        marked = alias == MARKER and namespace is not Namespace.INITIAL
        assert marked or isolated == name


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "100.64.0.1", "2001:4860::8", "::ffff:8.8.8.8", "64:ff9b::808:808", "1.1.1.1"]
)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "192.168.1.1",
        "203.0.113.9",
        "198.18.0.1",
        "127.0.0.1",
        "169.254.1.1",
        "255.255.255.255",
        "0.0.0.0",
        "224.0.0.251",
        "239.255.255.250",
        "fe80::1",
        "ff02::fb",
        "2001:db8::1",
        "fd00::1",
        "::1",
    ],
)
def test_not_public(address: str) -> None:
    assert not is_public(address)
