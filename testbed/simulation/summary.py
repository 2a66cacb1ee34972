"""From figures to statements: means with confidence intervals, paired tests, and the bars."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from testbed.simulation.measures import Figures
from testbed.simulation.sweep import CellResult

OURS = "ours"
PAIR = "fedadam+ditto"
_NO_RIVALS = {"centralised", "centralised by family", "fedadam+ditto, masked", "ifca-oracle", "local"}
"""Not federated, told the truth, or (masked) an ablation of ours: with its loss and without its families."""
_COLUMNS: tuple[tuple[str, str], ...] = (
    ("f1", "F1"),
    ("worst_decile", "worst 10 %"),
    ("outlier_f1", "outliers"),
    ("pooled_macro_f1", "pooled macro"),
    ("pooled_weighted_f1", "pooled weighted"),
    ("false_alarms_per_day", "false alarms/day"),
    ("calibration_error", "ECE"),
    ("ari", "ARI"),
    ("stability", "stability"),
    ("families", "families"),
    ("steps", "steps"),
    ("up_bytes", "bytes up"),
    ("down_bytes", "bytes down"),
    ("device_s", "device CPU s"),
    ("gateway_s", "gateway CPU s"),
)


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar and how far it was met.

    Attributes
    ----------
    value, bar
        Measured and wanted.
    ok
        Whether it was met.
    """

    value: float
    bar: float
    ok: bool


def summarise(results: Sequence[CellResult]) -> dict[str, Any]:
    """Return everything measured as plain values for JSON."""
    return {
        result.cell.name: {
            "group": result.cell.group,
            "arms": {
                arm: {
                    "settings": dict(result.settings[arm]),
                    "against_ours": None if arm == OURS or OURS not in result.runs else _paired(result, arm),
                    **{name: interval(runs, name) for name, _ in _COLUMNS},
                    "rungs": _rungs(runs),
                }
                for arm, runs in result.runs.items()
            },
        }
        for result in results
    }


def interval(runs: Sequence[Figures], name: str) -> dict[str, float] | None:
    """Return mean and half width of the 95 % interval over seeds (Student's t) of a figure, ``None`` without values."""
    values = np.array([value for run in runs if (value := getattr(run, name)) is not None], dtype=np.float64)
    if not len(values):
        return None
    half = 0.0
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return {"mean": float(values.mean()), "half_width": half}


def difference(result: CellResult, one: str, other: str, name: str = "f1") -> tuple[float, float]:
    """Return mean and half width of the paired difference ``one - other`` over seeds."""
    gap = np.array(
        [getattr(a, name) - getattr(b, name) for a, b in zip(result.runs[one], result.runs[other], strict=True)]
    )
    if len(gap) < 2:
        return float(gap.mean()), 0.0
    return float(gap.mean()), float(stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / math.sqrt(len(gap)))


def bars(results: Sequence[CellResult]) -> dict[str, Bar]:
    """Return what was to be shown and whether it is; bars whose cells did not run are left out."""
    found: dict[str, Bar] = {}
    by_group: dict[str, list[CellResult]] = {}
    for result in results:
        by_group.setdefault(result.cell.group, []).append(result)
    for result in by_group.get("iid", []):
        gap, _ = difference(result, OURS, "fedadam")
        found["iid: ours minus FedAdam"] = _least(gap, -0.005)
    for group in ("iid", "feature", "concept", "change"):
        for result in by_group.get(group, []):
            gap, half = difference(result, OURS, PAIR)
            found[f"{result.cell.name}: ours minus FedAdam+Ditto, interval reaches 0"] = _least(gap + half, 0.0)
    for result in by_group.get("concept", []):
        name = result.cell.name
        found[f"{name}: ours minus FedAdam+Ditto"] = _least(difference(result, OURS, PAIR)[0], 0.10)
        found[f"{name}: ours minus FedAvg"] = _least(difference(result, OURS, "fedavg")[0], 0.20)
    for result in [*by_group.get("feature", []), *by_group.get("concept", [])]:
        _structured(result, found)
    grids: tuple[tuple[str, Callable[[CellResult], bool]], ...] = (
        ("feature", lambda r: r.cell.group == "feature"),
        ("concept+feature", lambda r: r.cell.name.startswith("concept+feature")),
    )
    for name, belongs in grids:
        means = [_mean(r.runs[OURS], "f1") for r in results if belongs(r)]
        if len(means) > 1:
            found[f"retention over the alpha grid, {name}"] = _least(min(means) / max(means), 0.95)
    _poisoned(by_group.get("poison", []), found)
    for result in by_group.get("real", []):
        rivals = {
            arm: _mean(runs, "f1")
            for arm, runs in result.runs.items()
            if arm not in _NO_RIVALS and not arm.startswith(OURS)
        }
        best = max(rivals, key=lambda arm: rivals[arm])
        found[f"{result.cell.name}: ours minus the best other federated arm ({best})"] = _least(
            difference(result, OURS, best)[0], 0.0
        )
    return found


def table(result: CellResult) -> list[str]:
    """Return the lines of a Markdown table of one cell."""
    shown = [c for c in _COLUMNS if any(interval(runs, c[0]) is not None for runs in result.runs.values())]
    lines = ["| arm | " + " | ".join(title for _, title in shown) + " | p against ours |"]
    lines.append("|---" * (len(shown) + 2) + "|")
    for arm, runs in result.runs.items():
        cells = [_cell(name, interval(runs, name)) for name, _ in shown]
        p = "" if arm == OURS or OURS not in result.runs else f"{_paired(result, arm)['wilcoxon_p']:.3f}"
        lines.append(f"| {arm} | " + " | ".join(cells) + f" | {p} |")
    return lines


def _structured(result: CellResult, found: dict[str, Bar]) -> None:
    name = result.cell.name
    reference = max(_mean(result.runs["local"], "outlier_f1"), _mean(result.runs[PAIR], "outlier_f1"))
    gap = _mean(result.runs[OURS], "outlier_f1") - reference
    found[f"{name}: outliers, ours minus the better of local and fine-tuned"] = _least(gap, -0.01)
    worst = difference(result, OURS, "fedavg", "worst_decile")[0]
    found[f"{name}: worst tenth, ours minus FedAvg"] = _least(worst, 0.15)


def _poisoned(results: Sequence[CellResult], found: dict[str, Bar]) -> None:
    clean = next((r for r in results if r.cell.name.endswith("idle")), None)
    if clean is None:
        return
    for result in results:
        if result is clean:
            continue
        lost = _mean(clean.runs[OURS], "f1") - _mean(result.runs[OURS], "f1")
        found[f"{result.cell.name}: lost by ours"] = Bar(lost, 0.02, lost <= 0.02)


def _paired(result: CellResult, arm: str) -> dict[str, float]:
    gap, half = difference(result, OURS, arm)
    pairs = [(a.f1, b.f1) for a, b in zip(result.runs[OURS], result.runs[arm], strict=True)]
    p = 1.0
    if any(a != b for a, b in pairs):
        p = float(stats.wilcoxon([a for a, _ in pairs], [b for _, b in pairs]).pvalue)
    return {"difference": gap, "half_width": half, "wilcoxon_p": p}


def _rungs(runs: Sequence[Figures]) -> dict[str, float]:
    names = sorted({name for run in runs for name in run.rungs})
    return {name: float(np.mean([run.rungs.get(name, 0) for run in runs])) for name in names}


def _mean(runs: Sequence[Figures], name: str) -> float:
    found = interval(runs, name)
    return float("nan") if found is None else found["mean"]


def _least(value: float, bar: float) -> Bar:
    return Bar(value, bar, value >= bar)


def _cell(name: str, found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    if name in {"up_bytes", "down_bytes"}:
        return f"{found['mean'] / 1e3:.0f} k"
    if name in {"steps", "false_alarms_per_day"}:
        return f"{found['mean']:.0f}"
    if name in {"families", "device_s"}:
        return f"{found['mean']:.3g}"
    if name in {"f1", "worst_decile", "outlier_f1"}:
        return f"{found['mean']:.3f} ± {found['half_width']:.3f}"
    return f"{found['mean']:.3f}"
