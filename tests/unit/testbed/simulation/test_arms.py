"""Every method: within its budget, deterministic, and no worse than luck; and the product's code inside ours."""

import numpy as np
import pytest

from testbed.simulation.arms.search import signatures
from testbed.simulation.arms.table import ARMS, TRIALS
from testbed.simulation.bench import Bench, Budget
from testbed.simulation.generator import Scenario, make_fleet
from testbed.simulation.measures import figures

BUDGET = Budget(rounds=8, steps=5)
SMALL = Scenario(devices=24, families=2, outliers=0.1, concept_shift=True)


def settings_of(arm):
    chosen = (ARMS[arm].trials or ARMS[ARMS[arm].tuned_as].trials)[0]
    return {**chosen, **{k: 2 if v == "oracle" else v for k, v in ARMS[arm].fixed.items()}}


def run(arm, scenario=SMALL, seed=9_100, budget=BUDGET, **changes):
    fleet, later = make_fleet(scenario, seed)
    bench = Bench(fleet, budget, seed, poison=scenario.poison, churn=scenario.churn, later=later)
    return bench, ARMS[arm].run(bench, {**settings_of(arm), **changes})


def test_every_method_is_tuned_with_the_same_number_of_trials():
    assert {len(arm.trials) for arm in ARMS.values()} == {0, TRIALS}
    assert all((arm.tuned_as in ARMS) == (not arm.trials) for arm in ARMS.values())


@pytest.mark.parametrize("arm", ARMS)
def test_a_method_keeps_to_its_budget_and_can_be_repeated(arm):
    """Steps and bytes are means over devices; the same seed gives the same weights to the last bit."""
    bench, outcome = run(arm)
    again = run(arm)[1]
    assert outcome.theta.shape == (24, bench.net.n_parameters)
    assert np.isfinite(outcome.theta).all()
    assert outcome.theta.tobytes() == again.theta.tobytes()
    assert outcome.ledger.steps <= BUDGET.rounds * BUDGET.steps * 1.03  # the sample for the fallback is drawn
    both = outcome.ledger.up_bytes + outcome.ledger.down_bytes
    assert both <= 2 * BUDGET.rounds * bench.model_bytes * 1.03 or arm.startswith(("ifca", "scaffold"))


@pytest.mark.parametrize("arm", ["ifca-3", "ifca-5", "scaffold"])
def test_methods_with_more_bytes_a_round_do_fewer_rounds(arm):
    bench, outcome = run(arm, budget=Budget(rounds=24, steps=2))
    both = outcome.ledger.up_bytes + outcome.ledger.down_bytes
    assert both <= 2 * 24 * bench.model_bytes * 1.001


@pytest.mark.parametrize("arm", ["local", "fedavg", "ditto", "ours"])
def test_training_helps(arm):
    scenario = Scenario(devices=24, families=1, feature_shift=0.0, alpha=10.0)
    bench, outcome = run(arm, scenario, budget=Budget(rounds=12, steps=12), lr=0.02)
    untrained = Bench(bench.fleet, BUDGET, 1)
    start = type(outcome)(untrained.stacked(untrained.initial, 24), outcome.ledger)
    assert figures(bench, outcome).f1 > figures(untrained, start).f1 + 0.2


def test_ours_finds_the_families_of_a_generated_fleet():
    scenario = Scenario(devices=40, families=3, concept_shift=True, alpha=1.0)
    bench, outcome = run("ours: double", scenario)
    found = figures(bench, outcome)
    assert found.ari > 0.95
    assert found.families == 3


def test_ours_invents_no_family_where_there_is_none():
    scenario = Scenario(devices=40, families=1, feature_shift=0.0, alpha=0.3)
    for seed in range(9_200, 9_205):
        bench, outcome = run("ours: double", scenario, seed, Budget(rounds=5, steps=1))
        assert figures(bench, outcome).families == 0


def test_families_that_agree_on_attacks_share_a_model():
    """Feature shift alone: found, but no expert is trained unless it is asked for."""
    scenario = Scenario(devices=40, families=3)
    for least, models in ((0.1, 1), (-1.0, 4)):
        bench, outcome = run("ours: double", scenario, min_conflict=least)
        assert figures(bench, outcome).families == 3
        assert len(np.unique(outcome.theta, axis=0)) == models


@pytest.mark.parametrize("poison", ["sign-flip", "noise", "spoof"])
def test_hostile_devices_change_what_arrives_and_nothing_else(poison):
    scenario = Scenario(devices=24, families=2, poison=poison, hostile=0.2)
    fleet, _ = make_fleet(scenario, 3)
    bench = Bench(fleet, BUDGET, 3, poison=poison)
    deltas = np.ones((24, bench.net.n_parameters), dtype=np.float32)
    arrived = bench.tampered(deltas, np.arange(24))
    assert np.array_equal(arrived[~fleet.hostile], deltas[~fleet.hostile])
    assert (np.linalg.norm(arrived[fleet.hostile], axis=1) > 4.9 * np.linalg.norm(deltas[0])).all()


def test_drift_and_churn_run_through():
    scenario = Scenario(devices=24, families=2, concept_shift=True, drift=0.4, churn=0.3)
    bench, outcome = run("ours", scenario, budget=Budget(rounds=12, steps=2))
    assert np.isfinite(outcome.theta).all()
    assert outcome.ledger.up_bytes < 12 * bench.model_bytes


def test_signatures_of_a_fleet_are_what_devices_send():
    fleet, _ = make_fleet(SMALL, 1)
    vectors, prototypes, flows = signatures(fleet)
    assert set(vectors) == set(prototypes) == set(fleet.names)
    assert all(v.shape == (2 * fleet.layout.inputs,) for v in vectors.values())
    assert set(flows.values()) == {150}
    assert max(len(p) for p in prototypes.values()) <= 5


def test_the_ladder_is_reported():
    outcome = run("ours", budget=Budget(rounds=16, steps=4))[1]
    assert sum(outcome.rungs.values()) == 24
