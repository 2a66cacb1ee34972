"""What is published was stored before: a look into the store from outside, at the moment of each publish."""

import pytest

from contract.canonical import sha256_hex
from contract.codec import decode
from contract.messages import Assignment, EvaluationReport, GatewayState, Receipt, RoundTask, TrainTarget
from contract.model import DEFAULT_SPEC, ModelId
from contract.topics import parse
from gateway.errors import StoreError
from gateway.events import (
    Announce,
    Assign,
    ClearRelease,
    PublishRelease,
    Republish,
    RoundStored,
    StoreReported,
)
from gateway.families import Decide, Decision, ReplaceFamilies
from gateway.performer import Performer
from gateway.registry import Device, DeviceChanged, Refused
from gateway.restore import restore
from gateway.rounds import (
    AcceptUpdate,
    Aggregate,
    ClearTask,
    CloseRound,
    NoteDecline,
    OpenRound,
    RefuseUpdate,
    RepeatReceipt,
)
from gateway.store import Store
from tests.unit.gateway.builders import config, task, update
from tests.unit.gateway.test_store import NoSigner

STATE = GatewayState(online=True, session="s", contract_version="1.0", gateway_version="0")


class Bench:
    """A performer whose publishes are recorded together with what a reader of the store sees then."""

    def __init__(self, tmp_path, look):
        self.store = Store(tmp_path)
        restored = restore(self.store, config(), DEFAULT_SPEC, NoSigner(), now_s=0.0)
        self.head = restored.memory.heads["fallback"].digest
        self.reader = Store(tmp_path, read_only=True)
        self.look = look
        self.published = []
        self.seen = []
        self.answer = None
        self.performer = Performer(config(), self.store, NoSigner(), self.publish, STATE)

    def publish(self, topic, payload, *, qos, retain, extras=None):
        row = parse(topic).topic
        assert (qos, retain) == (row.qos, row.retain)
        self.published.append((row.name, payload))
        self.seen.append(self.look(self.reader))
        return self.answer

    def open_round(self, *devices):
        tasks = tuple(
            task(d, 1).model_copy(update={"targets": (TrainTarget(role="fallback", base=self.head),)}) for d in devices
        )
        self.performer.perform(OpenRound(1, tasks))
        return tasks

    def close(self):
        self.reader.close()
        self.store.close()


@pytest.fixture
def bench(tmp_path):
    """Make a bench that looks at one thing in the store."""
    made = []

    def make(look=lambda _reader: None):
        made.append(Bench(tmp_path, look))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_round_is_stored_before_its_tasks_go_out(bench):
    b = bench(lambda reader: reader.rounds.open_number())
    tasks = b.open_round("a", "b")
    assert [decode(RoundTask, payload) for _, payload in b.published] == list(tasks)
    assert b.seen == [1, 1]


def test_an_update_is_stored_before_its_receipt(bench):
    b = bench(lambda reader: reader.rounds.update_ids(1))
    b.open_round("a")
    b.performer.perform(AcceptUpdate(1, update("a", 1)))
    receipt = decode(Receipt, b.published[-1][1])
    assert (receipt.accepted, receipt.reason, receipt.key) == (True, "stored", "round-000001-a-fallback")
    assert b.seen[-1] == {"round-000001-a-fallback"}


def test_an_assignment_is_stored_before_it_goes_out(bench):
    b = bench(lambda reader: reader.families.assignments())
    assignment = Assignment(device_id="a", version=1, family_id=None, reason="", fallback=None, expert=None)
    b.performer.perform(Assign(assignment))
    assert b.seen == [[assignment]]
    assert decode(Assignment, b.published[0][1]) == assignment


def test_a_round_closes_with_model_head_and_result_at_once(bench):
    b = bench()
    b.open_round("a", "b")
    for device in ("a", "b"):
        b.performer.perform(AcceptUpdate(1, update(device, 1)))
    aggregate = Aggregate(TrainTarget(role="fallback", base=b.head), ("a", "b"))
    outcome = b.performer.perform(CloseRound(1, (aggregate,), (), "complete"))
    assert isinstance(outcome, RoundStored)
    digest = outcome.heads["fallback"].digest
    assert b.reader.models.heads()["fallback"][0] == digest
    assert b.reader.models.release(digest).manifest.parent == b.head
    (stored,) = b.reader.rounds.all()
    assert (stored.state, stored.results[0].digest) == ("closed", digest)
    assert stored.results[0].measurements["clients"] == 2.0


def test_a_crash_while_a_round_closes_leaves_it_open(bench, monkeypatch):
    """Neither the new model nor the result is there; the next process does it all again."""
    b = bench()
    b.open_round("a")
    b.performer.perform(AcceptUpdate(1, update("a", 1)))

    def crash(*_args, **_kwargs):
        raise RuntimeError("power cut")

    monkeypatch.setattr(b.store.rounds, "close", crash)
    aggregate = Aggregate(TrainTarget(role="fallback", base=b.head), ("a",))
    with pytest.raises(RuntimeError, match="power cut"):
        b.performer.perform(CloseRound(1, (aggregate,), (), "complete"))
    assert b.reader.rounds.open_number() == 1
    assert b.reader.models.heads()["fallback"][0] == b.head
    assert len(b.reader.models.all()) == 1


def test_decisions_of_a_search_are_stored_as_a_whole_or_not_at_all(bench, monkeypatch):
    b = bench()
    decisions = [Decide(Decision(d, None, "fits-none", "why", 5)) for d in ("a", "b")]
    b.performer.store_together(decisions)
    assert len(b.reader.families.last_decisions()) == 2
    monkeypatch.setattr(b.store.families, "replace_families", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        b.performer.store_together([Decide(Decision("c", None, "fits-none", "why", 5)), ReplaceFamilies((), ())])
    assert len(b.reader.families.last_decisions()) == 2


def test_releases_are_retained_and_cleared(bench):
    b = bench()
    b.performer.perform(PublishRelease(b.head))
    assert sha256_hex(b.reader.models.release(b.head).weights) == b.head
    assert b.reader.models.published() == {b.head}
    b.performer.perform(ClearRelease(b.head))
    assert b.published[-2:] == [("model", b""), ("model-offer", b"")]
    assert b.reader.models.published() == set()


def test_refusals_are_counted_and_answered(bench):
    b = bench()
    b.performer.perform(RefuseUpdate("a", "k", "stale-round"))
    b.performer.perform(RepeatReceipt("a", "k"))
    b.performer.perform(Refused("a", "birth", "spec-mismatch"))
    receipts = [decode(Receipt, payload) for _, payload in b.published]
    assert [(r.accepted, r.reason) for r in receipts] == [(False, "stale-round"), (True, "duplicate")]
    b.performer.flush()
    b.performer.flush()
    assert b.reader.counts() == {"birth.spec-mismatch": 1, "update.duplicate": 1, "update.stale-round": 1}


def test_devices_are_stored_with_the_next_flush_in_their_last_state(bench):
    b = bench()
    for rows in (1, 2):
        b.performer.perform(DeviceChanged(Device("a", train_rows=rows)))
    assert b.reader.devices.all() == []
    b.performer.flush()
    assert [s.device.train_rows for s in b.reader.devices.all()] == [2]


def test_a_report_gets_a_receipt(bench):
    b = bench()
    report = EvaluationReport(
        device_id="a",
        run_id="run-1",
        scores=(),
        active=ModelId(role="fallback", digest=b.head),
        exam_rows=0,
        exam_benign_s=0.0,
    )
    b.performer.perform(StoreReported(report))
    assert decode(Receipt, b.published[0][1]).key == "report-run-1"
    assert b.reader.reports.all() == [report]


def test_a_new_session_says_online_and_sends_everything_again(bench):
    b = bench()
    assignment = Assignment(device_id="a", version=1, family_id=None, reason="", fallback=None, expert=None)
    b.performer.perform(Announce())
    b.performer.perform(Republish((assignment,), (task("a", 1),), ("b",)))
    b.performer.perform(ClearTask("a"))
    assert [name for name, _ in b.published] == ["versions", "state", "assignment", "task", "task", "task"]
    assert [payload == b"" for _, payload in b.published] == [False, False, False, False, True, True]


def test_a_message_over_the_limit_is_counted(bench):
    b = bench()
    b.answer = "oversize"
    b.performer.perform(PublishRelease(b.head))
    assert b.performer.counts["publish.oversize"] == 1


def test_a_missing_model_is_an_error_of_the_store(bench):
    with pytest.raises(StoreError, match="misses model"):
        bench().performer.perform(PublishRelease("f" * 64))


def test_a_decline_is_counted_by_its_reason_and_is_no_refusal_of_the_device(bench):
    b = bench()
    refusals = []
    b.performer.on_refusal = lambda device_id, reason: refusals.append((device_id, reason))
    b.performer.perform(NoteDecline("cam-1", "training-no-rows"))
    b.performer.perform(NoteDecline("cam-2", "training-no-rows", "stale-round"))
    b.performer.flush()
    assert b.reader.counts() == {"decline.stale-round": 1, "task.declined-training-no-rows": 1}
    assert refusals == [("cam-2", "stale-round")]
