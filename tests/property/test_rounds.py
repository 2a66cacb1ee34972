"""The round machine against an independent history of who was invited and who sent what.

The history knows nothing of the machine's state: it is the list of tasks that were handed out and of updates that were
handed in, with what was wrong about each. A round may contain exactly the invited devices that handed in a sound
update for this round and target before it closed.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from contract.messages import Decline
from gateway.rounds import (
    AcceptUpdate,
    CandidatesSeen,
    CloseRound,
    DeclineArrived,
    NoteDecline,
    OpenRound,
    RefuseUpdate,
    RepeatReceipt,
    RoundMachine,
    RoundRules,
    RoundSettled,
    TimePassed,
    UpdateArrived,
    target_key,
)
from tests.unit.gateway.builders import task, update

DEVICES = [f"d{i}" for i in range(4)]
FAMILY = "family-1"
DEFECTS = {
    "spec": {"spec_id": "0" * 64},
    "base": {"base": "0" * 64},
    "id": {"update_id": "round-000001-stranger-fallback"},
}
RULES = RoundRules(max_rounds=0, interval_s=3.0, deadline_s=10.0, min_devices=2, quorum=0.5, expert_min_updates=2)


class Rounds(RuleBasedStateMachine):
    """Devices come and go, send good and bad updates, early, late, twice; the process may die and come back."""

    @initialize()
    def begin(self):
        self.machine = RoundMachine(RULES)
        self.now = 0.0
        self.number = 0
        self.invited: dict[str, set[str]] = {}
        self.sent: set[tuple[int, str, str]] = set()
        self.opened_at = 0.0
        self.settled_at: float | None = None
        self.running = False
        self.closing = False
        self.accepted: list[str] = []
        self.tasks = ()
        self.declined: set[str] = set()

    @precondition(lambda self: not self.running)
    @rule(members=st.sets(st.sampled_from(DEVICES), min_size=1), in_family=st.sets(st.sampled_from(DEVICES)))
    def candidates(self, members, in_family):
        tasks = tuple(task(d, self.number + 1, families=(FAMILY,) if d in in_family else ()) for d in sorted(members))
        rested = self.settled_at is None or self.now >= self.settled_at + RULES.interval_s
        allowed = rested and len(members) >= RULES.min_devices
        effects = self.machine.handle(CandidatesSeen(tasks), self.now)
        assert effects == ([OpenRound(self.number + 1, tasks)] if allowed else [])
        if allowed:
            self.number += 1
            self.invited = {"fallback": set(members), FAMILY: members & in_family}
            self.opened_at, self.running, self.tasks = self.now, True, tasks
            self.declined = set()

    @precondition(lambda self: self.number > 0)
    @rule(
        device=st.sampled_from(DEVICES),
        expert=st.booleans(),
        age=st.sampled_from([0] * 8 + [1, -1]),
        defect=st.sampled_from([None] * 9 + ["spec", "base", "id"]),
        bad_content=st.sampled_from([False] * 7 + [True]),
    )
    def hand_in(self, device, expert, age, defect, bad_content):
        number = max(0, self.number - age)
        family_id = FAMILY if expert else None
        message = update(device, number, family_id=family_id, **DEFECTS.get(defect, {}))
        target = target_key(message.role, family_id)
        key = (number, device, target)
        sound = (
            self.running
            and not self.closing
            and number == self.number
            and defect is None
            and not bad_content
            and device in self.invited[target]
        )
        content = "norm-bound" if bad_content else None
        effects = self.machine.handle(UpdateArrived(device, message, content), self.now)
        if key in self.sent and defect != "id" and number >= self.number - (1 if self.running else 0):
            assert effects == [RepeatReceipt(device, message.update_id)]
        elif sound:
            self.sent.add(key)
            self.accepted.append(message.update_id)
            assert effects[0] == AcceptUpdate(self.number, message)
            self.check_close(effects[1:], complete=self.all_answered())
        else:
            assert [type(effect) for effect in effects] in ([RefuseUpdate], [RepeatReceipt])
            if isinstance(effects[0], RepeatReceipt):
                assert message.update_id in self.accepted
            elif not self.running or self.closing or number != self.number:
                assert effects[0].reason == "stale-round"
            elif device not in self.invited["fallback"]:
                assert effects[0].reason == "uninvited"

    @precondition(lambda self: self.accepted)
    @rule(back=st.integers(0, 7))
    def repeat(self, back):
        """A device that missed its receipt sends again, perhaps after the round."""
        key = self.accepted[-1 - back % len(self.accepted)]
        _, digits, device, role = key.split("-")
        message = update(device, int(digits), family_id=FAMILY if role == "expert" else None)
        effects = self.machine.handle(UpdateArrived(device, message, None), self.now)
        if int(digits) >= self.number - (1 if self.running else 0):
            assert effects == [RepeatReceipt(device, key)]
        else:
            assert effects == [RefuseUpdate(device, key, "stale-round")]

    @precondition(lambda self: self.number > 0)
    @rule(device=st.sampled_from(DEVICES), age=st.sampled_from([0] * 5 + [1]))
    def decline(self, device, age):
        said = Decline(round_id=f"round-{max(0, self.number - age):06d}", device_id=device, reason="training-no-rows")
        effects = self.machine.handle(DeclineArrived(device, said), self.now)
        if not self.running or self.closing or age:
            assert effects == [NoteDecline(device, "training-no-rows", "stale-round")]
        elif device not in self.invited["fallback"]:
            assert effects == [NoteDecline(device, "training-no-rows", "uninvited")]
        elif device in self.declined:
            assert effects == []
        else:
            self.declined.add(device)
            assert effects[0] == NoteDecline(device, "training-no-rows")
            self.check_close(effects[1:], complete=self.all_answered())

    @rule(seconds=st.sampled_from([0.5, 2.0, 6.0, 12.0]))
    def wait(self, seconds):
        self.now += seconds
        effects = self.machine.handle(TimePassed(), self.now)
        due = self.running and not self.closing and self.now >= self.opened_at + RULES.deadline_s
        if due:
            self.check_close(effects, complete=True)
        else:
            assert effects == []

    @precondition(lambda self: self.closing)
    @rule()
    def settle(self):
        assert self.machine.handle(RoundSettled(self.number), self.now) == []
        self.running = self.closing = False
        self.settled_at = self.now

    @precondition(lambda self: self.running and not self.closing)
    @rule(members=st.sets(st.sampled_from(DEVICES), min_size=2), in_family=st.sets(st.sampled_from(DEVICES)))
    def turn(self, members, in_family):
        """The deadline, the results and the next round in one go: otherwise most runs never see a second round."""
        self.wait(RULES.deadline_s)
        self.settle()
        self.wait(RULES.interval_s)
        self.candidates(members, in_family)

    @precondition(lambda self: self.running and not self.closing)
    @rule(choice=st.integers(0, 31))
    def hand_in_what_was_asked_for(self, choice):
        asked = [(d, target == FAMILY) for target, devices in self.invited.items() for d in sorted(devices)]
        device, expert = asked[choice % len(asked)]
        self.hand_in(device, expert, 0, None, bad_content=False)

    @precondition(lambda self: self.running and not self.closing)
    @rule(chance=st.integers(0, 9))
    def crash(self, chance):
        """A new process reads tasks and accepted updates from the store and goes on.

        Seldom: a process that never lives for two rounds could not carry anything from one to the next.
        """
        if chance:
            return
        last = {i for i in self.accepted if i.startswith(f"round-{self.number - 1:06d}")}
        ids = {i for i in self.accepted if i.startswith(f"round-{self.number:06d}")}
        self.machine = RoundMachine(RULES, last_number=self.number, settled_ids=last)
        assert self.machine.resume(self.tasks, ids, self.now) == []
        self.opened_at = self.now
        self.declined = set()  # not stored: the retained task makes the devices say it again

    @invariant()
    def an_update_counts_once(self):
        assert len(self.accepted) == len(set(self.accepted))

    def all_answered(self):
        wanted = {(self.number, d, target) for target, devices in self.invited.items() for d in devices}
        return all(key in self.sent or key[1] in self.declined for key in wanted)

    def check_close(self, effects, *, complete):
        """Compare a round's aggregates with the history."""
        closes = [effect for effect in effects if isinstance(effect, CloseRound)]
        assert bool(closes) == complete
        if not closes:
            return
        self.closing = True
        got = {target_key(a.target.role, a.target.family_id): set(a.devices) for a in closes[0].aggregations}
        expected = {}
        for target, devices in self.invited.items():
            who = {d for n, d, t in self.sent if n == self.number and t == target} & devices
            needed = max(1, -(-len(devices) // 2)) if target == "fallback" else RULES.expert_min_updates
            if devices and len(who) >= needed:
                expected[target] = who
        assert got == expected


Rounds.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestRounds = Rounds.TestCase
