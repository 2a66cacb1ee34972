"""Seeded fleets with known families: feature shift, label skew, concept shift, outliers, hostile devices, drift.

A device's benign traffic is a mixture of modes; a family shifts and scales it. An attack class is an offset from the
benign traffic in some of the features; under concept shift each family has its own assignment of offsets to classes,
so that what is a scan here looks like a flood there. Half of a device's rows are benign, as a baseline window would
give; the others are attacks in proportions drawn from a Dirichlet distribution. A class below three per cent of the
rows is not on the device at all: a share that cannot be judged on validation rows says nothing about a method.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from contract.layout import Layout
from testbed.simulation.fleet import Fleet, Share
from testbed.simulation.net import Floats, Labels

Poison = Literal["none", "idle", "label-flip", "sign-flip", "noise", "spoof"]
"""``idle``: the hostile devices are marked, hence left out of the figures, but behave."""
Vector = npt.NDArray[np.float64]

INPUTS = 20
CLASSES = 8
_MODES = 3
_JUDGED = {"validation": 200, "test": 300}
_LEAST_SHARE = 0.025
_TOP = 3.0
_OFFSET = 0.6
_MODE_OFFSET = 0.2
_SHIFT = 0.2


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a generated fleet is like.

    Attributes
    ----------
    devices, families
        How many; ``families`` = 1 means no structure.
    feature_shift
        Size of the families' shift of benign traffic; 0 = none.
    concept_shift
        Whether attacks look different by family.
    alpha
        Of the Dirichlet distribution of attack classes on a device.
    outliers
        Share of devices with a shift, and a concept if there is concept shift, of their own.
    poison, hostile
        What hostile devices do, and their share in every family.
    drift
        Share of devices that behave like another family after the middle of the run.
    churn
        Share of devices that miss a round.
    difficulty
        Spread of rows around their mode.
    rows
        Training rows of a device.
    """

    devices: int = 60
    families: int = 5
    feature_shift: float = 1.0
    concept_shift: bool = False
    alpha: float = 0.5
    outliers: float = 0.1
    poison: Poison = "none"
    hostile: float = 0.0
    drift: float = 0.0
    churn: float = 0.0
    difficulty: float = 0.33
    rows: int = 100


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """How traffic of one family looks: shift and scale of everything, offset of every class and mode."""

    shift: Vector
    scale: Vector
    offsets: Vector


def make_fleet(scenario: Scenario, seed: int) -> tuple[Fleet, Fleet | None]:
    """Generate a fleet.

    Parameters
    ----------
    scenario
        What it is like.
    seed
        The same seed gives the same fleet.

    Returns
    -------
    Fleet, Fleet or None
        The fleet, and the same devices after the drift if the scenario has one.
    """
    rng = np.random.default_rng([seed, 11])
    modes = 1.5 + 0.35 * rng.normal(size=(_MODES, INPUTS))
    base = _offsets(rng)
    family = _families(scenario, rng)
    looks = {f: _look(scenario, base, f, rng) for f in range(scenario.families)}
    own = [_look(scenario, base, 1 + i, rng) for i in range(scenario.devices)]
    shares = np.stack([_class_shares(scenario.alpha, rng) for _ in range(scenario.devices)])
    jitter = 0.05 * rng.normal(size=(scenario.devices, INPUTS))
    hostile = _hostile(family, scenario, rng)
    chosen = [own[i] if f < 0 else looks[int(f)] for i, f in enumerate(family)]
    before = _fleet(scenario, chosen, modes, shares, jitter, family, hostile, rng)
    if not scenario.drift:
        return before, None
    moved = family.copy()
    insiders = np.flatnonzero(family >= 0)
    for i in np.sort(rng.choice(insiders, round(scenario.drift * len(insiders)), replace=False)):
        moved[i] = (family[i] + 1 + rng.integers(0, scenario.families - 1)) % scenario.families
    chosen = [own[i] if f < 0 else looks[int(f)] for i, f in enumerate(moved)]
    return before, _fleet(scenario, chosen, modes, shares, jitter, moved, hostile, rng)


def _fleet(  # noqa: PLR0917 - the parts of one fleet, used twice
    scenario: Scenario,
    looks: list[_Look],
    modes: Vector,
    shares: Vector,
    jitter: Vector,
    family: npt.NDArray[np.int64],
    hostile: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> Fleet:
    made: dict[str, Share] = {}
    for name, rows in {"train": scenario.rows, **_JUDGED}.items():
        x = np.empty((scenario.devices, rows, INPUTS), dtype=np.float32)
        y = np.empty((scenario.devices, rows), dtype=np.int32)
        for i, look in enumerate(looks):
            y[i] = _labels(shares[i], rows, rng)
            x[i] = _rows(look, modes, y[i], jitter[i], scenario.difficulty, rng)
        if name == "train" and scenario.poison == "label-flip":
            y[hostile] = 0
        made[name] = Share(x, y)
    layout = Layout(INPUTS, CLASSES, (32,), 32)
    names = tuple(f"device-{i:03d}" for i in range(scenario.devices))
    return Fleet(layout, made["train"], made["validation"], made["test"], family, hostile, names)


def _offsets(rng: np.random.Generator) -> Vector:
    """Return the offset of each class in each mode, shape ``(K, modes, D)``; benign has none."""
    result = np.zeros((CLASSES, _MODES, INPUTS))
    for c in range(1, CLASSES):
        main = _OFFSET * _some(rng)
        for mode in range(_MODES):
            result[c, mode] = main + _MODE_OFFSET * _some(rng)
    return result


def _some(rng: np.random.Generator) -> Vector:
    """Return a vector that is not zero in a third of the features."""
    result = np.zeros(INPUTS)
    touched = rng.choice(INPUTS, INPUTS // 3, replace=False)
    result[touched] = rng.choice([-1.0, 1.0], len(touched)) * (0.6 + 0.8 * rng.random(len(touched)))
    return result


def _look(scenario: Scenario, base: Vector, number: int, rng: np.random.Generator) -> _Look:
    shift = scenario.feature_shift * _SHIFT * rng.normal(size=INPUTS)
    scale = np.exp(scenario.feature_shift * 0.15 * rng.normal(size=INPUTS))
    offsets = base.copy()
    if scenario.concept_shift and number:
        order = np.arange(1, CLASSES)
        while (order == np.arange(1, CLASSES)).any():  # no class may look as it does in family 0
            order = rng.permutation(np.arange(1, CLASSES))
        offsets[1:] = base[order]
    return _Look(shift, scale, offsets)


def _families(scenario: Scenario, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    lonely = round(scenario.outliers * scenario.devices) if scenario.families > 1 else 0
    family = np.arange(scenario.devices) % scenario.families
    family[scenario.devices - lonely :] = -1
    return rng.permutation(family)


def _hostile(family: npt.NDArray[np.int64], scenario: Scenario, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    result = np.zeros(len(family), dtype=np.bool_)
    if scenario.poison != "none":
        for f in range(scenario.families):
            members = np.flatnonzero(family == f)
            result[rng.choice(members, int(scenario.hostile * len(members)), replace=False)] = True
    return result


def _class_shares(alpha: float, rng: np.random.Generator) -> Vector:
    attacks = rng.dirichlet(np.full(CLASSES - 1, alpha)) * 0.5
    attacks[attacks < _LEAST_SHARE] = 0.0
    return np.concatenate([[0.5], attacks * (0.5 / attacks.sum())])


def _labels(shares: Vector, rows: int, rng: np.random.Generator) -> Labels:
    """Return labels in the same proportions for every share of the rows: largest remainders, no drawing."""
    exact = shares * rows
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: rows - counts.sum()]] += 1
    return rng.permutation(np.repeat(np.arange(CLASSES), counts)).astype(np.int32)


def _rows(look: _Look, modes: Vector, y: Labels, jitter: Vector, spread: float, rng: np.random.Generator) -> Floats:
    of = rng.integers(0, len(modes), len(y))
    mode = modes[of]
    x = (
        (mode - 1.5 + look.offsets[y, of] + spread * rng.normal(size=mode.shape)) * look.scale
        + 1.5
        + look.shift
        + jitter
    )
    return np.clip(x, 0.0, _TOP).astype(np.float32)
