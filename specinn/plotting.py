"""What all figures share: the figure that is returned to users, colours, style, and how one is saved."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.figure
from matplotlib.colors import to_rgba

__all__ = [
    "BLUE",
    "FAINT",
    "GREEN",
    "INK",
    "ORANGE",
    "PURPLE",
    "RED",
    "SERIES",
    "Figure",
    "arrange",
    "save",
    "save_as",
    "save_files",
    "style",
]


class Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows, once, although pyplot does not know it."""

    def _repr_png_(self) -> bytes:
        drawn = io.BytesIO()
        clear = to_rgba(self.get_facecolor())[3] == 0  # illegible on a dark page
        options: dict[str, Any] = {"facecolor": "white"} if clear else {}
        self.savefig(drawn, format="png", **options)
        return drawn.getvalue()


# Okabe & Ito (2008), which people with any kind of colour vision tell apart; the page has a lighter shade of
# each for a dark background. Every series also has a line style and a marker of its own.
INK, FAINT = "#1c2024", "#9aa0a6"
BLUE, ORANGE, GREEN, RED, PURPLE = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7"
SERIES = ((BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, "-.", "^"), (RED, ":", "D"), (PURPLE, "-", "v"))
_SHADES = {INK: "currentColor", FAINT: "var(--faint)", BLUE: "var(--blue)", ORANGE: "var(--orange)",
           GREEN: "var(--green)", RED: "var(--red)", PURPLE: "var(--purple)"}  # fmt: skip
_STYLE: dict[Any, Any] = {
    "font.size": 8.5, "axes.titlesize": 9.5, "axes.labelsize": 8.5, "legend.fontsize": 8.5,
    "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "axes.linewidth": 0.6, "lines.linewidth": 1.4,
    "lines.markersize": 3.2, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "mathtext.default": "regular",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.titlecolor": INK, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "figure.facecolor": "none",
    "axes.facecolor": "none", "savefig.facecolor": "none", "svg.fonttype": "path",
    "svg.hashsalt": "specinn", "pdf.fonttype": 42,
}  # fmt: skip


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The matplotlib settings of the figures; those of the user are restored afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def arrange(figure: matplotlib.figure.Figure) -> None:
    """Lay a figure out once for all files that it is saved in: else each of them draws it a second time."""
    figure.draw_without_rendering()
    with matplotlib.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)


def save(figure: matplotlib.figure.Figure, folder: Path, name: str) -> str:
    """Write ``name.pdf`` and ``name.png``; returns the figure as an SVG element for a page.

    Its colours are variables of the page, so that it is legible on a dark background, too.
    """
    save_files(figure, folder, name)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None}, dpi=160)
    return _inline(drawn.getvalue(), name)


def save_files(figure: matplotlib.figure.Figure, folder: Path, name: str) -> None:
    """Write ``name.pdf`` and ``name.png``."""
    arrange(figure)
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None}, facecolor="white")
    figure.savefig(folder / f"{name}.png", dpi=160, facecolor="white")


def save_as(figure: matplotlib.figure.Figure, path: Path, kind: str) -> None:
    """Write the figure as ``png``, ``pdf`` or ``svg``, without a date."""
    dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    figure.savefig(path, format=kind, dpi=160, facecolor="white", metadata=dates.get(kind))


def _inline(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    # names must be unique on the page
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    for colour, shade in _SHADES.items():
        svg = svg.replace(colour, shade)
    return svg
