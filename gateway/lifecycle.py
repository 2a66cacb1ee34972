"""How families change between two searches: merge, dissolve, move, drift. Pure rules; every outcome has a reason.

A single look proves little, so every rule wants the same answer several times in a row. What was seen so far is passed
in and out as a value.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations

Losses = Mapping[str, Mapping[str, float]]
"""``losses[a][b]``: mean validation loss of family ``b``'s expert on the members of family ``a``."""


@dataclass(frozen=True, slots=True)
class LifeRules:
    """When families change.

    Attributes
    ----------
    merge_gap, merge_checks
        Two families merge if each other's expert costs less than this share of the own loss more, so often in a row.
    min_live, dissolve_rounds
        A family with fewer members that are there, for so many rounds in a row, ends.
    move_gain, move_z, move_checks
        A device moves if another expert saves this share of its loss at this z, so often in a row.
    drift_share, silhouette_drop, rounds_apart
        All families are looked for again if more than this share of the devices drifted or the separation fell by this
        share, but not sooner than so many rounds after the last time.
    alarm_share
        A device that alerts on more than this share of its flows is under attack, not drifting.
    """

    merge_gap: float = 0.05
    merge_checks: int = 3
    min_live: int = 3
    dissolve_rounds: int = 3
    move_gain: float = 0.30
    move_z: float = 2.0
    move_checks: int = 2
    drift_share: float = 0.20
    silhouette_drop: float = 0.25
    rounds_apart: int = 10
    alarm_share: float = 0.05


@dataclass(frozen=True, slots=True)
class Streaks:
    """How often in a row something was seen.

    Attributes
    ----------
    merges, small, moves
        By pair of families; by family; by device and the family it would move to.
    """

    merges: Mapping[tuple[str, str], int] = field(default_factory=dict)
    small: Mapping[str, int] = field(default_factory=dict)
    moves: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Merged:
    """``gone`` becomes part of ``kept``, whose expert goes on."""

    kept: str
    gone: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dissolved:
    """A family ends; the fallback serves its members."""

    family_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Moved:
    """A device goes to another family."""

    device_id: str
    family_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What another family's expert would do for a device.

    Attributes
    ----------
    family_id
        The other family.
    gain, z
        Share of the loss it saves against the device's own expert, and the gain in standard errors.
    """

    family_id: str
    gain: float
    z: float


def check_merges(
    losses: Losses, sizes: Mapping[str, int], seen: Streaks, rules: LifeRules
) -> tuple[Streaks, list[Merged]]:
    """Merge families whose experts serve each other's members as well as their own.

    Parameters
    ----------
    losses
        Cross losses; a pair that was not measured keeps its count.
    sizes
        Members by family: the larger one keeps its id.
    seen, rules
        Earlier checks, and when to act. A family takes part in one merge a check.
    """
    counts = dict(seen.merges)
    merged: list[Merged] = []
    busy: set[str] = set()
    for a, b in combinations(sorted(losses), 2):
        if b not in losses[a] or a not in losses[b] or a not in losses[a] or b not in losses[b]:
            continue
        own = max(losses[a][a], losses[b][b])
        gap = max(losses[a][b] - losses[a][a], losses[b][a] - losses[b][b])
        count = counts.get((a, b), 0) + 1 if gap < rules.merge_gap * own else 0
        counts[a, b] = count
        if count >= rules.merge_checks and not {a, b} & busy:
            kept, gone = sorted((a, b), key=lambda family_id: (-sizes.get(family_id, 0), family_id))
            reason = f"the experts of {kept} and {gone} serve each other's members: {gap:.3f} more loss, own {own:.3f}"
            merged.append(Merged(kept, gone, reason))
            busy |= {a, b}
    left = {pair: n for pair, n in counts.items() if n and not set(pair) & {m.gone for m in merged}}
    return replace(seen, merges=left), merged


def check_sizes(live: Mapping[str, int], seen: Streaks, rules: LifeRules) -> tuple[Streaks, list[Dissolved]]:
    """End families that are too small for too long; ``live`` counts the members that are there."""
    counts = {f: seen.small.get(f, 0) + 1 for f, n in live.items() if n < rules.min_live}
    ended = [
        Dissolved(f, f"{live[f]} members there for {n} rounds, {rules.min_live} are needed; the fallback serves them")
        for f, n in sorted(counts.items())
        if n >= rules.dissolve_rounds
    ]
    return replace(seen, small={f: n for f, n in counts.items() if n < rules.dissolve_rounds}), ended


def check_move(
    device_id: str, current: str, offer: Offer | None, seen: Streaks, rules: LifeRules
) -> tuple[Streaks, Moved | None]:
    """Move a device if the same other expert was clearly better often enough in a row.

    Parameters
    ----------
    device_id, current
        The device and its family.
    offer
        The best other expert of this check, ``None`` if none was better.
    seen, rules
        Earlier checks, and when to act.
    """
    others = {pair: n for pair, n in seen.moves.items() if pair[0] != device_id}
    good = offer is not None and offer.gain >= rules.move_gain and offer.z >= rules.move_z
    if offer is None or not good or offer.family_id == current:
        return replace(seen, moves=others), None
    count = seen.moves.get((device_id, offer.family_id), 0) + 1
    if count < rules.move_checks:
        return replace(seen, moves={**others, (device_id, offer.family_id): count}), None
    reason = (
        f"the expert of {offer.family_id} saves {offer.gain:.0%} of the loss that {current}'s has, "
        f"z {offer.z:.1f}, {count} checks in a row"
    )
    return replace(seen, moves=others), Moved(device_id, offer.family_id, reason)


def search_again(
    *,
    drifted: int,
    devices: int,
    silhouettes: tuple[float, float] | None,
    gate_changed: bool,
    rounds_since: int,
    rules: LifeRules,
) -> str | None:
    """Return why all families should be looked for again, ``None`` to leave them and re-assign drifted devices only.

    Parameters
    ----------
    drifted, devices
        Devices whose benign traffic changed since the last search, of all.
    silhouettes
        Separation at the last search and now, if both are known.
    gate_changed
        Whether the gate would decide differently now.
    rounds_since
        Rounds since the last search.
    rules
        Thresholds.
    """
    if rounds_since < rules.rounds_apart:
        return None
    if devices and drifted > rules.drift_share * devices:
        return f"{drifted} of {devices} devices drifted"
    if silhouettes is not None and silhouettes[1] < (1.0 - rules.silhouette_drop) * silhouettes[0]:
        return f"separation fell from {silhouettes[0]:.2f} to {silhouettes[1]:.2f}"
    return "the gate decides differently" if gate_changed else None
