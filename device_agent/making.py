"""What a device makes for itself when no round task is there, and when it is worth making. A core without I/O.

The sketch of the signature is made once per anchor. The upper rungs of the ladder are made only where they could be
judged: with enough validation rows and attacks among them, since on benign rows alone the model wins that never
raises an alert. A member of a family whose expert has seen attacks that the device has not would lose those, and no
row of its own could tell: it fine-tunes over its own classes, which leaves what the model knows of others as it is, and
makes no model from the start. The fine-tuned model starts from what the device is assigned, and anew at most every two
assignments; the local model starts from the factory weights, and anew when the rows have grown by half.
"""

from collections.abc import Container
from dataclasses import dataclass, replace

from contract.model import ModelId
from device_agent.events import RowsCounted
from device_agent.facts import Facts, Job, JobKind
from device_agent.ladder import MIN_CLASS_ROWS, MIN_ROWS
from device_agent.rungs import KEEP_ROUNDS

_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class Due:
    """A training that is due, the digest of the model it starts from, and whether it is over the own classes alone."""

    kind: JobKind
    base: str
    own_classes: bool = False


def next_made(facts: Facts, rows: RowsCounted, *, factory: ModelId, sketches: bool) -> Due | None:
    """Return what is due next, ``None`` if nothing is.

    Parameters
    ----------
    facts
        What was made already, and the assignment.
    rows
        State of the sample buffer.
    factory
        Where the local model starts.
    sketches
        Whether a sketch may be made now.
    """
    anchor = wanted_anchor(facts) if sketches else None
    if anchor is not None:
        return Due("sketch", anchor)
    assignment = facts.assignment
    default = None if assignment is None else assignment.expert or assignment.fallback
    in_use = facts.active is not None and facts.active.role != "factory"
    if assignment is None or default is None or not in_use:
        return None
    if rows.validation < MIN_ROWS or rows.attacks < MIN_CLASS_ROWS:
        return None
    all_seen = covered(facts, rows)
    aged = not facts.tuned_base or assignment.version - facts.tuned_version >= KEEP_ROUNDS
    forgetful = not all_seen and not facts.tuned_own_classes
    if (facts.tuned_base != default.digest and aged) or (facts.tuned_base and forgetful):
        return Due("fine-tuned", default.digest, own_classes=not all_seen)
    return Due("local", factory.digest) if all_seen and rows.train >= max(1.0, _GROWTH * facts.local_rows) else None


def usable_rungs(facts: Facts, rows: RowsCounted) -> tuple[ModelId, ...]:
    """Return the device's own models that know as much as the assigned ones do of attacks it has not seen."""
    if covered(facts, rows):
        return facts.rungs
    return tuple(model for model in facts.rungs if model.role == "fine-tuned" and facts.tuned_own_classes)


def covered(facts: Facts, rows: RowsCounted) -> bool:
    """Return whether the device has seen every attack class that its family has; one without a family always has."""
    return facts.assignment is None or rows.classes.issuperset(facts.assignment.classes)


def note_made(facts: Facts, job: Job, rows: RowsCounted) -> Facts:
    """Return the facts after a training ended."""
    if job.kind == "sketch":
        return replace(facts, sketched=job.base)
    if job.kind == "local":
        return replace(facts, local_rows=rows.train)
    version = facts.assignment.version if facts.assignment is not None else 0
    return replace(facts, tuned_base=job.base, tuned_version=version, tuned_own_classes=job.own_classes)


def wanted_anchor(facts: Facts) -> str | None:
    """Return the anchor at which a sketch is still to be made."""
    anchor = None if facts.assignment is None or facts.private else facts.assignment.anchor
    return None if anchor == facts.sketched else anchor


def forget_missing_rungs(facts: Facts, held: Container[str]) -> Facts:
    """Return facts without rungs whose weights are gone, so that they are made again."""
    there = tuple(model for model in facts.rungs if model.digest in held)
    roles = {model.role for model in there}
    return replace(
        facts,
        rungs=there,
        tuned_base=facts.tuned_base if "fine-tuned" in roles else "",
        local_rows=facts.local_rows if "local" in roles else 0,
    )
