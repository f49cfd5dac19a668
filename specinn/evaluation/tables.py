"""The tables of an evaluation: rows of plain values, and what their columns mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Column, MaskedColumn, Table

from specinn.errors import SpecinnError
from specinn.evaluation.coverage import binomial_interval, ecdf_difference, points_for
from specinn.evaluation.coverage import uniformity as uniformity_of
from specinn.evaluation.metrics import METRICS, OF_GAUSSIAN, metrics_of
from specinn.files import check_output, replacing
from specinn.posterior import QUANTILES

if TYPE_CHECKING:
    from specinn.evaluation.comparison import Comparison
    from specinn.plugins import Plugins

__all__ = [
    "COLUMNS",
    "SLOW",
    "TARP",
    "Columns",
    "Rows",
    "all_ranks",
    "check",
    "coverage",
    "grid_table",
    "histogram_levels",
    "information",
    "limits",
    "predictions",
    "reference_level",
    "some_levels",
    "tabulate",
    "thirds",
    "uniformity",
    "widths",
    "write",
    "write_rows",
]

Rows = list[dict[str, Any]]
Columns = Mapping[str, tuple[str, str]]  # unit and description by name

_FIRST = {
    "snr": ("", METRICS["snr"]),
    "label": ("", METRICS["label"]),
    "unit": ("", METRICS["unit"]),
}
_FE_H = {
    "fe_h_low": ("dex", "Lower edge in true [Fe/H]; masked where stars of all metallicities are meant"),
    "fe_h_high": ("dex", "Upper edge in true [Fe/H], belonging to the next bin"),
    "n": ("", "Stars with a posterior"),
}

COLUMNS: Mapping[str, Columns] = {
    "metrics": {name: ("", text) for name, text in METRICS.items()},
    "thirds": {
        **{k: ("", text) for k, text in METRICS.items() if not k.startswith(("outside", "published"))},
        "scope": ("", "Third of the label's range in which the truth lies"),
        "low": ("", "Lower edge of the third"),
        "high": ("", "Upper edge of the third"),
    },
    "widths": {
        **_FIRST, **_FE_H,
        "width": ("", "Median distance between the 16 and the 84 percentile of the posteriors"),
        "width_p25": ("", "A quarter of the stars have less"),
        "width_p75": ("", "A quarter of the stars have more"),
    },
    "coverage": {
        "snr": _FIRST["snr"], "label": _FIRST["label"],
        "level": ("", "Probability that the interval claims"),
        **_FE_H,
        "inside": ("", "Fraction of truths within the interval"),
        "inside_low": ("", "Lower end of Wilson's one-sigma binomial interval of that fraction"),
        "inside_high": ("", "Upper end of it"),
    },
    "uniformity": {
        "snr": _FIRST["snr"],
        "label": ("", "Label whose ranks are tested; 'all (TARP)': all together, by random reference points"),
        "n": ("", "Stars with a posterior"),
        "largest": ("", "Distribution function of the ranks minus the diagonal where it is furthest off"),
        "at": ("", "Rank where that is"),
        "p_value": ("", "Probability that ranks stray so far if coverage is exact (Säilynoja et al. 2022)"),
    },
    "information": {
        **_FIRST,
        "scope": ("", METRICS["scope"]),
        "n": ("", "Stars with a posterior"),
        "bound": ("", "Median Cramer-Rao bound, one sigma"),
        "error": ("", "Median of |MAP - truth| over 0.6745: a robust standard deviation about the truth"),
        "ratio": ("", "Median of |MAP - truth| / bound over 0.6745: 1 is the information limit"),
    },
}  # fmt: skip
SLOW = 15.0  # km/s: slower rotators have the most telling information limit
TARP = "all (TARP)"


def some_levels(snr: Sequence[float]) -> list[float]:
    """At most four S/N for figures that cannot show all: 20, 50, 100 and 250 if available."""
    usual = [value for value in (20.0, 50.0, 100.0, 250.0) if value in snr]
    if len(usual) >= 2 or len(snr) <= len(usual):
        return usual
    ordered = sorted(snr)
    return [ordered[i] for i in sorted({round(x) for x in np.linspace(0, len(ordered) - 1, 4)})]


def histogram_levels(snr: Sequence[float]) -> list[float]:
    """Two S/N for histograms: a good one, and a poor one if there is."""
    good = reference_level(snr)
    poor = min(snr, key=lambda value: abs(np.log(value / 30.0)))
    return sorted({good, poor}, reverse=True)


def reference_level(snr: Sequence[float]) -> float:
    """The S/N of the numbers that are named in words: the one nearest to 250 per Angstrom."""
    return min(snr, key=lambda value: abs(np.log(value / 250.0)))


def thirds(comparison: Comparison) -> Rows:
    """Metrics of stars whose truth is in the lower, middle, and upper third of the label's range."""
    rows = []
    for value, summary in zip(comparison.snr, comparison.summaries, strict=True):
        for k, label in enumerate(comparison.labels):
            edges = np.linspace(*label.bounds, 4)
            third = np.clip(np.searchsorted(edges, comparison.truth[:, k], side="right") - 1, 0, 2)
            for i, name in enumerate(("lower", "middle", "upper")):
                metrics = metrics_of(label, k, summary, comparison.truth, third == i, value)
                rows.append(
                    {"snr": value, "scope": name, "low": float(edges[i]), "high": float(edges[i + 1])}
                    | metrics
                )
    return rows


def _by_fe_h(comparison: Comparison) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """All stars, and those in bins of 0.5 dex of true [Fe/H]: the columns that say so, and ``(n_stars,)``."""
    yield {"fe_h_low": None, "fe_h_high": None}, np.ones(len(comparison), bool)
    if "fe_h" in comparison.labels:
        fe_h = comparison.truth[:, comparison.labels.index("fe_h")]
        for low in 0.5 * np.arange(np.floor(2 * fe_h.min()), np.floor(2 * fe_h.max()) + 1):
            yield {"fe_h_low": float(low), "fe_h_high": float(low + 0.5)}, (fe_h >= low) & (fe_h < low + 0.5)


def widths(comparison: Comparison) -> Rows:
    """Median width of the 68 % interval, for all stars and in bins of [Fe/H]."""
    at = list(QUANTILES)
    low, high = at.index("p16"), at.index("p84")
    rows = []
    for value, summary in zip(comparison.snr, comparison.summaries, strict=True):
        width = summary.quantiles[high] - summary.quantiles[low]
        for edges, chosen in _by_fe_h(comparison):
            for k, label in enumerate(comparison.labels):
                of = width[chosen & np.isfinite(width[:, k]), k]
                row = {"snr": value, "label": label.name, "unit": label.unit, **edges, "n": of.size}
                quartiles = np.quantile(of, (0.5, 0.25, 0.75)).tolist() if of.size else [None] * 3
                names = ("width", "width_p25", "width_p75")
                rows.append(row | dict(zip(names, quartiles, strict=True)))
    return rows


def coverage(comparison: Comparison) -> Rows:
    """How often the truth is within the 68 and the 95 % intervals, for all stars and in bins of [Fe/H]."""
    at, rows = list(QUANTILES), []
    for value, summary in zip(comparison.snr, comparison.summaries, strict=True):
        for level, low, high in ((0.68, "p16", "p84"), (0.95, "p2_5", "p97_5")):
            lower, upper = summary.quantiles[at.index(low)], summary.quantiles[at.index(high)]
            inside = (comparison.truth >= lower) & (comparison.truth <= upper)
            for edges, chosen in _by_fe_h(comparison):
                for k, label in enumerate(comparison.labels):
                    of = inside[chosen & np.isfinite(lower[:, k]), k]
                    row = {"snr": value, "label": label.name, "level": level, **edges, "n": of.size}
                    interval = binomial_interval(of.sum(), of.size)
                    figures = [float(of.mean()), *map(float, interval)] if of.size else [None] * 3
                    names = ("inside", "inside_low", "inside_high")
                    rows.append(row | dict(zip(names, figures, strict=True)))
    return rows


def uniformity(comparison: Comparison) -> Rows:
    """Whether ranks are uniform, for each S/N and label, and for all labels together (TARP)."""
    rows = []
    for value, names, ranks in all_ranks(comparison):
        for name, of in zip(names, ranks.T, strict=True):
            of = of[np.isfinite(of)]
            row: dict[str, Any] = {"snr": value, "label": name, "n": of.size}
            row |= dict.fromkeys(("largest", "at", "p_value"))
            if of.size:
                points = points_for(of.size)
                difference = ecdf_difference(of, points)
                worst = int(np.abs(difference).argmax())
                row |= {"largest": float(difference[worst]), "at": float(points[worst])}
                row["p_value"] = uniformity_of(of, points)
            rows.append(row)
    return rows


def all_ranks(comparison: Comparison) -> Iterator[tuple[float, list[str], np.ndarray]]:
    """S/N, names, and ranks ``(n_stars, n_names)`` of the labels and of TARP, where they are known."""
    if comparison.ranks is not None and comparison.tarp is not None:
        for value, ranks, tarp in zip(comparison.snr, comparison.ranks, comparison.tarp, strict=True):
            yield value, [*comparison.labels.names, TARP], np.column_stack([ranks, tarp])


def limits(comparison: Comparison, plugins: Plugins) -> tuple[np.ndarray | None, str]:
    """Cramer-Rao bounds ``(n_stars, n_snr, n_labels)``, or None and the reason why there are none."""
    from specinn.evaluation.information import cramer_rao

    try:
        bounds = cramer_rao(
            comparison.simulation, comparison.rows, comparison.snr, plugins, comparison.labels
        )
    except SpecinnError as error:  # no emulator, or one of another grid
        return None, str(error)
    return bounds, ""


def information(comparison: Comparison, bounds: np.ndarray) -> Rows:
    """Errors over Cramer-Rao ``bounds (n_stars, n_snr, n_labels)``.

    The scopes are those of :attr:`Comparison.scopes` and, within the last of them, slow rotators, where the
    bound is lowest and means most.
    """
    scopes, labels = comparison.scopes, comparison.labels
    vbroad = comparison.vbroad
    if (vbroad >= SLOW).any():
        last, chosen = list(scopes.items())[-1]
        slow = f"vbroad < {SLOW:.0f} km/s"
        scopes[slow if last == "all" else f"{last}, {slow}"] = chosen & (vbroad < SLOW)
    rows = []
    for i, (value, summary) in enumerate(zip(comparison.snr, comparison.summaries, strict=True)):
        for scope, chosen in scopes.items():
            for k, label in enumerate(labels):
                has = chosen & np.isfinite(summary.map[:, k])
                row = {
                    "snr": value,
                    "label": label.name,
                    "unit": label.unit,
                    "scope": scope,
                    "n": int(has.sum()),
                }
                row |= dict.fromkeys(("bound", "error", "ratio"))
                if has.any():
                    off, bound = np.abs(summary.map[has, k] - comparison.truth[has, k]), bounds[has, i, k]
                    row["bound"] = float(np.median(bound))
                    row["error"] = float(np.median(off)) / OF_GAUSSIAN
                    row["ratio"] = float(np.median(off / bound)) / OF_GAUSSIAN
                rows.append(row)
    return rows


def predictions(comparison: Comparison, meta: Mapping[str, Any]) -> Table:
    """All results, one row per star and S/N; six significant digits."""
    n = len(comparison.snr)
    ids = [str(name) for name in comparison.simulation.grid.ids[comparison.rows]]
    table = Table(meta=dict(meta))
    table["id"] = Column(np.tile(ids, n), description="Model of the grid")
    table["snr"] = Column(np.repeat(comparison.snr, len(comparison)), description=METRICS["snr"])

    def add(name: str, values: Any, description: str, unit: str | None = None) -> None:
        rounded = [float(f"{value:.6g}") for value in np.ravel(values)]
        table[name] = Column(rounded, unit=unit, description=description)

    for k, label in enumerate(comparison.labels):
        add(f"{label.name}_true", np.tile(comparison.truth[:, k], n), "True value", label.unit)
        best = [summary.map[:, k] for summary in comparison.summaries]
        add(f"{label.name}_map", best, "Sample of highest density", label.unit)
        for q, (name, level) in enumerate(QUANTILES.items()):
            of = [summary.quantiles[q, :, k] for summary in comparison.summaries]
            add(f"{label.name}_{name}", of, f"{100 * level:g} percentile of the samples", label.unit)
        if comparison.ranks is not None:
            add(
                f"{label.name}_rank",
                comparison.ranks[:, :, k],
                "Place of the truth among the samples, 0 to 1",
            )
    if comparison.tarp is not None:
        add("tarp", comparison.tarp, "Place of the truth's distance from a random point, 0 to 1 (TARP)")
    rejected = [summary.rejected_fraction for summary in comparison.summaries]
    add("rejected_fraction", rejected, "Fraction of samples outside the training bounds")
    return table


def write_rows(rows: Rows, name: str, folder: Path, meta: Mapping[str, Any]) -> None:
    """Write rows of the function called ``name`` as ``name.ecsv``, with descriptions of its columns."""
    tabulate(rows, COLUMNS[name], meta).write(folder / f"{name}.ecsv", format="ascii.ecsv")


def grid_table(rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> Table:
    """Rows of :func:`grid_metrics` as a table with descriptions; the unit of a row is in its column."""
    return tabulate(rows, {key: ("", text) for key, text in METRICS.items()}, meta)


def tabulate(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]], meta: Mapping[str, Any]
) -> Table:
    """Columns by name with (unit, description); None and absent values are masked."""
    table = Table(meta=dict(meta))
    for name, (unit, description) in columns.items():
        values = [row.get(name) for row in rows]
        missing = np.array([value is None for value in values])
        info = {"name": name, "unit": unit or None, "description": description}
        if missing.any():
            filled = np.array([np.nan if value is None else value for value in values], dtype=float)
            table[name] = MaskedColumn(filled, mask=missing, **info)
        else:
            table[name] = Column(np.array(values), **info)
    return table


def check(path: str | Path, *, overwrite: bool = False) -> Path:
    """The path, if a table can be written there; raises ``OutputError`` where it cannot."""
    return check_output(path, (".ecsv",), overwrite=overwrite)


def write(table: Table, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a table of metrics as ECSV, whole or not at all. Raises ``OutputError``."""
    path = check(path, overwrite=overwrite)
    with replacing(path) as temporary:
        table.write(temporary, format="ascii.ecsv")
