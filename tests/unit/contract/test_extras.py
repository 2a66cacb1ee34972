"""What MQTT 5 is told: expiry with the deadline, where an answer goes, what tells requests apart."""

import pytest

from contract.extras import LONGEST_CORRELATION_BYTES, Extras, extras_of
from contract.messages import BlobRequest, EvaluationReport, ModelUpdate, Receipt, RoundTask
from contract.topics import ASSIGNMENT, CHUNK, FETCH, PART, PULL, RECEIPT, REPORT, TASK, TOPICS, UPDATE
from tests.unit.contract.samples import SAMPLES


def sample(kind):
    return next(message for message in SAMPLES if isinstance(message, kind))


def test_a_task_expires_with_its_deadline_and_state_never():
    task = sample(RoundTask)
    assert extras_of(TASK, TASK.of(device="cam-1"), task) == Extras(expiry_s=int(task.deadline_s))
    assert extras_of(ASSIGNMENT, ASSIGNMENT.of(device="cam-1"), sample(type(task))).response_topic is None


@pytest.mark.parametrize(
    ("request_row", "answer_row"), [(PULL, CHUNK), (FETCH, PART), (UPDATE, RECEIPT), (REPORT, RECEIPT)]
)
def test_a_request_names_the_topic_on_which_the_other_side_answers(request_row, answer_row):
    assert request_row.answer == answer_row.name
    assert answer_row.publisher != request_row.publisher
    topic = request_row.of(device="cam-1")
    assert extras_of(request_row, topic, sample(request_row.message)).response_topic == answer_row.of(device="cam-1")


def test_every_answer_stands_in_the_table_and_is_said_by_the_other_side():
    by_name = {topic.name: topic for topic in TOPICS}
    for topic in TOPICS:
        if topic.answer is not None:
            assert by_name[topic.answer].publisher in topic.readers
            assert topic.publisher in by_name[topic.answer].readers


def test_requests_and_answers_share_a_correlation():
    update, request = sample(ModelUpdate), sample(BlobRequest)
    receipt = sample(Receipt).model_copy(update={"key": update.update_id})
    said = extras_of(UPDATE, UPDATE.of(device="cam-1"), update).correlation
    assert said == extras_of(RECEIPT, RECEIPT.of(device="cam-1"), receipt).correlation == update.update_id.encode()
    report = sample(EvaluationReport)
    assert extras_of(REPORT, REPORT.of(device="cam-1"), report).correlation == f"report-{report.run_id}".encode()
    asked = extras_of(PULL, PULL.of(device="cam-1"), request).correlation
    assert len(asked) <= LONGEST_CORRELATION_BYTES
    assert extras_of(CHUNK, CHUNK.of(device="cam-1"), request, echo=asked).correlation == asked
