"""Plots of the families benchmark."""

from pathlib import Path
from typing import Any

_SHOWN = ("local", "fedavg", "fedadam", "fedadam+ditto", "ours: double", "ours")


def plot_alpha(cells: dict[str, Any], path: Path) -> None:
    """Plot device F1 over the label skew; nothing if no grid ran."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second that only the writer of results pays

    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    drawn = 0
    for axis, prefix in zip(axes, ("feature a=", "concept+feature a="), strict=True):
        grid = sorted(
            (float(name.removeprefix(prefix)), c["arms"]) for name, c in cells.items() if name.startswith(prefix)
        )
        for arm in _SHOWN:
            points = [(alpha, arms[arm]["f1"]) for alpha, arms in grid if arm in arms]
            if points:
                drawn += 1
                axis.errorbar(
                    [a for a, _ in points],
                    [f["mean"] for _, f in points],
                    yerr=[f["half_width"] for _, f in points],
                    label=arm,
                    linewidth=2.5 if arm == "ours" else 1.2,
                )
        axis.set(xscale="log", xlabel="Dirichlet alpha of the attack classes", title=prefix.removesuffix(" a="))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("macro-F1, mean over devices")
    if drawn:
        next(axis for axis in axes if axis.lines).legend(fontsize=8)
        figure.savefig(path, dpi=110)


def plot_arms(cells: dict[str, Any], path: Path) -> None:
    """Plot device F1 of every method in the cells in which all ran."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - see above

    full = {
        name: c["arms"] for name, c in cells.items() if len(c["arms"]) > 12 and not name.startswith("feature a=0.0")
    }
    if not full:
        return
    figure = Figure(figsize=(3.0 * len(full), 5), layout="constrained")
    axes = figure.subplots(1, len(full), sharey=True, squeeze=False)[0]
    for axis, (name, arms) in zip(axes, full.items(), strict=True):
        names = list(arms)[::-1]
        colours = ["#0b6e4f" if arm.startswith("ours") else "#8d99ae" for arm in names]
        axis.barh(
            names,
            [arms[arm]["f1"]["mean"] for arm in names],
            xerr=[arms[arm]["f1"]["half_width"] for arm in names],
            color=colours,
        )
        axis.set(title=name, xlim=(0, 1))
    figure.supxlabel("macro-F1, mean over devices")
    figure.savefig(path, dpi=110)
