"""A device that its gateway cannot understand says so in its status."""

from contract.codec import encode
from contract.messages import Versions
from contract.model import DEFAULT_SPEC
from contract.topics import VERSIONS
from device_agent.inbound import Reader, own_topics
from device_agent.trust import Keyring


def hear(*majors):
    reader = Reader(DEFAULT_SPEC, Keyring())
    assert reader.read(VERSIONS.of(), encode(Versions(majors=majors, gateway_version="9.1"))) is None
    return reader


def test_a_gateway_of_this_major_is_no_trouble():
    assert hear(2, 1).version_trouble == ""


def test_a_newer_gateway_asks_for_a_newer_agent():
    said = hear(3, 2).version_trouble
    assert said == "contract 1.0 is not understood by gateway 9.1, which speaks major 3, 2; update this agent"


def test_an_older_gateway_is_to_be_updated_itself():
    assert hear(0).version_trouble.endswith("update the gateway")


def test_it_is_listened_to_outside_the_versioned_tree():
    assert "kinwatch/versions" in own_topics("cam-1", accept_marks=False)
