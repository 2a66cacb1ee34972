"""Plots of the families benchmark."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SHOWN = ("local", "centralised by family", "fedavg", "fedadam", "fedadam+ditto", "ours: double", "ours")
_STYLES = {
    "local": ("#8d99ae", "s", 1.2),
    "centralised by family": ("#b5838d", "v", 1.2),
    "fedavg": ("#c98a1b", "^", 1.2),
    "fedadam": ("#9c6644", "D", 1.2),
    "fedadam+ditto": ("#1d6fa5", "o", 1.6),
    "ours: double": ("#74c69d", "P", 1.2),
    "ours": ("#0b6e4f", "o", 2.6),
}
_MANY = 12
_COLUMNS = 4


def plot_alpha(cells: Mapping[str, Any], path: Path) -> None:
    """Plot device F1 over the label skew; nothing if no grid ran."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second that only the writer of results pays

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    drawn: dict[str, Any] = {}
    for axis, prefix in zip(axes, ("feature a=", "concept+feature a="), strict=True):
        grid = sorted(
            (float(name.removeprefix(prefix)), c["arms"]) for name, c in cells.items() if name.startswith(prefix)
        )
        for arm in _SHOWN:
            points = [(alpha, arms[arm]["f1"]) for alpha, arms in grid if arm in arms]
            if len(points) < 2:
                continue
            colour, marker, width = _STYLES[arm]
            drawn[arm] = axis.errorbar(
                [a for a, _ in points],
                [f["mean"] for _, f in points],
                yerr=[f["half_width"] for _, f in points],
                color=colour,
                marker=marker,
                markersize=4,
                linewidth=width,
                capsize=2,
                elinewidth=0.8,
            )
        axis.set(xscale="log", xlabel="Dirichlet alpha of the attack classes", title=prefix.removesuffix(" a="))
        axis.set_xticks([a for a, _ in grid], [f"{a:g}" for a, _ in grid], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("macro-F1, mean over devices")
    if drawn:
        figure.legend(list(drawn.values()), list(drawn), loc="outside right center", fontsize=9, frameon=False)
        figure.savefig(path, dpi=110)


def plot_arms(cells: Mapping[str, Any], path: Path) -> None:
    """Plot device F1 of every method in the cells in which all ran."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - see above

    full = {name: c["arms"] for name, c in cells.items() if len(c["arms"]) > _MANY}
    if not full:
        return
    columns = min(_COLUMNS, len(full))
    rows = -(-len(full) // columns)
    figure = Figure(figsize=(1.6 + 2.6 * columns, 5.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axis in axes[len(full) :]:
        axis.set_visible(False)
    for axis, (name, arms) in zip(axes, full.items(), strict=False):
        names = list(arms)[::-1]
        means = [arms[arm]["f1"]["mean"] for arm in names]
        for k, arm in enumerate(names):
            ours = arm.startswith("ours")
            axis.errorbar(
                means[k],
                k,
                xerr=arms[arm]["f1"]["half_width"],
                fmt="o",
                markersize=6 if arm == "ours" else 4.5,
                color="#0b6e4f" if ours else "#1d6fa5" if arm == "fedadam+ditto" else "#6c757d",
                capsize=2,
            )
        if "ours" in arms:
            axis.axvline(arms["ours"]["f1"]["mean"], color="#0b6e4f", linewidth=0.8, linestyle=":")
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set_title(name, fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    figure.supxlabel("macro-F1, mean over devices (95 % interval over seeds)", fontsize=10)
    figure.savefig(path, dpi=110)


def plot_gaps(cells: Mapping[str, Any], path: Path) -> None:
    """Plot the paired difference between ours and FedAdam+Ditto, and FedAvg, in every cell."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - see above

    rivals = {"fedadam+ditto": ("#1d6fa5", -0.15), "fedavg": ("#c98a1b", 0.15)}
    names = [name for name, c in cells.items() if "ours" in c["arms"] and set(rivals) & set(c["arms"])][::-1]
    if not names:
        return
    figure = Figure(figsize=(8, 1.4 + 0.3 * len(names)), layout="constrained")
    axis = figure.subplots()
    for rival, (colour, shift) in rivals.items():
        rows = [k for k, name in enumerate(names) if rival in cells[name]["arms"]]
        gaps = [cells[names[k]]["arms"][rival]["against_ours"] for k in rows]
        axis.errorbar(
            [100 * gap["difference"] for gap in gaps],
            [k + shift for k in rows],
            xerr=[100 * gap["half_width"] for gap in gaps],
            fmt="o",
            markersize=4,
            color=colour,
            capsize=2,
            label=f"ours minus {rival}",
        )
    axis.axvline(0.0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_xlabel("points of macro-F1, mean over devices, paired (95 % interval over seeds)")
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
