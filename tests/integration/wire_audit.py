"""What was said on the wire against what was counted: evidence in, a list of violations out.

``Evidence`` holds what an ear at the broker heard, what the devices' own logs and stores say, and what the gateway's
store says. ``audit`` compares them. ``PLANTED`` holds damages that ``audit`` must find in evidence that is sound: an
auditor that overlooks one proves nothing.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import NamedTuple


class Sent(NamedTuple):
    """An update as it was heard whole at the broker, in one piece or in chunks."""

    device: str
    base: str
    rows: int
    digest: str


class Word(NamedTuple):
    """A receipt as it was heard."""

    device: str
    key: str
    accepted: bool


class Stored(NamedTuple):
    """A row of the gateway's updates."""

    key: str
    number: int
    device: str
    base: str
    rows: int


class Round(NamedTuple):
    """A row of the gateway's rounds; seconds since the epoch by a clock that was stepped."""

    number: int
    state: str
    reason: str
    opened_s: float
    closed_s: float | None


class Result(NamedTuple):
    """What the gateway says that it aggregated."""

    number: int
    target: str
    devices: tuple[str, ...]
    clients: float | None


class Assigned(NamedTuple):
    """Version and model digests of an assignment."""

    version: int
    digests: frozenset[str]


class Active(NamedTuple):
    """The assignment that a device followed, and the model it uses."""

    version: int
    digest: str


@dataclass
class Evidence:
    """Everything an audit rests on.

    Attributes
    ----------
    heard, receipts, told, active
        By the ear: updates by id, receipts in order, the newest assignment and active model of every device.
    trained, waiting
        By the devices: updates that their logs name, updates in their outboxes.
    stored, rounds, results, invited, assignments
        By the gateway's store.
    ended_alone
        Agents whose process ended by itself.
    """

    heard: dict[str, Sent | None] = field(default_factory=dict)
    receipts: list[Word] = field(default_factory=list)
    told: dict[str, Assigned] = field(default_factory=dict)
    active: dict[str, Active] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    stored: list[Stored] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    invited: set[tuple[int, str]] = field(default_factory=set)
    assignments: dict[str, Assigned] = field(default_factory=dict)
    ended_alone: list[str] = field(default_factory=list)


def audit(evidence: Evidence, *, rounds: int, longest_round_s: float) -> list[str]:
    """Return what is wrong.

    Parameters
    ----------
    evidence
        What is known.
    rounds
        How many there must be at least.
    longest_round_s
        A round that took longer did not end by rule.
    """
    return [
        *_counted(evidence),
        *_aggregated(evidence),
        *_ended(evidence, rounds, longest_round_s),
        *_converged(evidence),
        *(f"{name} ended by itself" for name in evidence.ended_alone),
    ]


def _counted(evidence: Evidence) -> list[str]:
    keys = [row.key for row in evidence.stored]
    stored = set(keys)
    accepted = {word.key for word in evidence.receipts if word.accepted}
    refused = {word.key for word in evidence.receipts if not word.accepted}
    wrong = [f"stored twice: {key}" for key in sorted(stored) if keys.count(key) > 1]
    wrong += [f"acknowledged and lost: {key}" for key in sorted(accepted - stored)]
    wrong += [f"counted but never trained by its device: {key}" for key in sorted(stored - evidence.trained)]
    for row in evidence.stored:
        sent = evidence.heard.get(row.key)
        if sent is not None and (sent.device, sent.base, sent.rows) != (row.device, row.base, row.rows):
            wrong.append(f"counted otherwise than sent: {row.key}")
    for word in evidence.receipts:
        if f"-{word.device}-" not in word.key and not word.key.startswith("report-"):
            wrong.append(f"{word.device} got the receipt of {word.key}")
    # A job that was cancelled, or whose process died before the outbox had it, was never an update.
    lost = (evidence.trained & set(evidence.heard)) - stored - refused - evidence.waiting
    return wrong + [f"sent, not stored, not refused, not waiting: {key}" for key in sorted(lost)]


def _aggregated(evidence: Evidence) -> list[str]:
    wrong: list[str] = []
    senders: dict[int, set[str]] = {}
    for row in evidence.stored:
        senders.setdefault(row.number, set()).add(row.device)
    for number, target, devices, clients in evidence.results:
        if len(devices) != len(set(devices)):
            wrong.append(f"round {number} {target}: a device counts twice: {devices}")
        if clients is not None and clients != len(set(devices)):
            wrong.append(f"round {number} {target}: {clients:g} updates of {len(set(devices))} devices")
        for device in sorted(set(devices)):
            if (number, device) not in evidence.invited:
                wrong.append(f"round {number}: {device} counts and was not invited")
            if device not in senders.get(number, set()):
                wrong.append(f"round {number}: {device} counts and nothing of it is stored")
    return wrong


def _ended(evidence: Evidence, rounds: int, longest_round_s: float) -> list[str]:
    wrong = [f"round {r.number} is {r.state}" for r in evidence.rounds if r.state not in ("closed", "expired")]
    if len(evidence.rounds) < rounds:
        wrong.append(f"{len(evidence.rounds)} of at least {rounds} rounds")
    took = {r.number: r.closed_s - r.opened_s for r in evidence.rounds if r.closed_s is not None}
    return wrong + [f"round {n} took {seconds:.0f} s" for n, seconds in took.items() if seconds > longest_round_s]


def _converged(evidence: Evidence) -> list[str]:
    wrong: list[str] = []
    for device, assigned in sorted(evidence.assignments.items()):
        told, active = evidence.told.get(device), evidence.active.get(device)
        if told != assigned:
            wrong.append(f"{device} was told {told}, the gateway means {assigned}")
        if active is None or active.version != assigned.version or active.digest not in assigned.digests:
            wrong.append(f"{device} uses {active}, it was assigned {assigned}")
    return wrong


def _key(evidence: Evidence) -> str:
    accepted = {word.key for word in evidence.receipts if word.accepted}
    return min(row.key for row in evidence.stored if row.key in accepted)


def _duplicate_row(evidence: Evidence) -> None:
    evidence.stored.append(next(row for row in evidence.stored if row.key == _key(evidence)))


def _counted_twice(evidence: Evidence) -> None:
    index, found = next((i, r) for i, r in enumerate(evidence.results) if r.devices)
    evidence.results[index] = found._replace(devices=(*found.devices, found.devices[0]))


def _one_client_more(evidence: Evidence) -> None:
    index, found = next((i, r) for i, r in enumerate(evidence.results) if r.devices)
    evidence.results[index] = found._replace(clients=len(found.devices) + 1.0)


def _lost_acknowledged(evidence: Evidence) -> None:
    key = _key(evidence)
    evidence.stored = [row for row in evidence.stored if row.key != key]


def _lost_unanswered(evidence: Evidence) -> None:
    key = _key(evidence)
    evidence.stored = [row for row in evidence.stored if row.key != key]
    evidence.receipts = [word for word in evidence.receipts if word.key != key]
    evidence.heard.setdefault(key, None)


def _forged(evidence: Evidence) -> None:
    evidence.trained.discard(_key(evidence))


def _other_content(evidence: Evidence) -> None:
    key = next(row.key for row in evidence.stored if evidence.heard.get(row.key) is not None)
    evidence.stored = [row._replace(rows=row.rows + 1) if row.key == key else row for row in evidence.stored]


def _uninvited(evidence: Evidence) -> None:
    found = next(r for r in evidence.results if r.devices)
    evidence.invited.discard((found.number, found.devices[0]))


def _wrong_assignment(evidence: Evidence) -> None:
    device = min(evidence.assignments)
    evidence.assignments[device] = evidence.assignments[device]._replace(digests=frozenset({"0" * 64}))


def _wrong_model(evidence: Evidence) -> None:
    device = min(evidence.active)
    evidence.active[device] = evidence.active[device]._replace(digest="0" * 64)


def _older_assignment(evidence: Evidence) -> None:
    device = min(evidence.active)
    evidence.active[device] = evidence.active[device]._replace(version=evidence.active[device].version - 1)


def _never_ended(evidence: Evidence) -> None:
    evidence.rounds[0] = evidence.rounds[0]._replace(state="open")


def _endless(evidence: Evidence) -> None:
    evidence.rounds[0] = evidence.rounds[0]._replace(closed_s=evidence.rounds[0].opened_s + 1e6)


PLANTED: dict[str, Callable[[Evidence], None]] = {
    "an update is stored twice": _duplicate_row,
    "a device is counted twice in a round": _counted_twice,
    "the aggregation had one update more": _one_client_more,
    "an acknowledged update is lost": _lost_acknowledged,
    "an update is lost without a word": _lost_unanswered,
    "an update counts that no device trained": _forged,
    "an update counts with other content": _other_content,
    "a device counts uninvited": _uninvited,
    "a device was told another assignment": _wrong_assignment,
    "a device uses another model": _wrong_model,
    "a device follows an older assignment": _older_assignment,
    "a round never ends": _never_ended,
    "a round takes too long": _endless,
}


def plant_each(evidence: Evidence, *, rounds: int, longest_round_s: float) -> dict[str, bool]:
    """Return for every damage whether ``audit`` finds it in a copy of the evidence that it adds nothing else to."""
    before = set(audit(evidence, rounds=rounds, longest_round_s=longest_round_s))
    found = {}
    for name, damage in PLANTED.items():
        copy = deepcopy(evidence)
        damage(copy)
        found[name] = bool(set(audit(copy, rounds=rounds, longest_round_s=longest_round_s)) - before)
    return found
