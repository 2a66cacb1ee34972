"""The situations in which methods are compared: which fleet, which attack, which methods."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from testbed.simulation.arms.table import ARMS
from testbed.simulation.bench import Bench, Budget
from testbed.simulation.fleet import Fleet
from testbed.simulation.generator import Poison, Scenario, make_fleet
from testbed.simulation.real import RealClients, load_iot23, load_kitsune, load_metered, real_fleet

ALPHAS = (0.05, 0.1, 0.3, 0.5, 1.0, 10.0)
POISONS: tuple[Poison, ...] = ("idle", "label-flip", "sign-flip", "noise", "spoof")

_ALL = tuple(ARMS)
_SOME = ("local", "fedavg", "fedadam", "ditto", "fedadam+ditto", "ours: double", "ours")
_UNDER_ATTACK = ("fedavg", "fedadam+ditto", "ours: double", "ours")
_BOTH = Scenario(concept_shift=True)


@dataclass(frozen=True, slots=True)
class Cell:
    """One situation.

    Attributes
    ----------
    name, group
        For tables; ``group`` decides which bars apply.
    arms
        Methods that run in it.
    families
        True number of families, for the oracle.
    scenario
        Of the generator; ``None`` for real clients.
    clients
        Real clients; ``None`` for generated ones.
    tuned_as
        Cell whose tuned settings hold here too.
    """

    name: str
    group: str
    arms: tuple[str, ...]
    families: int
    scenario: Scenario | None = None
    clients: RealClients | None = None
    tuned_as: str | None = None

    def bench(self, seed: int, budget: Budget) -> Bench:
        """Return a fresh bench for a seed."""
        if self.scenario is not None:
            fleet, later = make_fleet(self.scenario, seed)
            s = self.scenario
            return Bench(fleet, budget, seed, poison=s.poison, churn=s.churn, later=later)
        return Bench(self._real(seed), budget, seed)

    def _real(self, seed: int) -> Fleet:
        if self.clients is None:
            raise ValueError(f"cell {self.name} has neither a scenario nor clients")
        return real_fleet(self.clients, seed)


def generated_cells() -> list[Cell]:
    """Return the cells of the generator."""
    cells = [
        Cell("iid", "iid", _ALL, 1, Scenario(families=1, feature_shift=0.0, alpha=10.0)),
        Cell("concept a=0.5", "concept", _ALL, 5, Scenario(concept_shift=True, feature_shift=0.0)),
        Cell("concept+feature a=0.5", "concept", _ALL, 5, _BOTH),
    ]
    feature = "feature a=0.5"
    cells += [
        Cell("feature a=0.05", "feature", _ALL, 5, Scenario(alpha=0.05)),
        Cell(feature, "feature", _ALL, 5, Scenario()),
    ]
    cells += [
        Cell(f"feature a={a:g}", "feature", _SOME, 5, Scenario(alpha=a), tuned_as=feature)
        for a in ALPHAS
        if a not in {0.05, 0.5}
    ]
    cells += [
        Cell(f"concept+feature a={a:g}", "concept", _SOME, 5, replace(_BOTH, alpha=a), tuned_as="concept+feature a=0.5")
        for a in ALPHAS
        if a != _BOTH.alpha
    ]
    base = "concept+feature a=0.5"
    cells += [
        Cell("drift 30 %", "change", _SOME, 5, replace(_BOTH, drift=0.3), tuned_as=base),
        Cell("churn 30 %", "change", _SOME, 5, replace(_BOTH, churn=0.3), tuned_as=base),
    ]
    cells += [
        Cell(f"poison: {p}", "poison", _UNDER_ATTACK, 5, replace(_BOTH, poison=p, hostile=0.2), tuned_as=base)
        for p in POISONS
    ]
    return cells


def real_cells(data: Path, scratch: Path) -> list[Cell]:
    """Return the cells of real clients, from a folder with the data sets.

    Raises
    ------
    CaptureInputError, LabelsInputError, DataInputError
        If a data set is missing or damaged.
    """
    loaders: Sequence[tuple[str, Callable[[], RealClients]]] = (
        ("real: Kitsune", lambda: load_kitsune(data)),
        ("real: IoT-23", lambda: load_iot23(data)),
        ("real: MQTT testbeds", lambda: load_metered(data, scratch)),
    )
    return [Cell(name, "real", _ALL, 3, clients=load()) for name, load in loaders]
