"""``python -m benchmarks.families`` and ``kinwatch-testbed benchmark families``."""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.exit_codes import ExitCode

if TYPE_CHECKING:
    from testbed.simulation.cells import Cell
    from testbed.simulation.sweep import CellResult, SweepSettings

NAME = "families"
_QUICK = ("iid", "feature a=0.5", "concept+feature a=0.5")
_DATA_VARIABLE = "KINWATCH_DATA"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's options to a parser."""
    parser.add_argument("--quick", action="store_true", help="three cells, few seeds, small budget; under a minute")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    parser.add_argument("--data", type=Path, help=f"folder of the data sets (default: {_DATA_VARIABLE}); real clients")
    parser.add_argument("--seeds", type=int, default=10, help="paired reporting seeds (default: 10)")
    parser.add_argument("--processes", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--public", default="", help="published sets below <data>/public, separated by commas")
    parser.add_argument(
        "--checkpoints", type=Path, help="file of finished runs; a sweep that was stopped goes on there"
    )
    parser.add_argument("--cells", help="only cells whose name contains one of these words, separated by commas")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark's command line."""
    from testbed.errors import HarnessError

    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__)
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except HarnessError as error:
        print(f"families: {error}", file=sys.stderr)
        return error.code


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark and write its results; the last line of output is one JSON object."""
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    import testbed
    from testbed.simulation.checkpoints import Checkpoints, program_digest
    from testbed.simulation.summary import table
    from testbed.simulation.sweep import CellResult, run_sweep

    started = time.monotonic()
    scale = {} if arguments.quick else _scale()
    settings = _settings(arguments)
    done: list[CellResult] = []
    record: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="kinwatch-families-") as scratch:
        cells, missing = _cells(arguments, Path(scratch))

        def take(result: CellResult) -> None:
            """Show a cell, and write what there is: a sweep that is stopped leaves its finished cells."""
            print(f"\n## {result.cell.name}\n", *table(result), sep="\n", flush=True)
            done.append(result)
            record.update(_record(done, scale, settings, missing, time.monotonic() - started))
            if not arguments.quick:
                _write(arguments.out, record, done)

        checkpoints = Checkpoints(arguments.checkpoints, program_digest(Path(testbed.__file__).parents[1]))
        run_sweep(cells, settings, take, checkpoints)
    if missing:
        print(f"\n{missing}", file=sys.stderr)
    where = "quick mode: nothing is written" if arguments.quick else f"results in {arguments.out}"
    print(f"\n{where}; {time.monotonic() - started:.0f} s")
    print(json.dumps({"name": NAME, "ratios": _ratios(record["cells"]), "bars": record["bars"]}))
    return ExitCode.OK


def _settings(arguments: argparse.Namespace) -> "SweepSettings":
    from testbed.simulation.bench import Budget
    from testbed.simulation.sweep import FIRST_REPORT_SEED, SweepSettings

    if arguments.quick:  # a look at the program, on seeds that are not reported
        return SweepSettings((1, 2), (), Budget(rounds=8, steps=6), arguments.processes)
    seeds = tuple(range(FIRST_REPORT_SEED, FIRST_REPORT_SEED + arguments.seeds))
    return SweepSettings(seeds, processes=arguments.processes)


def _cells(arguments: argparse.Namespace, scratch: Path) -> "tuple[list[Cell], str]":
    """Return the cells to run, those with all methods first, and what is missing."""
    from testbed.errors import HarnessError
    from testbed.simulation.cells import generated_cells, public_cells, real_cells

    cells = generated_cells()
    data = arguments.data or (Path(os.environ[_DATA_VARIABLE]) if os.environ.get(_DATA_VARIABLE) else None)
    missing = ""
    if arguments.quick:
        cells = [cell for cell in cells if cell.name in _QUICK]
    elif data is None:
        missing = "no data folder was given: real clients did not run"
    else:
        cells += public_cells(data, [name for name in arguments.public.split(",") if name])
        try:
            cells += real_cells(data, scratch)
        except HarnessError as error:
            missing = str(error)
    if arguments.cells:
        words = arguments.cells.split(",")
        cells = [cell for cell in cells if any(word in cell.name for word in words)]
    most = max((len(cell.arms) for cell in cells), default=0)
    return sorted(cells, key=lambda cell: len(cell.arms) < most), missing


def _record(
    results: "list[CellResult]",
    scale: dict[str, tuple[float, float, bool]],
    settings: "SweepSettings",
    missing: str,
    duration_s: float,
) -> dict[str, Any]:
    from testbed.simulation.summary import Bar, bars, summarise

    found = {**bars(results), **{name: Bar(*values) for name, values in scale.items()}}
    return {
        "name": NAME,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": _versions(),
        "cpu": platform.processor() or platform.machine(),
        "seeds": list(settings.seeds),
        "tuning_seeds": list(settings.tuning_seeds),
        "budget": asdict(settings.budget),
        "duration_s": round(duration_s),
        "cpu_s": round(sum(result.cpu_s for result in results)),
        "missing": missing,
        "cells": summarise(results),
        "bars": {name: asdict(bar) for name, bar in found.items()},
    }


def _scale() -> dict[str, tuple[float, float, bool]]:
    from testbed.simulation.scale import largest_signature_bytes, search_cost

    cost = search_cost()
    size = largest_signature_bytes()
    return {
        "100,000 signatures: CPU seconds": (cost.cpu_s, 1.0, cost.cpu_s < 1.0),
        "100,000 signatures: bytes of memory": (cost.memory_bytes, 300e6, cost.memory_bytes < 300e6),
        "100,000 signatures: ARI": (cost.ari, 0.9, cost.ari >= 0.9),
        "largest signature: bytes": (size, 1024, size <= 1024),
    }


def _ratios(cells: dict[str, Any]) -> dict[str, float]:
    """Return the mean device F1 of ours by that of FedAvg and of FedAdam+Ditto, by cell."""
    result = {}
    for name, cell in cells.items():
        for other in ("fedavg", "fedadam+ditto"):
            if "ours" in cell["arms"] and other in cell["arms"]:
                ratio = cell["arms"]["ours"]["f1"]["mean"] / max(cell["arms"][other]["f1"]["mean"], 1e-9)
                result[f"{name}: ours / {other}"] = round(ratio, 4)
    return result


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("numpy", "scipy", "scikit-learn")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _write(out: Path, record: dict[str, Any], results: "list[CellResult]") -> None:
    from testbed.simulation.plots import plot_alpha, plot_arms, plot_gaps
    from testbed.simulation.report import page

    out.mkdir(parents=True, exist_ok=True)
    (out / f"{NAME}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (out / f"{NAME}.md").write_text(page(record, results), encoding="utf-8")
    plot_alpha(record["cells"], out / f"{NAME}-alpha.png")
    plot_arms(record["cells"], out / f"{NAME}-arms.png")
    plot_gaps(record["cells"], out / f"{NAME}-gaps.png")
