"""The figures of the page, each drawn on one set of axes from the results alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from contract.taxonomy import BENIGN, CLASSES
from testbed.demo_results import DeviceResult, RunResults
from testbed.report.theme import ALONE_COLOUR, CLASS_COLOURS, Theme, family_colours

_S_PER_MIN = 60.0
_LABEL_PLACES = ((7.0, 4.0), (7.0, -12.0), (-4.0, 13.0), (-4.0, -21.0))


def f1_bars(results: RunResults, axes: Any, theme: Theme) -> None:
    """Draw macro-F1 with fallback, expert and, where it is in use, the device's own model; a ring marks that in use."""
    devices = list(reversed(results.devices))
    colours = family_colours(tuple(results.families))
    for row, device in enumerate(devices):
        role = device.in_use.split(" ")[0]
        held = {model: model for model in ("fallback", "expert") if device.f1_of(model) is not None}
        if role not in held and device.f1_of("in-use") is not None:
            held[role] = "in-use"
        height = 0.76 / max(2, len(held))
        for place, (model, key) in enumerate(held.items()):
            value = device.f1_of(key) or 0.0
            y = row + ((len(held) - 1) / 2 - place) * height
            own = key == "in-use"
            shade = theme.muted if model == "fallback" else colours.get(device.family_id or "", ALONE_COLOUR)
            look: dict[str, Any] = {"fill": False, "ec": shade, "lw": 1.4} if own else {"color": shade}
            axes.barh(y, value, height=0.88 * height, alpha=0.55 if model == "fallback" else 0.95, **look)
            axes.text(value + 0.012, y, f"{value:.3f}", va="center", fontsize=7.5, color=theme.muted)
            if role == model:
                axes.plot(0.015, y, marker="o", ms=4.5, mfc="none", mec=theme.text, mew=1.2)
    axes.set_yticks(range(len(devices)), [device.device_id for device in devices])
    axes.set_xlim(0, 1.09)
    axes.set_xlabel("macro-F1 on held-out exam flows")
    axes.grid(axis="x")
    axes.tick_params(length=0)
    handles: list[Any] = [Patch(color=theme.muted, alpha=0.55, label="fallback")]
    handles += [Patch(color=colour, label=f"expert {family}") for family, colour in colours.items()]
    handles.append(Patch(fill=False, ec=theme.text, label="the device's own"))
    handles.append(Line2D([], [], marker="o", ls="", mfc="none", mec=theme.text, label="in use"))
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, fontsize=8)


def recall_heat(results: RunResults, axes: Any, theme: Theme) -> None:
    """Draw the share of each attack's exam flows that raised an alert, device by attack class."""
    names = attack_names(results)
    grid = np.full((len(results.devices), len(names)), np.nan)
    for row, device in enumerate(results.devices):
        figures = device.models.get("in-use")
        for name, (hits, rows) in (figures.recall if figures else {}).items():
            grid[row, names.index(name)] = hits / rows
            share = hits / rows
            light = (share > 0.6) if theme.heat == "Blues" else (share < 0.75)
            axes.text(
                names.index(name),
                row,
                f"{hits}/{rows}",
                ha="center",
                va="center",
                fontsize=7.5,
                color="#ffffff" if light else "#14181f",
            )
    axes.imshow(grid, cmap=theme.heat, vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=25, ha="right", rotation_mode="anchor", color=theme.text)
    axes.set_yticks(range(len(results.devices)), [device.device_id for device in results.devices])
    axes.set_xticks(np.arange(-0.5, len(names)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(results.devices)), minor=True)
    axes.grid(which="minor", color=theme.grid, linewidth=0.8)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def attack_names(results: RunResults) -> list[str]:
    """Return the attack classes of any device's exam, in taxonomy order."""
    seen = set(results.recall_by_attack())
    return [name for name in CLASSES if name in seen]


def families_map(results: RunResults, axes: Any, theme: Theme) -> None:
    """Draw the devices by the first two principal components of their traffic signatures."""
    devices = [device for device in results.devices if device.signature]
    points, shares = principal_components([device.signature for device in devices])
    colours = family_colours(tuple(results.families))
    for device, (x, y), offset in zip(devices, points, label_offsets(points), strict=True):
        colour = colours.get(device.family_id or "", ALONE_COLOUR)
        axes.scatter(x, y, s=70, color=colour, edgecolors=theme.text, linewidths=0.5, zorder=3)
        axes.annotate(device.device_id, (x, y), xytext=offset, textcoords="offset points", fontsize=8)
    axes.set_xlabel(f"component 1 ({shares[0]:.0%} of the variance)")
    axes.set_ylabel(f"component 2 ({shares[1]:.0%})")
    axes.grid()
    axes.margins(0.16)
    axes.tick_params(length=0, colors=theme.muted)
    handles = [Line2D([], [], marker="o", ls="", color=colour, label=name) for name, colour in colours.items()]
    if any(device.family_id is None for device in devices):
        handles.append(Line2D([], [], marker="o", ls="", color=ALONE_COLOUR, label="no family"))
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=8)


def label_offsets(points: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return where the names stand beside their points, in points of type: neighbours in a crowd go up and down.

    Parameters
    ----------
    points
        Shape ``(n, 2)``.
    """
    span = np.ptp(points, axis=0) + 1e-9
    offsets: list[tuple[float, float]] = [(7.0, 4.0)] * len(points)
    placed: list[int] = []
    for index in np.argsort(points[:, 0], kind="stable"):
        near = [i for i in placed if (np.abs(points[index] - points[i]) / span < (0.14, 0.06)).all()]
        taken = {offsets[i] for i in near}
        offsets[index] = next((o for o in _LABEL_PLACES if o not in taken), _LABEL_PLACES[0])
        placed.append(int(index))
    return offsets


def principal_components(signatures: Sequence[Sequence[float]]) -> tuple[npt.NDArray[np.float64], tuple[float, float]]:
    """Return the first two principal components of the rows, and their shares of the variance.

    Parameters
    ----------
    signatures
        At least two rows of one length.
    """
    rows = np.asarray(signatures, dtype=np.float64)
    centred = rows - rows.mean(axis=0)
    left, strength, _ = np.linalg.svd(centred, full_matrices=False)
    scores = left[:, :2] * strength[:2]
    if scores.shape[1] < 2:
        scores = np.pad(scores, ((0, 0), (0, 2 - scores.shape[1])))
    power = np.pad(strength**2, (0, 2))
    total = float(power.sum()) or 1.0
    return scores, (float(power[0]) / total, float(power[1]) / total)


def round_losses(results: RunResults, axes: Any, theme: Theme) -> None:
    """Draw the mean validation loss after local training, round by round, for the fallback and every expert."""
    models = sorted({line.model for one in results.rounds for line in one.training})
    colours = family_colours(tuple(results.families))
    for model in models:
        points = [
            (one.number, line.loss_after)
            for one in results.rounds
            for line in one.training
            if line.model == model and line.loss_after is not None
        ]
        if points:
            colour = colours.get(model.split(" ")[-1], theme.muted)
            axes.plot(*zip(*points, strict=True), marker="o", ms=3.5, lw=1.6, color=colour, label=model)
    axes.set_xlabel("round")
    axes.set_ylabel("mean validation loss, log scale")
    axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.grid(axis="y")
    axes.tick_params(length=0, colors=theme.muted)
    axes.legend(loc="upper right", fontsize=8)


def alert_timeline(results: RunResults, axes: Any, theme: Theme) -> None:
    """Draw the attack episodes of each device as bars and its alerts as ticks; red ticks belong to no attack."""
    devices = list(reversed(results.devices))
    for row, device in enumerate(devices):
        _timeline_row(row, device, axes, theme)
    axes.set_yticks(range(len(devices)), [device.device_id for device in devices])
    axes.set_xlim(left=0)
    axes.set_ylim(-0.6, len(devices) - 0.4)
    axes.set_xlabel("packet time, minutes; the shaded part is the exam")
    axes.tick_params(length=0)
    used = {episode.label for device in results.devices for episode in device.episodes}
    handles: list[Any] = [Patch(color=CLASS_COLOURS.get(n, ALONE_COLOUR), label=n) for n in CLASSES if n in used]
    handles.append(Line2D([], [], marker="|", ls="", ms=9, color=theme.text, label="alert on an attack"))
    handles.append(Line2D([], [], marker="|", ls="", ms=9, color=theme.bad, label="alert on benign traffic"))
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, fontsize=8)


def _timeline_row(row: int, device: DeviceResult, axes: Any, theme: Theme) -> None:
    axes.axhline(row, color=theme.grid, lw=0.6, zorder=0)
    exam = (device.exam_from_s / _S_PER_MIN, (device.capture_s - device.exam_from_s) / _S_PER_MIN)
    axes.barh(row, exam[1], left=exam[0], height=0.92, color=theme.muted, alpha=0.13, zorder=0)
    for episode in device.episodes:
        if episode.label != BENIGN:
            axes.barh(
                row,
                max((episode.end_s - episode.start_s) / _S_PER_MIN, 0.05),
                left=episode.start_s / _S_PER_MIN,
                height=0.62,
                color=CLASS_COLOURS.get(episode.label, ALONE_COLOUR),
                alpha=0.75,
                zorder=1,
            )
    for true, colour in ((True, theme.text), (False, theme.bad)):
        at = [point.at_s / _S_PER_MIN for point in device.alert_points if point.true is true]
        axes.plot(at, [row] * len(at), marker="|", ls="", ms=9, mew=0.9, color=colour, zorder=2)
