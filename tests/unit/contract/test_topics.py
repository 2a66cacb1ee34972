"""Topics: building and parsing are inverse, and the table says who may publish."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import TopicError
from contract.topics import ROOT, TASK, TOPICS, parse

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
DEVICE = st.builds(
    lambda first, middle, last: first + middle + last,
    st.sampled_from(LETTERS),
    st.text(LETTERS + "-", max_size=30),
    st.sampled_from(LETTERS),
)
PARTS = {"device": DEVICE, "run": DEVICE, "digest": st.text("0123456789abcdef", min_size=64, max_size=64)}


@given(st.data())
def test_parse_is_the_inverse_of_building(data: st.DataObject):
    topic = data.draw(st.sampled_from(TOPICS))
    names = [name for name in PARTS if f"{{{name}}}" in topic.pattern]
    parts = {name: data.draw(PARTS[name]) for name in names}
    parsed = parse(topic.of(**parts))
    assert parsed.topic is topic
    assert {"device": parsed.device_id, "digest": parsed.digest, "run": parsed.run_id} == {
        "device": parts.get("device"),
        "digest": parts.get("digest"),
        "run": parts.get("run"),
    }


@pytest.mark.parametrize(
    "text",
    [
        "kinwatch/2/device/cam-1/task",
        f"{ROOT}/device/cam-1/unknown",
        f"{ROOT}/device/Cam/task",
        f"{ROOT}/device/cam-1/task/more",
        f"{ROOT}/device//task",
        f"{ROOT}/device/cam-1/task\n",
        f"{ROOT}/model/xyz",
        "",
    ],
)
def test_foreign_topics_are_refused(text: str):
    with pytest.raises(TopicError) as error:
        parse(text)
    assert error.value.reason == "topic-unknown"


@pytest.mark.parametrize("device", ["a/b", "+", "#", "-a", "a-", "A", "", "a" * 33])
def test_a_bad_id_never_becomes_a_topic(device: str):
    with pytest.raises(TopicError):
        TASK.of(device=device)


def test_missing_and_surplus_parts_are_refused():
    with pytest.raises(TopicError):
        TASK.of()
    with pytest.raises(TopicError):
        TASK.of(device="a", run="b")


def test_a_device_publishes_only_below_its_own_id():
    for topic in TOPICS:
        if topic.publisher == "device":
            assert topic.pattern.startswith("device/{device}/")


def test_no_two_topics_overlap():
    assert len({topic.wildcard for topic in TOPICS}) == len(TOPICS)
