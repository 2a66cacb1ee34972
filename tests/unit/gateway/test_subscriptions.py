"""The gateway hears every topic that the contract lets it read."""

from contract.topics import BIRTH, TOPICS
from gateway.transport import SUBSCRIPTIONS


def test_nothing_that_devices_say_goes_unheard():
    """Births are heard in the trees of all majors, by a wildcard of their own."""
    assert {topic.name for topic in TOPICS if "gateway" in topic.readers} == {
        topic.name for topic in (*SUBSCRIPTIONS, BIRTH)
    }
