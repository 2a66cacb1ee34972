"""Tune every method with the same number of trials on tuning seeds, then run it on reporting seeds."""

import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from testbed.simulation.arms.table import ARMS
from testbed.simulation.bench import Budget
from testbed.simulation.cells import Cell
from testbed.simulation.checkpoints import Checkpoints, Finished
from testbed.simulation.measures import Figures, figures
from testbed.simulation.real import digest_of

TUNING_SEEDS = (1_000, 1_001)
"""Of trials. Seeds 1 to 1,009 and 9,000 and up were looked at while generator and methods were shaped."""
FIRST_REPORT_SEED = 3_001
"""Seeds from here on were looked at by the command alone."""


@dataclass(frozen=True, slots=True)
class SweepSettings:
    """How much is run.

    Attributes
    ----------
    seeds
        Reporting seeds.
    tuning_seeds
        Seeds of the trials; none of the reporting seeds.
    budget
        What a device may spend.
    processes
        Worker processes; 1 = none.
    """

    seeds: tuple[int, ...] = tuple(range(FIRST_REPORT_SEED, FIRST_REPORT_SEED + 10))
    tuning_seeds: tuple[int, ...] = TUNING_SEEDS
    budget: Budget = field(default_factory=Budget)
    processes: int = 2


@dataclass(frozen=True, slots=True, eq=False)
class CellResult:
    """Figures of one cell.

    Attributes
    ----------
    cell
        The cell.
    settings
        Chosen settings by method.
    runs
        Figures by method, in the order of the seeds.
    wall_s, cpu_s
        What it took, its tuning included; the CPU time is that of all processes.
    """

    cell: Cell
    settings: Mapping[str, Mapping[str, Any]]
    runs: Mapping[str, Sequence[Figures]]
    wall_s: float = 0.0
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Task:
    cell: int
    arm: str
    settings: Mapping[str, Any]
    seed: int


_context: tuple[Sequence[Cell], Budget] | None = None


def run_sweep(
    cells: Sequence[Cell],
    settings: SweepSettings,
    on_cell: Callable[[CellResult], None] = lambda _: None,
    checkpoints: Checkpoints | None = None,
) -> list[CellResult]:
    """Run all cells.

    Parameters
    ----------
    cells
        A cell that is tuned as another comes after it.
    settings
        How much.
    on_cell
        Called after each cell, for progress.
    checkpoints
        Where finished cells are kept and looked for; nowhere if ``None``.

    Raises
    ------
    ValueError
        If a seed is both for tuning and for reporting.
    """
    if set(settings.seeds) & set(settings.tuning_seeds):
        raise ValueError("a seed is both for tuning and for reporting")
    kept = checkpoints or Checkpoints(None, "")
    chosen: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    results = []
    _enter(cells, settings.budget)
    pool = _pool(cells, settings) if settings.processes > 1 else None
    try:
        for number, cell in enumerate(cells):
            task = _facts(cell, settings)
            finished = kept.load(cell.name, task)
            if finished is None:
                finished = _run_cell(number, cell, settings, pool, chosen.get(cell.tuned_as or ""))
                kept.save(cell.name, task, finished)
            chosen[cell.name] = {arm: finished.settings[arm] for arm in cell.arms if ARMS[arm].trials}
            results.append(CellResult(cell, finished.settings, finished.runs, finished.wall_s, finished.cpu_s))
            on_cell(results[-1])
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    return results


def _facts(cell: Cell, settings: SweepSettings) -> dict[str, Any]:
    """Return everything that decides a cell's figures, besides the program."""
    return {
        "arms": list(cell.arms),
        "scenario": None if cell.scenario is None else asdict(cell.scenario),
        "clients": None if cell.clients is None else digest_of(cell.clients),
        "tuned_as": cell.tuned_as,
        "seeds": list(settings.seeds),
        "tuning_seeds": list(settings.tuning_seeds),
        "budget": asdict(settings.budget),
    }


def _run_cell(
    number: int,
    cell: Cell,
    settings: SweepSettings,
    pool: ProcessPoolExecutor | None,
    tuned: Mapping[str, Mapping[str, Any]] | None,
) -> Finished:
    """Tune a cell, unless it has the settings of another, and run it."""
    started = time.monotonic()
    chosen, spent = (tuned, 0.0) if tuned is not None else _tune(number, cell, settings, pool)
    by_arm = {arm: _for_arm(arm, chosen, cell) for arm in cell.arms}
    tasks = [_Task(number, arm, by_arm[arm], seed) for arm in cell.arms for seed in settings.seeds]
    done = list(_map(pool, tasks))
    each = iter(figures for figures, _ in done)
    runs = {arm: [next(each) for _ in settings.seeds] for arm in cell.arms}
    cpu_s = spent + sum(seconds for _, seconds in done)
    return Finished(by_arm, runs, time.monotonic() - started, cpu_s)


def _tune(
    number: int, cell: Cell, settings: SweepSettings, pool: ProcessPoolExecutor | None
) -> tuple[dict[str, Mapping[str, Any]], float]:
    """Return the settings with the best mean device F1 on tuning seeds, by method, and the CPU seconds it took."""
    arms = sorted({ARMS[arm].tuned_as or arm for arm in cell.arms}, key=list(ARMS).index)
    tasks = [
        _Task(number, arm, {**trial, **_resolved(ARMS[arm].fixed, cell)}, seed)
        for arm in arms
        for trial in ARMS[arm].trials
        for seed in settings.tuning_seeds
    ]
    done = list(_map(pool, tasks))
    each = iter(figures.f1 for figures, _ in done)
    chosen = {}
    for arm in arms:
        scores = [sum(next(each) for _ in settings.tuning_seeds) for _ in ARMS[arm].trials]
        chosen[arm] = ARMS[arm].trials[scores.index(max(scores))]
    return chosen, sum(seconds for _, seconds in done)


def _for_arm(arm: str, chosen: Mapping[str, Mapping[str, Any]], cell: Cell) -> dict[str, Any]:
    return {**chosen[ARMS[arm].tuned_as or arm], **_resolved(ARMS[arm].fixed, cell)}


def _resolved(fixed: Mapping[str, Any], cell: Cell) -> dict[str, Any]:
    """Fill in what only the cell knows: the true number of families."""
    return {name: max(2, cell.families) if value == "oracle" else value for name, value in fixed.items()}


def _enter(cells: Sequence[Cell], budget: Budget) -> None:
    global _context  # noqa: PLW0603 - a worker process has one job; cells hold rows that must not be sent with each task
    _context = (cells, budget)


def _run(task: _Task) -> tuple[Figures, float]:
    if _context is None:
        raise RuntimeError("the worker was not entered")
    cells, budget = _context
    started = time.process_time()
    bench = cells[task.cell].bench(task.seed, budget)
    result = figures(bench, ARMS[task.arm].run(bench, task.settings))
    return result, time.process_time() - started


def _pool(cells: Sequence[Cell], settings: SweepSettings) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    return ProcessPoolExecutor(
        settings.processes, mp_context=context, initializer=_enter, initargs=(cells, settings.budget)
    )


def _map(pool: ProcessPoolExecutor | None, tasks: list[_Task]) -> Iterable[tuple[Figures, float]]:
    return map(_run, tasks) if pool is None else pool.map(_run, tasks, chunksize=4)
