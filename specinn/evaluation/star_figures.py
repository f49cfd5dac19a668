"""The figures of benchmark stars: inferred against literature values, and how robust they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from specinn.evaluation.robustness import change, variant_of
from specinn.evaluation.variants import BASE, LEVELS, SHAPES, VELOCITIES, Variant
from specinn.labels import Label, LabelSet, with_derived_labels
from specinn.plotting import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Rows", "against_literature", "robustness"]

Rows = Sequence[Mapping[str, Any]]

_NAMED = 12  # stars up to which a figure shows names; more would hide it
_COLUMNS = 3
# marker and whether it is filled, by what a star is
_KINDS = {
    "validation": ("o", True),
    "reference star of the training": ("s", False),
    "out of range": ("^", False),
}
_COLOURS, _MARKERS = (BLUE, RED, GREEN, PURPLE, ORANGE), ("o", "D", "v", "P", "X")
_LINES = ("-", "--", "-.")
_MINUS = str.maketrans("-", "−")


def _kind(row: Mapping[str, Any]) -> str:
    if row["role"] == "reference":
        return "reference star of the training"
    return "validation" if row["in_range"] else "out of range"


def _with_literature(rows: Rows, labels: LabelSet) -> list[Label]:
    return [
        label for label in with_derived_labels(labels) if any(f"{label.name}_literature" in r for r in rows)
    ]


def against_literature(rows: Rows, labels: LabelSet) -> Figure:
    """Inferred against literature values and, beneath, their difference, for each label that has any.

    ``rows`` are those of :func:`.stars.star_metrics`; at least one star must have a literature
    value. Of corrected values those before the correction are there, too, in grey. Only stars that count are
    filled. Vertical bars are standard deviations of the posterior (beneath, with the error of the
    literature), horizontal ones errors of the literature.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    shown = _with_literature(rows, labels)
    columns = min(_COLUMNS, len(shown))
    blocks = -(-len(shown) // columns)
    figure = Figure(figsize=(3.1 * columns, 4.6 * blocks + 0.6), layout="constrained")
    grid = figure.add_gridspec(2 * blocks, columns, height_ratios=[1.5, 1.0] * blocks)
    looks = _looks(rows, others_named=True)
    series = ["_raw", ""] if any(key.endswith("_raw") for row in rows for key in row) else [""]
    legend: dict[str, Any] = {}
    for number, label in enumerate(shown):
        block, column = divmod(number, columns)
        above = figure.add_subplot(grid[2 * block, column])
        below = figure.add_subplot(grid[2 * block + 1, column], sharex=above)
        for end in series:
            for row, look in zip(rows, looks, strict=True):
                legend |= _point(above, below, row, label.name, end, look)
        ends = np.array([*above.get_xlim(), *above.get_ylim()])
        above.axline((ends.min(), ends.min()), slope=1.0, color=INK, linewidth=0.6, zorder=0)
        below.axhline(0.0, color=INK, linewidth=0.6, zorder=0)
        above.tick_params(labelbottom=False)
        above.set_title(f"{label.symbol} ({label.printed_unit})")
        below.margins(y=0.15)
        below.set_xlabel("literature")
        if column == 0:
            above.set_ylabel("inferred")
            below.set_ylabel("inferred − literature")
    if len(series) > 1:
        legend["before correction"] = Line2D([], [], linestyle="", marker="o", color=FAINT, markersize=4.5)
    figure.legend(legend.values(), legend.keys(), loc="outside upper left", ncols=4)
    return figure


def _point(
    above: Axes, below: Axes, row: Mapping[str, Any], name: str, end: str, look: Mapping[str, Any]
) -> dict[str, Any]:
    """Draw one star, before the correction (``_raw``) or as it is; its line in the legend, by its text."""
    literature, value = row.get(f"{name}_literature"), row.get(f"{name}{end}")
    if literature is None or value is None:
        return {}
    error, of_known = row[f"{name}_std"], row.get(f"{name}_literature_error")
    options: dict[str, Any] = {key: look[key] for key in ("color", "marker", "mfc", "zorder")}
    if end:
        options |= {"color": FAINT, "mfc": FAINT if look["mfc"] != "white" else "white", "zorder": 1}
    options |= {"linestyle": "", "elinewidth": 0.7, "markersize": 4.5}
    drawn = above.errorbar(literature, value, error, of_known, **options)
    below.errorbar(literature, value - literature, np.hypot(error, of_known or 0.0), of_known, **options)
    return {} if end else {look["label"]: drawn}


def robustness(rows: Rows, labels: LabelSet) -> Figure:
    """How velocity (top) and each label with literature values (below) change with shape, shift and S/N.

    ``rows`` are those of :func:`.robustness.robustness`. One factor at a time from the base; in the
    last column shapes are compared at every S/N. Crosses at the bottom are spectra without a value.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    stars: dict[tuple[str, str], dict[Variant, Mapping[str, Any]]] = {}
    for row in rows:
        stars.setdefault((row["star"], row["file"]), {})[variant_of(row)] = row
    shown = [None, *_with_literature(rows, labels)]
    figure = Figure(figsize=(9.6, 1.75 * len(shown) + 0.9), layout="constrained")
    panels = figure.subplots(len(shown), len(_FACTORS), squeeze=False, sharex="col")
    looks = _looks([of[BASE] for of in stars.values()])
    for label, line in zip(shown, panels, strict=True):
        for axes, (ticks, pairs) in zip(line, _FACTORS.values(), strict=True):
            band = axes.axhspan(-1.0, 1.0, color=FAINT, alpha=0.18, linewidth=0)
            axes.axhline(0.0, color=INK, linewidth=0.6)
            for number, (of, look) in enumerate(zip(stars.values(), looks, strict=True)):
                aside = 0.6 * ((number + 0.5) / len(stars) - 0.5)  # of the tick, so that none hides another
                _curve(axes, _values(of, pairs, label), aside, look)
            low, high = axes.get_ylim()
            axes.set_ylim(min(low, -1.25), max(high, 1.25))
            axes.set_xticks(range(len(ticks)), ticks)
            axes.set_xlim(-0.6, len(ticks) - 0.4)
        line[0].set_ylabel(
            "velocity: found − expected\n(km/s)"
            if label is None
            else f"{label.symbol}: change\n(half widths)"
        )
    for axes, title in zip(panels[0], _FACTORS, strict=True):
        axes.set_title(title)
    handles, names = panels[0, 0].get_legend_handles_labels()
    legend = dict(zip(names, handles, strict=True)) | {"1 km/s, half a posterior width": band}
    legend["no value"] = Line2D([], [], linestyle="", marker="x", color=INK, markersize=4)
    figure.legend(legend.values(), legend.keys(), loc="outside upper left", ncols=4)
    return figure


# by title, ticks and the variants with those that they are compared with
_FACTORS = {
    f"shape\n(S/N {BASE.snr:g}, against delivered)": (
        ("delivered", "norm.", "un-norm."),
        [(Variant(shape), BASE) for shape in SHAPES],
    ),
    f"shift in km/s\n(S/N {BASE.snr:g}, against 0)": (
        tuple(f"{v:+g}".translate(_MINUS) if v else "0" for v in VELOCITIES),
        [(Variant(velocity=v), BASE) for v in VELOCITIES],
    ),
    f"S/N per Å\n(delivered, against {BASE.snr:g})": (
        tuple(f"{snr:g}" for snr in LEVELS),
        [(Variant(snr=snr), BASE) for snr in LEVELS],
    ),
    "S/N per Å\n(un-norm. against norm.)": (
        tuple(f"{snr:g}" for snr in LEVELS),
        [(Variant(SHAPES[2], snr=snr), Variant(SHAPES[1], snr=snr)) for snr in LEVELS],
    ),
}


def _looks(rows: Rows, others_named: bool = False) -> list[dict[str, Any]]:
    """How stars are drawn: those for validation each in its own way, unless there are too many of them; the
    others, which are never filled, too if ``others_named``."""
    looks, number = [], 0
    for row in rows:
        kind = _kind(row)
        marker, filled = _KINDS[kind]
        colour, line = BLUE if filled or others_named else FAINT, "-"
        if (filled or others_named) and len(rows) <= _NAMED:
            kind = row["star"] if filled else f"{row['star']} ({kind.split(' of the ')[0]})"
            again = number // len(_COLOURS)
            colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[(number + again) % len(_MARKERS)]
            line = _LINES[again % len(_LINES)]
            number += 1
        looks.append({"label": kind, "color": colour, "marker": marker, "linestyle": line,
                      "mfc": colour if filled else "white", "zorder": 3 if filled else 2})  # fmt: skip
    return looks


def _values(
    of: Mapping[Variant, Mapping[str, Any]], pairs: Sequence[tuple[Variant, Variant]], label: Label | None
) -> np.ndarray:
    """``(n_pairs,)`` of one star; NaN where there is no value."""
    changes = [
        of[one]["rv_difference"] if label is None else change(of[one], of[other], label.name)
        for one, other in pairs
    ]
    return np.array(changes, float)


def _curve(axes: Axes, values: np.ndarray, aside: float, look: Mapping[str, Any]) -> None:
    x, lost = np.arange(len(values)) + aside, np.isnan(values)
    axes.plot(x, values, linewidth=0.7, markersize=3.4, **look)
    axes.plot(x[lost], np.full(lost.sum(), 0.05), "x", color=look["color"], markersize=4,
              transform=axes.get_xaxis_transform())  # fmt: skip
