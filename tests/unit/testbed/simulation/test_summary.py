"""Means, intervals, bars, and the sweep that makes them."""

from dataclasses import replace

import pytest

from testbed.simulation.bench import Budget
from testbed.simulation.cells import Cell, generated_cells
from testbed.simulation.generator import Scenario
from testbed.simulation.measures import Figures
from testbed.simulation.summary import bars, difference, interval, summarise, table
from testbed.simulation.sweep import CellResult, SweepSettings, run_sweep

PLAIN = Figures(0.8, 0.6, 0.7, 0.8, 0.8, 12.0, 0.1, None, 0, None, 10.0, 1e3, 1e3, 0.1, 0.1, {})


def result(name, group, **f1):
    runs = {
        arm: [replace(PLAIN, f1=v, worst_decile=v - 0.1, outlier_f1=v) for v in values] for arm, values in f1.items()
    }
    return CellResult(Cell(name, group, tuple(runs), 1), {arm: {} for arm in runs}, runs)


def test_intervals_and_differences_are_students():
    """Mean 0.8, standard deviation 0.1 of three: half width 4.303 * 0.1 / sqrt(3)."""
    one = result("x", "iid", ours=(0.7, 0.8, 0.9), fedadam=(0.6, 0.7, 0.8))
    found = interval(one.runs["ours"], "f1")
    assert found == pytest.approx({"mean": 0.8, "half_width": 0.2484}, abs=1e-3)
    assert difference(one, "ours", "fedadam") == pytest.approx((0.1, 0.0))
    assert interval(one.runs["ours"], "ari") is None


def test_bars_are_met_and_missed_for_what_they_say():
    arms = {"ours": (0.90, 0.92), "fedadam": (0.91, 0.93), "local": (0.80, 0.80), "fedavg": (0.60, 0.60)}
    arms["fedadam+ditto"] = (0.85, 0.85)
    found = bars([result("iid", "iid", **arms), result("concept+feature a=1", "concept", **arms)])
    assert not found["iid: ours minus FedAdam"].ok
    assert found["iid: ours minus FedAdam"].value == pytest.approx(-0.01)
    assert not found["concept+feature a=1: ours minus FedAdam+Ditto"].ok
    assert found["concept+feature a=1: ours minus FedAvg"].ok
    assert found["concept+feature a=1: worst tenth, ours minus FedAvg"].ok


def test_what_poison_costs_is_measured_against_the_same_fleet_at_peace():
    clean = result("poison: idle", "poison", ours=(0.90, 0.90))
    found = bars(
        [
            clean,
            result("poison: noise", "poison", ours=(0.89, 0.89)),
            result("poison: spoof", "poison", ours=(0.8, 0.8)),
        ]
    )
    assert found["poison: noise: lost by ours"].ok
    assert found["poison: spoof: lost by ours"].value == pytest.approx(0.1)
    assert not found["poison: spoof: lost by ours"].ok


def test_real_clients_are_compared_with_the_best_method_that_is_not_ours():
    arms = {"ours": (0.9, 0.9), "ours: double": (0.99, 0.99), "local": (0.95, 0.95), "fedper": (0.8, 0.88)}
    found = bars([result("real: x", "real", **arms)])
    assert found["real: x: ours minus the best other federated arm (fedper)"].value == pytest.approx(0.06)


def test_seeds_for_tuning_are_never_reported():
    with pytest.raises(ValueError, match="both for tuning and for reporting"):
        run_sweep([], SweepSettings(seeds=(1, 2), tuning_seeds=(2,)))


def test_a_sweep_is_deterministic_whatever_the_number_of_processes():
    """All figures but CPU times are equal to the last digit."""
    scenario = Scenario(devices=16, families=2, concept_shift=True)
    cells = [Cell("small", "concept", ("local", "fedavg", "ours"), 2, scenario)]
    budget = Budget(rounds=4, steps=2)

    def figures_of(processes):
        (found,) = run_sweep(cells, SweepSettings((1, 2), (), budget, processes))
        return {a: [replace(r, device_s=0.0, gateway_s=0.0) for r in runs] for a, runs in found.runs.items()}

    assert figures_of(1) == figures_of(2)


def test_tables_and_records_name_every_method():
    one = result("x", "iid", ours=(0.7, 0.8), fedadam=(0.6, 0.9))
    assert [line.split("|")[1].strip() for line in table(one)] == ["arm", "---", "ours", "fedadam"]
    assert summarise([one])["x"]["arms"]["fedadam"]["against_ours"]["wilcoxon_p"] == pytest.approx(1.0)


def test_cells_are_tuned_before_they_are_named():
    names = []
    for cell in generated_cells():
        assert cell.tuned_as is None or cell.tuned_as in names
        names.append(cell.name)
    assert len(set(names)) == len(names)
