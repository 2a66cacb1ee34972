"""Tune every method with the same number of trials on tuning seeds, then run it on reporting seeds."""

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from testbed.simulation.arms.table import ARMS
from testbed.simulation.bench import Budget
from testbed.simulation.cells import Cell
from testbed.simulation.checkpoints import Checkpoints
from testbed.simulation.measures import Figures, figures
from testbed.simulation.real import digest_of

TUNING_SEEDS = (1_000, 1_001)
"""Of trials. Seeds 1 to 1,009, 3,001 to 3,010 and 9,000 and up were seen while generator and methods took shape."""
FIRST_REPORT_SEED = 4_001
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
    cpu_s
        CPU seconds of its runs, those of its tuning included.
    """

    cell: Cell
    settings: Mapping[str, Mapping[str, Any]]
    runs: Mapping[str, Sequence[Figures]]
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
        Where finished runs are kept and looked for; nowhere if ``None``.

    Raises
    ------
    ValueError
        If a seed is both for tuning and for reporting.
    """
    if set(settings.seeds) & set(settings.tuning_seeds):
        raise ValueError("a seed is both for tuning and for reporting")
    _enter(cells, settings.budget)
    chosen: dict[str, dict[str, Mapping[str, Any]]] = {}
    results = []
    with _Runner(cells, settings, checkpoints or Checkpoints(None, "")) as runner:
        for number, cell in enumerate(cells):
            spent = 0.0
            tuned = chosen.get(cell.tuned_as or "")
            if tuned is None:
                tuned, spent = _tune(runner, number, cell)
            chosen[cell.name] = tuned
            by_arm = {arm: _for_arm(arm, tuned, cell) for arm in cell.arms}
            done = runner.run([_Task(number, arm, by_arm[arm], seed) for arm in cell.arms for seed in settings.seeds])
            each = iter(found for found, _ in done)
            runs = {arm: [next(each) for _ in settings.seeds] for arm in cell.arms}
            results.append(CellResult(cell, by_arm, runs, spent + sum(cpu_s for _, cpu_s in done)))
            on_cell(results[-1])
    return results


class _Runner:
    """Runs tasks in worker processes, except those that are kept from an earlier sweep."""

    def __init__(self, cells: Sequence[Cell], settings: SweepSettings, kept: Checkpoints) -> None:
        self.settings = settings
        self._cells = cells
        self._kept = kept
        self._clients = [None if cell.clients is None else digest_of(cell.clients) for cell in cells]
        self._pool = _pool(cells, settings) if settings.processes > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, tasks: Sequence[_Task]) -> list[tuple[Figures, float]]:
        """Return figures and CPU seconds of every task, in order."""
        held = [self._kept.load(self._facts(task)) for task in tasks]
        todo = [task for task, known in zip(tasks, held, strict=True) if known is None]
        fresh = map(_run, todo) if self._pool is None else self._pool.map(_run, todo, chunksize=2)
        done = []
        for task, known in zip(tasks, held, strict=True):
            if known is None:
                found, cpu_s = next(fresh)
                self._kept.save(self._facts(task), found, cpu_s)
                done.append((found, cpu_s))
            else:
                done.append(known)
        return done

    def _facts(self, task: _Task) -> dict[str, Any]:
        """Return everything that decides the figures of a run, besides the program."""
        scenario = self._cells[task.cell].scenario
        return {
            "scenario": None if scenario is None else asdict(scenario),
            "clients": self._clients[task.cell],
            "budget": asdict(self.settings.budget),
            "method": ARMS[task.arm].run.__name__,
            "settings": dict(task.settings),
            "seed": task.seed,
        }


def _tune(runner: _Runner, number: int, cell: Cell) -> tuple[dict[str, Mapping[str, Any]], float]:
    """Return the settings with the best mean device F1 on tuning seeds, by method, and the CPU seconds it took."""
    seeds = runner.settings.tuning_seeds
    arms = sorted({ARMS[arm].tuned_as or arm for arm in cell.arms}, key=list(ARMS).index)
    tasks = [
        _Task(number, arm, {**trial, **_resolved(ARMS[arm].fixed, cell)}, seed)
        for arm in arms
        for trial in ARMS[arm].trials
        for seed in seeds
    ]
    done = runner.run(tasks)
    each = iter(found.f1 for found, _ in done)
    chosen = {}
    for arm in arms:
        scores = [sum(next(each) for _ in seeds) for _ in ARMS[arm].trials]
        chosen[arm] = ARMS[arm].trials[scores.index(max(scores))]
    return chosen, sum(cpu_s for _, cpu_s in done)


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
    found = figures(bench, ARMS[task.arm].run(bench, task.settings))
    return found, time.process_time() - started


def _pool(cells: Sequence[Cell], settings: SweepSettings) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    return ProcessPoolExecutor(
        settings.processes, mp_context=context, initializer=_enter, initargs=(cells, settings.budget)
    )
