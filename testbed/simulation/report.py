"""The page of results: bars, what is left to gain, retention, and a table for every cell."""

from collections.abc import Mapping, Sequence
from typing import Any

from testbed.simulation.summary import OURS, PAIR, interval, table
from testbed.simulation.sweep import CellResult

CEILING = "centralised by family"
GRIDS = {"feature": "feature a=", "concept+feature": "concept+feature a="}


def page(record: Mapping[str, Any], results: Sequence[CellResult]) -> str:
    """Return the Markdown page of a sweep.

    Parameters
    ----------
    record
        What goes into the JSON file.
    results
        The cells.
    """
    lines = [
        "# Families: benchmark",
        "",
        f"{record['date']}, {len(record['seeds'])} paired seeds ({_span(record['seeds'])}).",
        f"All runs took {record['cpu_s']} CPU seconds; the last call of the command, which takes them up, took",
        f"{record['duration_s']} s.",
        f"Tuned on seeds {_span(record['tuning_seeds'])} alone; the reported seeds were first run after that.",
        "Means over seeds with 95 % intervals; the last column is the p-value of Wilcoxon's paired test of device F1.",
        "What the cells and arms are, and what the figures say: `../families.md`.",
    ]
    if record["missing"]:
        lines += ["", f"Missing: {record['missing']}"]
    lines += [
        "",
        "## Bars",
        "",
        "| what | value | bar | met |",
        "|---|---|---|---|",
        *map(_bar, record["bars"].items()),
    ]
    lines += ["", "## What is left to gain", "", *ceilings(results)]
    lines += ["", "## Retention over the label skew", "", *retention_table(results)]
    for result in results:
        lines += ["", f"## {result.cell.name}", "", *table(result)]
    return "\n".join(lines) + "\n"


def ceilings(results: Sequence[CellResult]) -> list[str]:
    """Return a table of the cells that have a ceiling: all rows of a true family in one place, for the same steps."""
    lines = [
        f"All rows of a true family in one place, trained for as many steps ({CEILING}; devices like nobody train",
        "alone): what a model for each family could reach without sharing anything between families.",
        "",
        f"| cell | {PAIR} | {OURS} | {CEILING} | ceiling minus {PAIR} | {OURS} minus {PAIR} |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        if not {OURS, PAIR, CEILING} <= set(result.runs) or result.cell.clients is not None:
            continue
        pair, ours, ceiling = (mean_f1(result, arm) for arm in (PAIR, OURS, CEILING))
        values = f"{pair:.3f} | {ours:.3f} | {ceiling:.3f} | {ceiling - pair:+.3f} | {ours - pair:+.3f}"
        lines.append(f"| {result.cell.name} | {values} |")
    return lines


def retention_table(results: Sequence[CellResult]) -> list[str]:
    """Return a table of the least F1 over the grid by the best, for every method that ran in all of a grid."""
    lines = ["| grid | arm | least F1 | best F1 | retention |", "|---|---|---|---|---|"]
    for grid, prefix in GRIDS.items():
        cells = [result for result in results if result.cell.name.startswith(prefix)]
        if len(cells) < 2:
            continue
        for arm in [arm for arm in cells[0].runs if all(arm in cell.runs for cell in cells)]:
            means = [mean_f1(cell, arm) for cell in cells]
            lines.append(f"| {grid} | {arm} | {min(means):.3f} | {max(means):.3f} | {min(means) / max(means):.3f} |")
    return lines


def mean_f1(result: CellResult, arm: str) -> float:
    """Return the mean device F1 of a method in a cell."""
    found = interval(result.runs[arm], "f1")
    return float("nan") if found is None else found["mean"]


def _bar(item: tuple[str, Mapping[str, Any]]) -> str:
    name, bar = item
    return f"| {name} | {bar['value']:.4g} | {bar['bar']:.4g} | {'yes' if bar['ok'] else '**no**'} |"


def _span(seeds: Sequence[int]) -> str:
    """Return ``3001 to 3010`` for neighbours, else all of them."""
    if not seeds:
        return "none"
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
