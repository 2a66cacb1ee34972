"""Colours of the figures on light and on dark pages, and the way a figure becomes a data URI."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito's palette keeps its differences for readers who see fewer colours.
FAMILY_COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
CLASS_COLOURS: Final = {
    "scan": "#56b4e9",
    "bruteforce": "#e69f00",
    "dos_flood": "#d55e00",
    "slow_dos": "#cc79a7",
    "c2_beacon": "#009e73",
    "mqtt_abuse": "#8a63d2",
    "exfiltration": "#0072b2",
    "spoofing": "#b0a000",
    "other_attack": "#7f7f7f",
}
ALONE_COLOUR: Final = "#8c929c"


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours that depend on the page: text, quiet text, grid lines, and the map of the heat table."""

    text: str
    muted: str
    grid: str
    bad: str
    heat: str


LIGHT: Final = Theme(text="#1d2330", muted="#5b6472", grid="#d9dde4", bad="#c62828", heat="Blues")
DARK: Final = Theme(text="#e8eaf0", muted="#a3abb8", grid="#3a4150", bad="#ff7b72", heat="viridis")
Draw = Callable[[Any, Theme], None]


def data_uri(draw: Draw, theme: Theme, *, width_in: float, height_in: float) -> str:
    """Draw one figure with one set of axes and return it as an SVG data URI.

    Parameters
    ----------
    draw
        Receives the axes and the theme.
    theme
        Light or dark.
    width_in, height_in
        Size in inches; the page scales it.
    """
    settings = {
        "svg.hashsalt": "kinwatch",
        "font.family": "DejaVu Sans",
        "font.size": 9.0,
        "text.color": theme.text,
        "axes.edgecolor": theme.grid,
        "axes.labelcolor": theme.muted,
        "axes.titlecolor": theme.text,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.6,
        "xtick.color": theme.muted,
        "ytick.color": theme.text,
        "legend.frameon": False,
        "legend.labelcolor": theme.text,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        draw(figure.subplots(), theme)
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()


def family_colours(families: tuple[str, ...]) -> dict[str, str]:
    """Return a colour for each family id."""
    return {family: FAMILY_COLOURS[index % len(FAMILY_COLOURS)] for index, family in enumerate(sorted(families))}
