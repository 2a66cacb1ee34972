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
from typing import Any

from contract.exit_codes import ExitCode

NAME = "families"
_DATA_VARIABLE = "KINWATCH_DATA"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's options to a parser."""
    parser.add_argument("--quick", action="store_true", help="three cells, few seeds, small budget; under a minute")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the results")
    parser.add_argument("--data", type=Path, help=f"folder of the data sets (default: {_DATA_VARIABLE}); real clients")
    parser.add_argument("--seeds", type=int, default=10, help="paired reporting seeds (default: 10)")
    parser.add_argument("--processes", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--cells", help="only cells whose name contains one of these words, separated by commas")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark's command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark and write its results; the last line of output is one JSON object."""
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    from testbed.errors import HarnessError
    from testbed.simulation.cells import generated_cells
    from testbed.simulation.summary import Bar, bars, summarise, table
    from testbed.simulation.sweep import CellResult, SweepSettings, run_sweep

    started = time.monotonic()
    # Before the sweep: its memory is measured by the growth of the peak.
    scale = {} if arguments.quick else _scale()
    cells = generated_cells()
    missing = ""
    data = arguments.data or (Path(os.environ[_DATA_VARIABLE]) if os.environ.get(_DATA_VARIABLE) else None)
    with tempfile.TemporaryDirectory(prefix="kinwatch-families-") as scratch:
        if arguments.quick:
            wanted = {"iid", "feature a=0.5", "concept+feature a=0.5"}
            cells = [cell for cell in cells if cell.name in wanted]
            settings = SweepSettings(
                seeds=(1, 2), tuning_seeds=(), budget=_quick_budget(), processes=arguments.processes
            )
        else:
            settings = SweepSettings(seeds=tuple(range(1, arguments.seeds + 1)), processes=arguments.processes)
            missing = "no data folder was given: real clients did not run" if data is None else ""
            if data is not None:
                from testbed.simulation.cells import real_cells

                try:
                    cells += real_cells(data, Path(scratch))
                except HarnessError as error:
                    missing = str(error)
        if arguments.cells:
            words = arguments.cells.split(",")
            cells = [cell for cell in cells if any(word in cell.name for word in words)]

        def show(result: CellResult) -> None:
            print(f"\n## {result.cell.name}\n", *table(result), sep="\n", flush=True)

        results = run_sweep(cells, settings, show)
    found = {**bars(results), **{name: Bar(*values) for name, values in scale.items()}}
    duration_s = time.monotonic() - started
    record = {
        "name": NAME,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": _versions(),
        "cpu": platform.processor() or platform.machine(),
        "quick": arguments.quick,
        "seeds": list(settings.seeds),
        "tuning_seeds": list(settings.tuning_seeds),
        "budget": asdict(settings.budget),
        "duration_s": duration_s,
        "missing": missing,
        "cells": summarise(results),
        "bars": {name: asdict(bar) for name, bar in found.items()},
    }
    if missing:
        print(f"\n{missing}", file=sys.stderr)
    if arguments.quick:
        print(f"\nquick mode: nothing is written; {duration_s:.0f} s")
    else:
        _write(arguments.out, record, [(r.cell.name, table(r)) for r in results])
        print(f"\n{duration_s:.0f} s; results in {arguments.out}")
    headline = {
        "name": NAME,
        "ratios": _ratios(record["cells"]),
        "bars": record["bars"],
    }
    print(json.dumps(headline))
    return ExitCode.OK


def _quick_budget() -> Any:
    from testbed.simulation.bench import Budget

    return Budget(rounds=8, steps=6)


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
    import numpy
    import scipy
    import sklearn

    return {
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "scikit-learn": sklearn.__version__,
    }


def _write(out: Path, record: dict[str, Any], tables: list[tuple[str, list[str]]]) -> None:
    from testbed.simulation.plots import plot_alpha, plot_arms

    out.mkdir(parents=True, exist_ok=True)
    (out / f"{NAME}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# Families: benchmark",
        "",
        f"{record['date']}, {len(record['seeds'])} paired seeds, {record['duration_s']:.0f} s. "
        "Means over seeds with 95 % intervals; the last column is the p-value of Wilcoxon's paired test of device F1.",
        "Read `families.md` in the folder above for what the cells and arms are, and `families-notes.md` here for "
        "what the figures say.",
        "",
        "## Bars",
        "",
        "| what | value | bar | met |",
        "|---|---|---|---|",
        *(
            f"| {name} | {bar['value']:.4g} | {bar['bar']:.4g} | {'yes' if bar['ok'] else '**no**'} |"
            for name, bar in record["bars"].items()
        ),
    ]
    for name, rows in tables:
        lines += ["", f"## {name}", "", *rows]
    (out / f"{NAME}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    plot_alpha(record["cells"], out / f"{NAME}-alpha.png")
    plot_arms(record["cells"], out / f"{NAME}-arms.png")
