"""The page of a fit: residuals before and after, spectra of every star and window, and the worst 50
features."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from scipy.ndimage import gaussian_filter1d, label

from specinn.files import replacing
from specinn.wavelengths import C_KMS, FWHM_PER_SIGMA
from specinn_turbospectrum.line_fit.fit import COMPARED_AT, WRONG, Residuals, Result
from specinn_turbospectrum.line_fit.recipe import Recipe

_PIECES = 3  # of each window, shown
_PIECE = 12.0  # Angstrom
_WORST = 50
_AROUND = 1.2  # Angstrom on both sides of a feature
_SMOOTH = C_KMS / COMPARED_AT / FWHM_PER_SIGMA  # km/s, in steps of 1 km/s
_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.15rem .7rem;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}img{width:100%}h2{margin-top:2.2rem}"
)


def write_page(result: Result, recipe: Recipe, table: Table, path: Path) -> None:
    """One self-contained HTML file, complete or not at all."""
    fitted = [star.name for star in recipe.stars]
    parts = [
        "<h1>Line data fitted to reference stars</h1>",
        _sentence(table, fitted),
        "<h2>Residuals</h2>",
        f"<p>Synthetic minus observed normalised flux at R = {COMPARED_AT:.0f}: pixels off by more than "
        f"{100 * WRONG:.0f} % "
        "before and after, and with the star left out of the fit; mean absolute difference in brackets.</p>",
        _residual_table(result, fitted),
        "<h2>Spectra</h2>",
        "<p>Observed (black), synthetic before (grey) and after (red), "
        "at the resolving power of each spectrum.</p>",
    ]
    for star, windows in result.spectra.items():
        parts.append(f"<h3>{escape(star)}</h3>")
        parts += [
            _image(_pieces(name, arm), f"{star}, {name}")
            for name, arm in windows.items()
            if np.isfinite(arm["observed"]).any()
        ]
    worst = _worst(result, fitted)
    parts += [
        f"<h2>The worst {len(worst)} features</h2>",
        f"<p>Of the fitted stars, by the largest difference at R = {COMPARED_AT:.0f}.</p>",
        _image(_features(worst, result), "; ".join(map(_title, worst))) if worst else "",
    ]
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>Line data</title><style>{_STYLE}</style>'
    text = f'<!doctype html><html lang="en">{head}{body}</html>\n'
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def _sentence(table: Table, fitted: list[str]) -> str:
    kinds, counts = np.unique(np.asarray(table["verdict"]), return_counts=True)
    numbers = ", ".join(
        f"{count} {kind}" for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True)
    )
    return f"<p>{len(table)} lines, fitted to {escape(', '.join(fitted))}: {escape(numbers)}.</p>"


def _residual_table(result: Result, fitted: list[str]) -> str:
    windows = list(dict.fromkeys(name for stars in result.before.values() for name in stars))
    head = "".join(f"<th>{escape(name)}</th>" for name in windows)
    rows = []
    for star, before in result.before.items():
        after, left_out = result.after[star], result.left_out.get(star, {})
        role = "fitted" if star in fitted else "not fitted"
        cells = "".join(
            f"<td>{_change(before.get(name), after.get(name), left_out.get(name))}</td>" for name in windows
        )
        rows.append(f"<tr><td>{escape(star)} ({role})</td>{cells}</tr>")
    return f"<table><tr><th>star</th>{head}</tr>{''.join(rows)}</table>"


def _change(before: Residuals | None, after: Residuals | None, left_out: Residuals | None) -> str:
    if before is None or after is None:
        return "–"
    text = f"{100 * before.wrong:.1f} → {100 * after.wrong:.1f} %"
    if left_out is not None:
        text += f", left out {100 * left_out.wrong:.1f} %"
    return f"{text} ({before.mean:.4f} → {after.mean:.4f})"


def _image(figure: Any, shows: str) -> str:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=85, bbox_inches="tight")
    data = base64.b64encode(drawn.getvalue()).decode("ascii")
    return f'<img alt="{escape(shows)}" src="data:image/png;base64,{data}">'


def _pieces(name: str, arm: Mapping[str, np.ndarray]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 2.2 * _PIECES), layout="constrained")
    observed = arm["wavelength"][np.isfinite(arm["observed"])]
    starts = np.linspace(observed[0], max(observed[-1] - _PIECE, observed[0]), _PIECES + 2)[1:-1]
    for axes, start in zip(figure.subplots(_PIECES, 1), starts, strict=True):
        rows = (arm["wavelength"] >= start) & (arm["wavelength"] <= start + _PIECE)
        _lines(axes, {key: values[rows] for key, values in arm.items()})
    figure.suptitle(f"{name} (wavelength in Å)")
    return figure


def _lines(axes: Any, piece: Mapping[str, np.ndarray]) -> None:
    axes.plot(piece["wavelength"], piece["before"], color="0.7", lw=0.9)
    axes.plot(piece["wavelength"], piece["observed"], color="k", lw=1.0)
    axes.plot(piece["wavelength"], piece["after"], color="C3", lw=0.9)
    axes.set_ylim(-0.02, 1.1)
    axes.margins(x=0)


def _worst(result: Result, fitted: list[str]) -> list[tuple[float, str, str, float]]:
    """Difference, star, window and wavelength of the features that are farthest off."""
    out = []
    for star in fitted:
        for name, arm in result.spectra[star].items():
            finite = np.isfinite(arm["observed"])
            difference = gaussian_filter1d(np.where(finite, arm["after"] - arm["observed"], 0.0), _SMOOTH)
            features, n = label(np.abs(difference) > WRONG)
            for number in range(1, n + 1):
                rows = np.flatnonzero(features == number)
                peak = rows[np.abs(difference[rows]).argmax()]
                out.append((float(difference[peak]), star, name, float(arm["wavelength"][peak])))
    return sorted(out, key=lambda one: -abs(one[0]))[:_WORST]


def _title(feature: tuple[float, str, str, float]) -> str:
    difference, star, _, wavelength = feature
    return f"{star} {wavelength:.2f} Å: {difference:+.2f}"


def _features(worst: list[tuple[float, str, str, float]], result: Result) -> Any:
    from matplotlib.figure import Figure

    n_rows = -(-len(worst) // 5)
    figure = Figure(figsize=(15, 2.1 * n_rows), layout="constrained")
    axes = np.ravel(figure.subplots(n_rows, 5, squeeze=False))
    for axis in axes[len(worst) :]:
        axis.set_visible(False)
    for axis, feature in zip(axes, worst, strict=False):
        _, star, name, wavelength = feature
        arm = result.spectra[star][name]
        rows = np.abs(arm["wavelength"] - wavelength) < _AROUND
        _lines(axis, {key: values[rows] for key, values in arm.items()})
        axis.set_title(_title(feature), fontsize=9)
        axis.tick_params(labelsize=7)
    return figure
