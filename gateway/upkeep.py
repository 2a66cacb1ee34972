"""Families between two searches: who is asked about whose expert, and what follows from the answers. No I/O.

Every ``check_every`` rounds the members that are there are asked how the experts of up to three near families do on
their validation rows. When the next round has ended the answers are looked at: families whose experts serve each
other's members merge, and a device that another expert serves clearly better moves. A family with too few members
there ends. Streaks live in memory: a gateway that starts over looks as often again before it acts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from contract.messages import EvaluationRequest, LossReport
from contract.model import ModelId
from gateway.families import Decision, FamilyBook, FamilyEffect
from gateway.lifecycle import (
    Dissolved,
    LifeRules,
    Losses,
    Merged,
    Moved,
    Offer,
    Streaks,
    check_merges,
    check_move,
    check_sizes,
)
from gateway.registry import Refused, Registry

_NEAREST = 3


@dataclass(frozen=True, slots=True)
class AskLosses:
    """Ask a device about experts; not stored, since the next check asks again."""

    request: EvaluationRequest


@dataclass(frozen=True, slots=True)
class Answer:
    """Losses on the rows of a member of ``family_id``, by family, and what the other experts would do for it."""

    family_id: str
    rows: int
    losses: dict[str, float]
    offers: tuple[Offer, ...]


class Upkeep:
    """The life of families between two searches.

    Parameters
    ----------
    rules
        When families change.
    check_every
        Rounds between two checks, 0 = none.
    registry, book
        Who is there, and who belongs where; decisions change the book.
    """

    def __init__(self, rules: LifeRules, check_every: int, registry: Registry, book: FamilyBook) -> None:
        self._rules = rules
        self._check_every = check_every
        self._registry = registry
        self._book = book
        self._streaks = Streaks()
        self._asked: dict[str, EvaluationRequest] = {}
        self._answers: dict[str, Answer] = {}

    def after_round(self, number: int, experts: Mapping[str, str]) -> list[FamilyEffect | AskLosses]:
        """Look at answers, end what is too small, and ask anew if it is time.

        Parameters
        ----------
        number
            The round that ended.
        experts
            Digest of the expert by family.
        """
        if not any(not family.shared for family in self._book.families.values()):
            self._forget()
            return []
        effects: list[FamilyEffect | AskLosses] = []
        if self._asked:
            effects += self._judge(number)
        effects += self._dissolve(number)
        if self._check_every and number % self._check_every == 0:
            effects += self._ask(number, experts)
        return effects

    def answered(self, report: LossReport) -> list[Refused]:
        """Take an answer; one to another question, or about other models, is refused."""
        device_id = report.device_id
        request = self._asked.get(device_id)
        if request is None or request.request != report.request:
            return [Refused(device_id, "losses", "unasked")]
        if report.reason != "measured":
            return [Refused(device_id, "losses", report.reason)]
        if tuple(loss.model for loss in report.losses) != request.models:
            return [Refused(device_id, "losses", "other-models")]
        family = self._book.family_of(device_id)
        first = report.losses[0].model.family_id
        if family is None or first != family.family_id:
            return [Refused(device_id, "losses", "moved-since")]
        by_family = {str(loss.model.family_id): loss.loss for loss in report.losses}
        offers = tuple(Offer(str(loss.model.family_id), loss.gain, loss.z) for loss in report.losses[1:])
        self._answers[device_id] = Answer(family.family_id, report.rows, by_family, offers)
        return []

    def _forget(self) -> None:
        self._asked.clear()
        self._answers.clear()

    def _ask(self, number: int, experts: Mapping[str, str]) -> list[FamilyEffect | AskLosses]:
        asked: list[FamilyEffect | AskLosses] = []
        for device_id, device in sorted(self._registry.devices.items()):
            family = self._book.family_of(device_id)
            if family is None or not device.can_train or family.family_id not in experts:
                continue
            near = [f for f in self._nearest(family.family_id) if f in experts][:_NEAREST]
            if not near:
                continue
            models = [
                ModelId(role="expert", family_id=family_id, digest=experts[family_id])
                for family_id in (family.family_id, *near)
            ]
            request = EvaluationRequest(device_id=device_id, request=number, models=tuple(models))
            self._asked[device_id] = request
            asked.append(AskLosses(request))
        return asked

    def _nearest(self, family_id: str) -> list[str]:
        """Return the other families with members of their own, by the distance of their middles."""
        middle = self._book.families[family_id].centroid
        others = [f for f in self._book.families.values() if f.family_id != family_id and not f.shared]
        return [
            f.family_id for f in sorted(others, key=lambda f: (float(np.linalg.norm(f.centroid - middle)), f.family_id))
        ]

    def _judge(self, number: int) -> list[FamilyEffect | AskLosses]:
        """Merge and move by the answers to the last questions; without any answer nothing is concluded."""
        effects: list[FamilyEffect | AskLosses] = []
        sizes = {family_id: len(members) for family_id, members in self._book.members().items()}
        self._streaks, merged = check_merges(cross_losses(self._answers.values()), sizes, self._streaks, self._rules)
        for merge in merged:
            effects += self._merge(merge, number)
        for device_id, answer in sorted(self._answers.items()):
            family = self._book.family_of(device_id)
            if family is None or family.family_id != answer.family_id:
                continue
            best = max(answer.offers, key=lambda offer: offer.gain, default=None)
            self._streaks, move = check_move(device_id, family.family_id, best, self._streaks, self._rules)
            if move is not None and move.family_id in self._book.families:
                effects += self._move(move, number)
        self._forget()
        return effects

    def _merge(self, merge: Merged, number: int) -> list[FamilyEffect]:
        return self._book.end_family(merge.gone, merge.kept, ("merged", merge.reason), number, self._registry.vectors)

    def _move(self, move: Moved, number: int) -> list[FamilyEffect]:
        return self._book.decide(Decision(move.device_id, move.family_id, "moved", move.reason, number))

    def _dissolve(self, number: int) -> list[FamilyEffect]:
        devices = self._registry.devices
        live = {
            family_id: sum(1 for d in members if d in devices and devices[d].can_train)
            for family_id, members in self._book.members().items()
            if not self._book.families[family_id].shared
        }
        self._streaks, ended = check_sizes(live, self._streaks, self._rules)
        effects: list[FamilyEffect] = []
        for end in ended:
            effects += self._end(end, number)
        return effects

    def _end(self, end: Dissolved, number: int) -> list[FamilyEffect]:
        return self._book.end_family(end.family_id, None, ("dissolved", end.reason), number, {})


def cross_losses(answers: Iterable[Answer]) -> Losses:
    """Return the mean loss of each family's expert on the members of each family, weighted by rows."""
    sums: dict[str, dict[str, tuple[float, int]]] = {}
    for answer in answers:
        row = sums.setdefault(answer.family_id, {})
        for family_id, loss in answer.losses.items():
            total, rows = row.get(family_id, (0.0, 0))
            row[family_id] = (total + answer.rows * loss, rows + answer.rows)
    return {a: {b: total / rows for b, (total, rows) in row.items() if rows} for a, row in sums.items()}
