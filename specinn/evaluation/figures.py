"""The figures of an evaluation, one panel per label: for papers (PDF), slides (PNG) and the page (SVG)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from specinn.evaluation.comparison import Comparison
from specinn.evaluation.coverage import ecdf_band, ecdf_difference, points_for
from specinn.evaluation.ksoll2026 import PUBLISHED_LEVELS, published_std
from specinn.evaluation.tables import TARP, Rows, all_ranks, histogram_levels, reference_level, some_levels
from specinn.labels import Label
from specinn.plotting import BLUE, FAINT, INK, RED, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FIGURES_OF",
    "coverage",
    "plan",
    "prediction_against_truth",
    "ranks",
    "ratio_to_bound",
    "scope_name",
    "std_against_snr",
    "tarp",
    "thirds_against_snr",
    "width_against_fe_h",
    "width_against_snr",
]

_COLUMNS = 4
FIGURES_OF = {
    "std_against_snr": "Standard deviation of MAP minus truth",
    "mean_in_thirds": "Mean of MAP minus truth, by third of the range",
    "std_in_thirds": "Standard deviation of MAP minus truth, by third of the range",
    "histograms": "Prediction against truth",
    "width_against_snr": "Median width of the 68 % interval against S/N",
    "width_against_fe_h": "Median width of the 68 % interval against [Fe/H]",
    "ranks": "Distribution of ranks minus the uniform one",
    "tarp": "Expected coverage minus credibility",
    "coverage_against_snr": "Fraction of truths within the intervals minus what is claimed, against S/N",
    "coverage_against_fe_h": "Fraction of truths within the intervals minus what is claimed, against [Fe/H]",
    "ratio_to_bound": "Errors over the Cramér-Rao bound",
}


def scope_name(scope: str) -> str:
    """A scope of stars as text for a legend."""
    return "all stars" if scope == "all" else scope.replace("-", "−")


def _panels(labels: Sequence[Label], height: float = 1.75, **options: Any) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(_COLUMNS, len(labels))
    rows = -(-len(labels) // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.06)
    figure = Figure(figsize=(2.45 * columns, height * rows + 0.45), layout=layout)
    every = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for axes in every[len(labels) :]:
        axes.remove()
    return figure, list(every[: len(labels)])


def _legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=len(names), handlelength=2.6)


def _snr_axis(axes: Axes, snr: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    usual = [value for value in (10.0, 20.0, 50.0, 100.0, 250.0, 1000.0) if min(snr) <= value <= max(snr)]
    ticks: list[Any] = usual or sorted(snr)
    axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.5)


def _log_values(axes: Axes, bottom: float = 0.0) -> None:
    """A logarithmic axis, from ``bottom`` on, that has numbers also where it spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if not np.isfinite(axes.dataLim.minposy):  # nothing but zeros
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    low = max(low, bottom)
    axes.set_ylim(low, high)
    decades = np.log10(high / low)
    axes.yaxis.set_major_locator(
        LogLocator(subs=(1.0, 2.0, 5.0) if decades < 1.8 else (1.0, 3.0) if decades < 3 else (1.0,))
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _series(rows: Rows, value: str, **chosen: Any) -> tuple[list[float], list[float]]:
    """S/N and ``value`` of the rows with the ``chosen`` values, in the order of S/N; without what is None."""
    selected = [row for row in rows if all(row[key] == wanted for key, wanted in chosen.items())]
    selected = sorted((row for row in selected if row[value] is not None), key=lambda row: row["snr"])
    return [row["snr"] for row in selected], [row[value] for row in selected]


def std_against_snr(comparison: Comparison, metrics: Rows, information: Rows) -> Figure:
    figure, panels = _panels(list(comparison.labels))
    slow = information[-1]["scope"] if information else None
    for axes, label in zip(panels, comparison.labels, strict=True):
        for scope, (colour, line, marker) in zip(comparison.scopes, SERIES, strict=False):
            x, y = _series(metrics, "std", label=label.name, scope=scope)
            axes.plot(x, y, line, color=colour, marker=marker, label=scope_name(scope))
        levels = [s for s in PUBLISHED_LEVELS if min(comparison.snr) <= s <= max(comparison.snr)]
        theirs = [published_std(label.name, s) or np.nan for s in levels]
        axes.plot(levels, theirs, ":", color=RED, marker="D", markersize=2, label="Ksoll et al. 2026")
        lowest = float(axes.dataLim.minposy)
        if slow:
            x, y = _series(information, "bound", label=label.name, scope=slow)
            axes.plot(x, y, "-", color=FAINT, linewidth=2.2, label=f"bound, {scope_name(slow)}")
        axes.set_title(f"{label.symbol} ({label.printed_unit})")
        _snr_axis(axes, comparison.snr)
        _log_values(axes, bottom=0.25 * lowest)  # at high S/N the bound may fall far below all else
    _legend(figure, panels[0])
    figure.supxlabel("S/N per Å", fontsize=8.5)
    return figure


def thirds_against_snr(comparison: Comparison, thirds: Rows, value: str) -> Figure:
    """``value``: mean_residual or std."""
    figure, panels = _panels(list(comparison.labels))
    for axes, label in zip(panels, comparison.labels, strict=True):
        for name, (colour, line, marker) in zip(("lower", "middle", "upper"), SERIES, strict=False):
            x, y = _series(thirds, value, label=label.name, scope=name)
            axes.plot(x, y, line, color=colour, marker=marker, label=f"{name} third")
        axes.set_title(f"{label.symbol} ({label.printed_unit})")
        _snr_axis(axes, comparison.snr)
        if value == "std":
            _log_values(axes)
        else:
            axes.axhline(0, color=INK, linewidth=0.6)
    _legend(figure, panels[0])
    figure.supxlabel("S/N per Å", fontsize=8.5)
    return figure


def prediction_against_truth(comparison: Comparison, snr: float) -> Figure:
    import matplotlib
    from matplotlib.colors import ListedColormap, LogNorm

    # neither the darkest nor the lightest colours, which vanish on a dark or a light page
    colours = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.22, 0.92, 256)))
    summary = comparison.summaries[comparison.snr.index(snr)]
    figure, panels = _panels(list(comparison.labels), height=2.35)
    most = 1.0
    meshes = []
    for k, (axes, label) in enumerate(zip(panels, comparison.labels, strict=True)):
        x, y = comparison.truth[:, k], summary.map[:, k]
        good = np.isfinite(y)
        low, high = label.bounds
        if good.any():
            low, high = min(low, x[good].min(), y[good].min()), max(high, x[good].max(), y[good].max())
        logarithmic = label.transform == "log10" and high > 10 * low > 0
        edges = np.geomspace(low, high, 36) if logarithmic else np.linspace(low, high, 36)
        counts, *_ = np.histogram2d(x[good], y[good], bins=(edges, edges))
        most = max(most, counts.max())
        shown = np.ma.masked_equal(counts.T, 0)
        meshes.append(axes.pcolormesh(edges, edges, shown, cmap=colours, rasterized=True))
        axes.plot((low, high), (low, high), color=INK, linewidth=0.6)
        if logarithmic:
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.set_box_aspect(1)
        axes.set_title(f"{label.symbol} ({label.printed_unit})")
        if good.any():
            off = y[good] - x[good]
            text = f"{off.mean():+.2g} ± {off.std():.2g}".replace("-", "−")
            axes.text(0.05, 0.93, text, transform=axes.transAxes, va="top", fontsize=7.5)
    for mesh in meshes:
        mesh.set_norm(LogNorm(1, max(most, 2)))
    bar = figure.colorbar(meshes[-1], ax=panels, shrink=0.5, aspect=40, pad=0.01, label="stars in a cell")
    ticks = [value for value in (1, 2, 5, 10, 20, 50, 100, 200, 500) if value <= max(most, 2)]
    bar.set_ticks(ticks, labels=[str(value) for value in ticks], minor=False)
    bar.minorticks_off()
    bar.ax.tick_params(which="both", width=0.6)
    bar.outline.set_visible(False)
    for axes in panels[:: min(_COLUMNS, len(panels))]:
        axes.set_ylabel("MAP")
    figure.supxlabel("truth", fontsize=8.5)
    return figure


def width_against_snr(comparison: Comparison, widths: Rows) -> Figure:
    figure, panels = _panels(list(comparison.labels))
    for axes, label in zip(panels, comparison.labels, strict=True):
        chosen = {"label": label.name, "fe_h_low": None}
        x, y = _series(widths, "width", **chosen)
        low, high = (_series(widths, name, **chosen)[1] for name in ("width_p25", "width_p75"))
        axes.fill_between(x, low, high, color=BLUE, alpha=0.2, linewidth=0, label="half of the stars")
        axes.plot(x, y, "-o", color=BLUE, label="median")
        axes.set_title(f"{label.symbol} ({label.printed_unit})")
        _snr_axis(axes, comparison.snr)
        _log_values(axes)
    _legend(figure, panels[0])
    figure.supxlabel("S/N per Å", fontsize=8.5)
    return figure


def _fe_h_bins(rows: Rows, least: int = 5, **chosen: Any) -> list[dict[str, Any]]:
    """Rows of bins in [Fe/H] with enough stars, from poor to rich."""
    selected = [row for row in rows if row["fe_h_low"] is not None and row["n"] >= least]
    selected = [row for row in selected if all(row[key] == wanted for key, wanted in chosen.items())]
    return sorted(selected, key=lambda row: row["fe_h_low"])


def width_against_fe_h(comparison: Comparison, widths: Rows) -> Figure:
    figure, panels = _panels(list(comparison.labels))
    for axes, label in zip(panels, comparison.labels, strict=True):
        for value, (colour, line, marker) in zip(some_levels(comparison.snr), SERIES, strict=False):
            bins = _fe_h_bins(widths, label=label.name, snr=value)
            x, y = [row["fe_h_low"] + 0.25 for row in bins], [row["width"] for row in bins]
            axes.plot(x, y, line, color=colour, marker=marker, label=f"S/N {value:g}")
        axes.set_title(f"{label.symbol} ({label.printed_unit})")
        axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.5)
        _log_values(axes)
    _legend(figure, panels[0])
    figure.supxlabel("[Fe/H]", fontsize=8.5)
    return figure


def _ecdf(axes: Axes, ranks: np.ndarray, colour: str, line: str, name: str) -> None:
    ranks = ranks[np.isfinite(ranks)]
    if not ranks.size:
        return
    points = points_for(ranks.size)
    ends = [0.0, *points, 1.0]
    low, high = ecdf_band(ranks.size, points)
    if not axes.collections:  # the band of the first curve; the others have as many stars, or nearly
        axes.fill_between(ends, [0, *low, 0], [0, *high, 0], color=FAINT, alpha=0.35, linewidth=0,
                          label="95 % of models with exact coverage")  # fmt: skip
        axes.axhline(0, color=INK, linewidth=0.6)
    axes.plot(ends, [0, *ecdf_difference(ranks, points), 0], line, color=colour, label=name)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])


def ranks(comparison: Comparison) -> Figure:
    """Distribution of the ranks minus the diagonal, for every label."""
    figure, panels = _panels(list(comparison.labels), sharey=True)
    by_snr = {value: (names, of) for value, names, of in all_ranks(comparison)}
    for k, (axes, label) in enumerate(zip(panels, comparison.labels, strict=True)):
        for value, (colour, line, _) in zip(some_levels(comparison.snr), SERIES, strict=False):
            _ecdf(axes, by_snr[value][1][:, k], colour, line, f"S/N {value:g}")
        axes.set_title(label.symbol)
    _legend(figure, panels[0])
    figure.supxlabel("rank of the truth", fontsize=8.5)
    return figure


def tarp(comparison: Comparison) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 3.1), layout="constrained")
    axes = figure.subplots()
    by_snr = {value: of[:, names.index(TARP)] for value, names, of in all_ranks(comparison)}
    for value, (colour, line, _) in zip(some_levels(comparison.snr), SERIES, strict=False):
        _ecdf(axes, by_snr[value], colour, line, f"S/N {value:g}")
    axes.set_xlabel("credibility")
    axes.set_ylabel("expected coverage − credibility")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def coverage(comparison: Comparison, coverage: Rows, against: str) -> Figure:
    """Fraction within minus claimed; ``against``: snr, or fe_h at the S/N nearest to 250."""
    figure, panels = _panels(list(comparison.labels), sharey=True)
    at = reference_level(comparison.snr)
    for axes, label in zip(panels, comparison.labels, strict=True):
        for level, (colour, _, marker) in zip((0.68, 0.95), SERIES, strict=False):
            if against == "snr":
                rows = [r for r in coverage if r["label"] == label.name and r["level"] == level
                        and r["fe_h_low"] is None and r["inside"] is not None]  # fmt: skip
                rows = sorted(rows, key=lambda row: row["snr"])
                x = np.array([row["snr"] for row in rows])
            else:
                rows = _fe_h_bins(coverage, label=label.name, level=level, snr=at)
                x = np.array([row["fe_h_low"] + 0.25 for row in rows])
            y, low, high = (
                np.array([row[name] for row in rows]) for name in ("inside", "inside_low", "inside_high")
            )
            if len(x):
                errors = (np.maximum(y - low, 0), np.maximum(high - y, 0))
                axes.errorbar(x, y - level, errors, fmt=f"-{marker}", color=colour, linewidth=1.0,
                              elinewidth=0.7, label=f"{100 * level:.0f} % interval")  # fmt: skip
        axes.axhline(0, color=INK, linewidth=0.6)
        axes.set_title(label.symbol)
        axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.5)
        if against == "snr":
            _snr_axis(axes, comparison.snr)
    _legend(figure, panels[0])
    figure.supxlabel("S/N per Å" if against == "snr" else "[Fe/H]", fontsize=8.5)
    return figure


def ratio_to_bound(comparison: Comparison, information: Rows) -> Figure:
    figure, panels = _panels(list(comparison.labels))
    scopes = list(dict.fromkeys(row["scope"] for row in information))
    for axes, label in zip(panels, comparison.labels, strict=True):
        for scope, (colour, line, marker) in zip(reversed(scopes), SERIES, strict=False):
            x, y = _series(information, "ratio", label=label.name, scope=scope)
            axes.plot(x, y, line, color=colour, marker=marker, label=scope_name(scope))
        axes.axhline(1, color=INK, linewidth=0.6)
        axes.set_title(label.symbol)
        _snr_axis(axes, comparison.snr)
        _log_values(axes)
    _legend(figure, panels[0])
    figure.supxlabel("S/N per Å", fontsize=8.5)
    return figure


def plan(comparison: Comparison, rows: Mapping[str, Rows]) -> dict[str, Callable[[], Figure]]:
    """The figures by the names of their files, each drawn when it is called."""
    information = rows.get("information", [])
    drawings: dict[str, Callable[[], Figure]] = {
        "std_against_snr": lambda: std_against_snr(comparison, rows["metrics"], information),
        "mean_in_thirds": lambda: thirds_against_snr(comparison, rows["thirds"], "mean_residual"),
        "std_in_thirds": lambda: thirds_against_snr(comparison, rows["thirds"], "std"),
    }
    for value in histogram_levels(comparison.snr):
        drawings[f"histograms_snr_{value:g}"] = partial(prediction_against_truth, comparison, value)
    drawings |= {
        "width_against_snr": lambda: width_against_snr(comparison, rows["widths"]),
        "width_against_fe_h": lambda: width_against_fe_h(comparison, rows["widths"]),
        "ranks": lambda: ranks(comparison),
        "tarp": lambda: tarp(comparison),
        "coverage_against_snr": lambda: coverage(comparison, rows["coverage"], "snr"),
        "coverage_against_fe_h": lambda: coverage(comparison, rows["coverage"], "fe_h"),
    }
    if information:
        drawings["ratio_to_bound"] = lambda: ratio_to_bound(comparison, information)
    if "fe_h" not in comparison.labels:
        drawings = {name: draw for name, draw in drawings.items() if not name.endswith("fe_h")}
    return drawings
