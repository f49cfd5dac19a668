"""The page of an evaluation: formatted numbers, sentences, and the template."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from specinn.evaluation.comparison import Comparison
from specinn.evaluation.figures import FIGURES_OF
from specinn.evaluation.tables import SLOW, TARP, Rows, histogram_levels, reference_level, some_levels
from specinn.labels import Label, LabelSet, abundance

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["findings", "name_of", "number", "render", "template"]

_HTML = {"teff": "<i>T</i><sub>eff</sub>", "logg": "log <i>g</i>", "vmic": "<i>v</i><sub>mic</sub>",
         "vbroad": "<i>v</i><sub>broad</sub>", "a_li": "A(Li)", "a_li_3dnlte": "A(Li), 3D NLTE",
         "alpha_m": "[α/M]"}  # fmt: skip
_DECIMALS = {"K": 0, "km/s": 2}


def template(name: str) -> Template:
    """A template of this package; those that it includes are of this package, too."""
    import jinja2

    def read(name: str) -> str:
        return files("specinn.report").joinpath(name).read_text("utf-8")

    loader, undefined = jinja2.FunctionLoader(read), jinja2.StrictUndefined
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     loader=loader, undefined=undefined)  # fmt: skip
    return environment.get_template(name)


def name_of(label: Label) -> str:
    """The label's name as HTML."""
    name, informed = label.name.removesuffix("_informed"), label.name.endswith("_informed")
    return (_HTML.get(name) or abundance(name)) + (", informed" if informed else "")


def number(value: float | None, unit: str = "", *, sign: bool = False, more: int = 0) -> str:
    """With the decimals that suit the unit, and ``more``; a dash where there is no value."""
    if value is None or not np.isfinite(value):
        return "–"
    decimals = _DECIMALS.get(unit, 3) + more
    return f"{round(value, decimals) + 0.0:{'+' if sign else ''}.{decimals}f}".replace(
        "-", "−"
    )  # no minus zero


def render(
    comparison: Comparison,
    rows: Mapping[str, Rows],
    drawn: Mapping[str, str],
    meta: Mapping[str, Any],
    why_no_bounds: str,
) -> str:
    """The page as one self-contained HTML document; ``drawn`` are SVG elements by name."""
    at = reference_level(comparison.snr)
    return template("evaluation/page.html").render(
        meta=meta,
        comparison=comparison,
        at=f"{at:g}",
        histogram_levels=[f"{value:g}" for value in histogram_levels(comparison.snr)],
        some_levels=[f"{value:g}" for value in some_levels(comparison.snr)],
        drawn=drawn,
        about=FIGURES_OF,
        findings=findings(comparison, rows),
        glance={scope: _glance(comparison, rows, at, scope) for scope in comparison.scopes},
        every={
            f"{snr:g}": _glance(comparison, rows, snr, "all") for snr in sorted(comparison.snr, reverse=True)
        },
        information=_information(comparison.labels, rows, at),
        scopes=list(dict.fromkeys(row["scope"] for row in rows.get("information", []))),
        why_no_bounds=why_no_bounds,
        slow=f"{SLOW:.0f}",
        uniformity=_uniformity(comparison, rows),
        tables=[*rows, "predictions"],
        rejected=_rejected(comparison, at),
        provenance=_provenance(comparison),
    )


def _glance(comparison: Comparison, rows: Mapping[str, Rows], snr: float, scope: str) -> list[dict[str, Any]]:
    """The table of one S/N and scope."""
    ratios = {
        row["label"]: row["ratio"]
        for row in rows.get("information", [])
        if row["snr"] == snr and row["scope"] == rows["information"][-1]["scope"]
    }
    table = []
    for row in rows["metrics"]:
        if (row["snr"], row["scope"]) != (snr, scope):
            continue
        label = comparison.labels[row["label"]]
        unit = label.printed_unit
        table.append({
            "name": name_of(label), "unit": unit, "n": row["n"], "failed": row["failed"],
            "mean": number(row["mean_residual"], unit, sign=True, more=1 if unit == "K" else 0),
            "std": number(row["std"], unit, more=1 if unit == "K" else 0),
            "robust": number(row["robust_std"], unit, more=1 if unit == "K" else 0),
            "width": number(row["posterior_std"], unit, more=1 if unit == "K" else 0),
            "published": _two_digits(row["published_std"]) if row["published_std"] else "–",
            "better": None if not row["published_std"] or row["std"] is None
                      else row["std"] < row["published_std"],
            "nrmse": number(row["nrmse"]), "published_nrmse": number(row["published_nrmse"]),
            "inside_68": number(row["inside_68"], more=-1), "inside_95": number(row["inside_95"], more=-1),
            "ratio": number(ratios.get(row["label"]), more=-2),
        })  # fmt: skip
    return table


def _information(labels: LabelSet, rows: Mapping[str, Rows], at: float) -> list[dict[str, Any]]:
    """Bound, error and ratio of every label in every scope, at one S/N; nothing where there are no bounds."""
    selected = [row for row in rows.get("information", []) if row["snr"] == at]
    if not selected:
        return []
    table = []
    for label in labels:
        unit = label.printed_unit
        cells = []
        for row in selected:
            if row["label"] == label.name:
                more = 1 if unit in _DECIMALS else 0
                cells += [number(row["bound"], unit, more=more), number(row["error"], unit, more=more)]
                cells.append(number(row["ratio"], more=-1))
        table.append({"name": name_of(label), "unit": unit, "cells": cells})
    return table


def _uniformity(comparison: Comparison, rows: Mapping[str, Rows]) -> list[dict[str, Any]]:
    """p-values of every label at some S/N."""
    levels = some_levels(comparison.snr)
    p = {(row["label"], row["snr"]): row for row in rows["uniformity"]}
    table = []
    for name in (*comparison.labels.names, TARP):
        shown = "all labels together (TARP)" if name == TARP else name_of(comparison.labels[name])
        cells = []
        for value in levels:
            row = p.get((name, value))
            if row is None or row["p_value"] is None:
                cells.append({"p": "–", "off": "–", "bad": False})
            else:
                text = "< 0.001" if row["p_value"] < 0.001 else number(row["p_value"])
                off = number(row["largest"], sign=True)
                cells.append({"p": text, "off": off, "bad": row["p_value"] < 0.01})
        table.append({"name": shown, "cells": cells})
    return table


def _rejected(comparison: Comparison, at: float) -> str:
    """A sentence about rejected samples."""
    summary = comparison.summaries[comparison.snr.index(at)]
    failed = int(np.isnan(summary.map).all(axis=1).sum())
    outside = int((~comparison.labels.inside(comparison.truth)).sum())
    text = f"At S/N {at:g}, {100 * np.nanmean(summary.rejected_fraction):.1f} % of the samples were rejected"
    text += f"; {failed} stars lost all of theirs and do not count." if failed else "."
    return text + (
        f" The true labels of {outside} stars are not all within the training bounds." if outside else ""
    )


def _provenance(comparison: Comparison) -> list[tuple[str, str]]:
    """The provenance of the grid, short enough for a page."""
    items = comparison.simulation.grid.provenance.items()
    return [
        (key, str(value))
        for key, value in items
        if not isinstance(value, (list, dict)) and len(str(value)) < 200
    ]


def findings(comparison: Comparison, rows: Mapping[str, Rows]) -> list[str]:
    """The results of the figures, in sentences (HTML)."""
    labels, at = comparison.labels, reference_level(comparison.snr)
    sentences = [
        _against_published(labels, rows["metrics"], at),
        _of_coverage(labels, rows["coverage"], some_levels(comparison.snr)),
        _of_ranks(labels, rows["uniformity"], some_levels(comparison.snr)),
        _of_bounds(labels, rows.get("information", []), at),
    ]
    return [text for text in sentences if text]


def _against_published(labels: LabelSet, metrics: Rows, at: float) -> str:
    of = [row for row in metrics if row["snr"] == at and row["scope"] == "all"
          and row["published_std"] and row["std"] is not None]  # fmt: skip
    if not of:
        return ""
    worse = [row for row in of if row["std"] >= row["published_std"]]
    text = f"At S/N {at:g} the scatter about the truth is below that of Ksoll et al. (2026) for "
    text += f"<b>{len(of) - len(worse)} of {len(of)} labels</b>"
    if worse:
        each = []
        for row in worse:
            label, theirs = labels[row["label"]], _two_digits(row["published_std"])
            each.append(f"{name_of(label)} ({_two_digits(row['std'])} against {theirs} {label.printed_unit})")
        text += f"; it is above for {', '.join(each)}"
    return text + "."


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:#.2g}"


def _of_coverage(labels: LabelSet, coverage: Rows, levels: list[float]) -> str:
    of = [r for r in coverage if r["fe_h_low"] is None and r["snr"] in levels and r["inside"] is not None]
    if not of:
        return ""
    mean = {level: np.mean([row["inside"] for row in of if row["level"] == level]) for level in (0.68, 0.95)}
    worst = max(
        of, key=lambda row: abs(row["inside"] - row["level"]) / np.sqrt(row["level"] * (1 - row["level"]))
    )
    half = 0.5 * (worst["inside_high"] - worst["inside_low"])
    seen, claimed = 100 * worst["inside"], 100 * worst["level"]
    return (
        f"Intervals that claim 68 % and 95 % hold <b>{100 * mean[0.68]:.1f} % and {100 * mean[0.95]:.1f} %"
        f"</b> of the truths, averaged over labels and S/N {', '.join(f'{v:g}' for v in levels)}. "
        f"Furthest off is {name_of(labels[worst['label']])} at S/N {worst['snr']:g}: "
        f"{seen:.0f} ± {100 * half:.0f} % instead of {claimed:.0f} %."
    )


def _of_ranks(labels: LabelSet, uniformity: Rows, levels: list[float]) -> str:
    of = [row for row in uniformity if row["snr"] in levels and row["p_value"] is not None]
    single = [row for row in of if row["label"] != TARP]
    joint = [row for row in of if row["label"] == TARP]
    if not single:
        return ""
    small = [row for row in single if row["p_value"] < 0.05]
    text = (
        f"Of {len(single)} tests of ranks (labels times S/N) <b>{len(small)}</b> leave their 95 % band; "
        f"{0.05 * len(single):.0f} would by chance."
    )
    if joint:
        low = min(joint, key=lambda row: row["p_value"])
        guilty = low["p_value"] < 0.05 / len(joint)
        text += " TARP, on all labels together, finds " + ("the joint posterior wrong" if guilty else
                                                           "no wrong width or correlation")  # fmt: skip
        text += f" (smallest p {low['p_value']:.2g}, at S/N {low['snr']:g})."
    return text


def _of_bounds(labels: LabelSet, information: Rows, at: float) -> str:
    if not information:
        return ""
    scope = information[-1]["scope"]
    of = [
        row for row in information if (row["snr"], row["scope"]) == (at, scope) and row["ratio"] is not None
    ]
    if not of:
        return ""
    low, high = (function(of, key=lambda row: row["ratio"]) for function in (min, max))
    middle = np.median([row["ratio"] for row in of])
    return (
        f"For stars with {escape(scope.replace('-', '−'))}, errors at S/N {at:g} are <b>{middle:.1f} times"
        f"</b> the Cramér–Rao bound in the median over labels, from {low['ratio']:.1f} "
        f"({name_of(labels[low['label']])}) to {high['ratio']:.1f} ({name_of(labels[high['label']])})."
    )
