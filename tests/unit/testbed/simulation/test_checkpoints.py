"""Finished runs are taken up, those of another program or other settings are not."""

from dataclasses import replace

import pytest

from testbed.simulation import sweep
from testbed.simulation.bench import Budget
from testbed.simulation.cells import Cell
from testbed.simulation.checkpoints import Checkpoints, program_digest
from testbed.simulation.generator import Scenario
from testbed.simulation.measures import Figures
from testbed.simulation.sweep import SweepSettings, run_sweep

PLAIN = Figures(0.8, 0.6, None, 0.8, 0.8, 12.0, 0.1, None, 0, None, 10.0, 1e3, 1e3, 0.1, 0.1, {"expert": 3})
TASK = {"method": "fedavg", "settings": {"lr": 0.01}, "seed": 3}


def test_a_run_comes_back_as_it_was(tmp_path):
    path = tmp_path / "deep" / "runs.jsonl"
    Checkpoints(path, "p").save(TASK, PLAIN, 1.5)
    assert Checkpoints(path, "p").load(TASK) == (PLAIN, 1.5)


@pytest.mark.parametrize("change", [{"seed": 4}, {"settings": {"lr": 0.02}}, {"method": "local_only"}])
def test_a_run_of_something_else_does_not(tmp_path, change):
    path = tmp_path / "runs.jsonl"
    Checkpoints(path, "p").save(TASK, PLAIN, 1.5)
    assert Checkpoints(path, "p").load({**TASK, **change}) is None
    assert Checkpoints(path, "another program").load(TASK) is None


def test_a_torn_last_line_costs_one_run(tmp_path):
    path = tmp_path / "runs.jsonl"
    kept = Checkpoints(path, "p")
    kept.save(TASK, PLAIN, 1.5)
    kept.save({**TASK, "seed": 4}, PLAIN, 1.5)
    path.write_text(path.read_text()[:-20])
    again = Checkpoints(path, "p")
    assert again.load(TASK) is not None
    assert again.load({**TASK, "seed": 4}) is None


def test_the_digest_follows_the_source(tmp_path):
    source = tmp_path / "testbed" / "simulation" / "arms" / "plain.py"
    source.parent.mkdir(parents=True)
    for name in ("bench", "fleet", "generator", "local", "measures", "net"):
        (tmp_path / "testbed" / "simulation" / f"{name}.py").write_text("")
    for name in ("gateway/grouping", "device_agent/ladder", "device_agent/rungs", "device_agent/signature"):
        (tmp_path / name).with_suffix(".py").parent.mkdir(exist_ok=True)
        (tmp_path / name).with_suffix(".py").write_text("")
    for folder in ("gateway/aggregation", "gateway/clustering", "device_agent/training"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "absent.py").write_text("")
    source.write_text("a = 1\n")
    before = program_digest(tmp_path)
    source.write_text("a = 2\n")
    assert program_digest(tmp_path) != before


def test_a_sweep_that_was_stopped_goes_on_and_more_seeds_are_added(tmp_path, monkeypatch):
    """The second sweep runs the new seed alone, and gives what it would have given by itself."""
    cells = [Cell("small", "concept", ("local", "ours"), 2, Scenario(devices=16, families=2, concept_shift=True))]
    settings = SweepSettings((1,), (), Budget(rounds=4, steps=2), processes=1)
    run_sweep(cells, settings, checkpoints=Checkpoints(tmp_path / "runs.jsonl", "p"))
    seeds = []
    real = sweep._run

    def watched(task):
        seeds.append(task.seed)
        return real(task)

    monkeypatch.setattr(sweep, "_run", watched)
    more = replace(settings, seeds=(1, 2))
    (found,) = run_sweep(cells, more, checkpoints=Checkpoints(tmp_path / "runs.jsonl", "p"))
    assert seeds == [2, 2]
    (alone,) = run_sweep(cells, more)
    assert [r.f1 for r in found.runs["ours"]] == [r.f1 for r in alone.runs["ours"]]
