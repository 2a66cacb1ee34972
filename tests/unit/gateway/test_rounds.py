"""The round machine: when rounds open and close, and every reason an update is refused for."""

import pytest

from contract.messages import Decline
from gateway.rounds import (
    AcceptUpdate,
    CandidatesSeen,
    ClearTask,
    CloseRound,
    DeclineArrived,
    NoteDecline,
    OpenRound,
    ParticipantGone,
    RefuseUpdate,
    RepeatReceipt,
    RoundMachine,
    RoundRules,
    RoundSettled,
    TimePassed,
    UpdateArrived,
)
from tests.unit.gateway.builders import BASE, task, update

RULES = RoundRules(max_rounds=0, interval_s=5.0, deadline_s=10.0, min_devices=2, quorum=0.5, expert_min_updates=3)


def opened(*devices, rules=RULES, families=()):
    machine = RoundMachine(rules)
    tasks = tuple(task(d, 1, families=families) for d in devices)
    assert machine.handle(CandidatesSeen(tasks), 0.0) == [OpenRound(1, tasks)]
    return machine


def send(machine, device_id, message, *, now=1.0, content=None):
    return machine.handle(UpdateArrived(device_id, message, content), now)


def test_a_round_waits_for_enough_devices():
    """One device of two is no round."""
    machine = RoundMachine(RULES)
    assert machine.handle(CandidatesSeen((task("a", 1),)), 0.0) == []
    assert machine.next_number == 1


def test_it_closes_when_everything_is_in():
    """The last update closes the round, and tasks are taken back."""
    machine = opened("a", "b")
    assert send(machine, "a", update("a", 1)) == [AcceptUpdate(1, update("a", 1))]
    accept, close, *clears = send(machine, "b", update("b", 1))
    assert accept == AcceptUpdate(1, update("b", 1))
    assert isinstance(close, CloseRound)
    assert close.reason == "complete"
    assert [a.devices for a in close.aggregations] == [("a", "b")]
    assert clears == [ClearTask("a"), ClearTask("b")]


def test_it_closes_at_the_deadline_with_a_quorum():
    """Half of the invited are enough, a moment before the deadline is too early."""
    machine = opened("a", "b")
    send(machine, "a", update("a", 1))
    assert machine.handle(TimePassed(), 9.99) == []
    close = machine.handle(TimePassed(), 10.0)[0]
    assert isinstance(close, CloseRound)
    assert (close.reason, close.aggregations[0].devices) == ("deadline", ("a",))


def decline(machine, device_id, *, number=1, now=1.0):
    said = Decline(round_id=f"round-{number:06d}", device_id=device_id, reason="training-no-rows")
    return machine.handle(DeclineArrived(device_id, said), now)


def test_a_decline_is_an_answer_and_nobody_waits_for_that_device():
    """Two updates and a decline close a round of three long before its deadline."""
    machine = opened("a", "b", "c")
    assert decline(machine, "b") == [NoteDecline("b", "training-no-rows")]
    assert decline(machine, "b") == []
    send(machine, "a", update("a", 1))
    close = send(machine, "c", update("c", 1))[1]
    assert isinstance(close, CloseRound)
    assert (close.reason, close.aggregations[0].devices) == ("answered", ("a", "c"))


def test_declines_do_not_lower_the_quorum():
    """One update of four invited is below a half, however many said no."""
    machine = opened("a", "b", "c", "d")
    send(machine, "a", update("a", 1))
    for device in ("b", "c"):
        decline(machine, device)
    close = decline(machine, "d")[1]
    assert isinstance(close, CloseRound)
    assert (close.reason, close.aggregations) == ("no-quorum", ())


def test_an_update_after_a_decline_counts_while_the_round_is_open():
    machine = opened("a", "b")
    decline(machine, "a")
    assert send(machine, "a", update("a", 1))[0] == AcceptUpdate(1, update("a", 1))
    close = send(machine, "b", update("b", 1))[1]
    assert close.reason == "complete"


def test_declines_of_other_rounds_and_of_strangers_are_refused():
    machine = opened("a", "b")
    assert decline(machine, "a", number=7) == [NoteDecline("a", "training-no-rows", "stale-round")]
    assert decline(machine, "z") == [NoteDecline("z", "training-no-rows", "uninvited")]
    assert machine.handle(TimePassed(), 9.0) == []
    assert decline(RoundMachine(RULES), "a")[0].refusal == "stale-round"


def test_it_expires_without_a_quorum():
    """One of three is below a half: nothing is aggregated."""
    machine = opened("a", "b", "c")
    send(machine, "a", update("a", 1))
    close = machine.handle(TimePassed(), 10.0)[0]
    assert isinstance(close, CloseRound)
    assert (close.reason, close.aggregations) == ("no-quorum", ())
    assert [(held.target, held.devices) for held in close.held] == [("fallback", ("a",))]


def test_an_expert_with_two_updates_is_held():
    """The fallback goes on; the expert waits for three."""
    machine = opened("a", "b", "c", families=("family-1",))
    for device in ("a", "b", "c"):
        send(machine, device, update(device, 1))
    for device in ("a", "b"):
        send(machine, device, update(device, 1, family_id="family-1"))
    close = machine.handle(TimePassed(), 10.0)[0]
    assert isinstance(close, CloseRound)
    assert [a.target.role for a in close.aggregations] == ["fallback"]
    assert [(h.target, h.reason) for h in close.held] == [("family-1", "too-few-updates")]


def test_an_expert_with_three_updates_is_aggregated_from_its_own_base():
    machine = opened("a", "b", "c", families=("family-1",))
    for device in ("a", "b", "c"):
        send(machine, device, update(device, 1))
        effects = send(machine, device, update(device, 1, family_id="family-1"))
    close = effects[1]
    assert isinstance(close, CloseRound)
    assert [(a.target.role, a.devices) for a in close.aggregations] == [
        ("fallback", ("a", "b", "c")),
        ("expert", ("a", "b", "c")),
    ]
    assert close.aggregations[0].target.base == BASE


@pytest.mark.parametrize(
    ("device_id", "message", "reason"),
    [
        ("a", update("a", 2), "stale-round"),
        ("z", update("z", 1), "uninvited"),
        ("a", update("a", 1, family_id="family-1"), "wrong-target"),
        ("a", update("a", 1, update_id="round-000001-b-fallback"), "update-id"),
        ("a", update("a", 1, spec_id="0" * 64), "wrong-spec"),
        ("a", update("a", 1, base="0" * 64), "wrong-base"),
    ],
)
def test_an_update_that_does_not_fit_the_task_is_refused(device_id, message, reason):
    """A refusal changes nothing: the same device can still send the right update."""
    machine = opened("a", "b")
    assert send(machine, device_id, message) == [RefuseUpdate(device_id, message.update_id, reason)]
    assert send(machine, "a", update("a", 1)) == [AcceptUpdate(1, update("a", 1))]


def test_bad_content_is_refused_with_its_reason():
    machine = opened("a", "b")
    message = update("a", 1)
    assert send(machine, "a", message, content="norm-bound") == [RefuseUpdate("a", message.update_id, "norm-bound")]


def test_an_update_without_a_round_is_stale():
    message = update("a", 1)
    assert send(RoundMachine(RULES), "a", message) == [RefuseUpdate("a", message.update_id, "stale-round")]


def test_a_repeated_update_counts_once_and_gets_its_receipt_again():
    """While the round is open, while it closes, and after it."""
    machine = opened("a", "b")
    message = update("a", 1)
    send(machine, "a", message)
    again = [RepeatReceipt("a", message.update_id)]
    assert send(machine, "a", message) == again
    close = machine.handle(TimePassed(), 10.0)[0]
    assert isinstance(close, CloseRound)
    assert close.aggregations[0].devices == ("a",)
    assert send(machine, "a", message) == again
    machine.handle(RoundSettled(1), 10.0)
    assert send(machine, "a", message) == again


def test_an_update_that_comes_while_the_round_closes_is_stale():
    machine = opened("a", "b")
    send(machine, "a", update("a", 1))
    machine.handle(TimePassed(), 10.0)
    late = update("b", 1)
    assert send(machine, "b", late) == [RefuseUpdate("b", late.update_id, "stale-round")]


def test_the_next_round_waits_for_the_results_and_the_interval():
    machine = opened("a", "b")
    machine.handle(TimePassed(), 10.0)
    assert not machine.wants_candidates(100.0)
    machine.handle(RoundSettled(1), 12.0)
    assert not machine.wants_candidates(16.9)
    assert machine.wants_candidates(17.0)


def test_the_results_of_another_round_end_nothing():
    machine = opened("a", "b")
    machine.handle(TimePassed(), 10.0)
    machine.handle(RoundSettled(7), 12.0)
    assert not machine.wants_candidates(100.0)


def test_no_round_after_the_last():
    rules = RoundRules(max_rounds=1, interval_s=0.0, deadline_s=10.0, min_devices=1, quorum=0.5, expert_min_updates=3)
    machine = opened("a", rules=rules)
    machine.handle(TimePassed(), 10.0)
    machine.handle(RoundSettled(1), 10.0)
    assert machine.finished
    assert machine.handle(CandidatesSeen((task("a", 2),)), 99.0) == []


def test_a_resumed_round_knows_what_came_in_and_has_its_whole_deadline():
    machine = RoundMachine(RULES, last_number=4)
    tasks = [task("a", 4), task("b", 4)]
    assert machine.resume(tasks, {"round-000004-a-fallback"}, 100.0) == []
    assert send(machine, "a", update("a", 4)) == [RepeatReceipt("a", "round-000004-a-fallback")]
    assert machine.handle(TimePassed(), 109.9) == []
    close = send(machine, "b", update("b", 4), now=109.9)[1]
    assert isinstance(close, CloseRound)
    assert close.aggregations[0].devices == ("a", "b")


def test_a_resumed_round_that_was_complete_closes_at_once():
    """The last process died between the last update and the results."""
    machine = RoundMachine(RULES, last_number=4)
    effects = machine.resume([task("a", 4)], {"round-000004-a-fallback"}, 100.0)
    assert isinstance(effects[0], CloseRound)


def test_the_next_round_starts_with_nothing_received():
    """Updates of the last round never count again."""
    rules = RoundRules(max_rounds=0, interval_s=0.0, deadline_s=10.0, min_devices=1, quorum=0.5, expert_min_updates=3)
    machine = opened("a", "b", rules=rules)
    send(machine, "a", update("a", 1))
    machine.handle(TimePassed(), 10.0)
    machine.handle(RoundSettled(1), 10.0)
    machine.handle(CandidatesSeen((task("a", 2), task("b", 2))), 10.0)
    send(machine, "b", update("b", 2), now=11.0)
    close = machine.handle(TimePassed(), 20.0)[0]
    assert isinstance(close, CloseRound)
    assert close.aggregations[0].devices == ("b",)


def test_a_participant_that_is_gone_is_not_waited_for_and_what_it_sent_counts():
    """It is out of the wait, not out of the quorum; with its own update in, it counts."""
    machine = opened("a", "b", "c")
    send(machine, "a", update("a", 1))
    assert machine.handle(ParticipantGone("stranger"), 1.5) == []
    assert machine.handle(ParticipantGone("c"), 2.0) == []
    close = send(machine, "b", update("b", 1), now=3.0)[1]
    assert isinstance(close, CloseRound)
    assert (close.reason, [a.devices for a in close.aggregations]) == ("answered", [("a", "b")])


def test_the_last_one_that_is_waited_for_is_gone():
    """The round closes at once, not at its deadline."""
    machine = opened("a", "b")
    send(machine, "a", update("a", 1))
    close, *_ = machine.handle(ParticipantGone("b"), 2.0)
    assert isinstance(close, CloseRound)
    assert close.aggregations[0].devices == ("a",)
    assert machine.handle(ParticipantGone("b"), 2.5) == []


def test_an_update_in_another_form_than_the_task_wants_is_refused():
    machine = opened("a", "b")
    other = update("a", 1).model_copy(update={"delta_encoding": "q8"})
    (refused,) = send(machine, "a", other)
    assert refused == RefuseUpdate("a", other.update_id, "wrong-encoding")
