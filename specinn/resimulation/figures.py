"""Figures of observed spectra and the model spectra of the labels inferred from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from specinn.instruments import Instrument
from specinn.plotting import BLUE, FAINT, INK, ORANGE, RED
from specinn.resimulation.result import Resimulation, Window, windows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from specinn.spectra import SpectrumBatch

__all__ = ["examples", "lines", "mean_residual", "spectrum", "whole"]

_ROW = 150.0  # Angstrom in a row of the figure of whole arms, at most
_EXAMPLES = ("Mg", "Ca", "Li", "Fe")  # the elements of figure 7 of Ksoll et al. 2026
_UNUSED = "not used by the network"
_KEY = ("observed", "model at the MAP")  # come first
_NAMES = {"teff": ("T$_{eff}$", "{:.0f} K"), "logg": ("log g", "{:.2f}"), "fe_h": ("[Fe/H]", "{:+.2f}"),
          "vmic": ("v$_{mic}$", "{:.2f} km/s"), "vbroad": ("v$_{broad}$", "{:.1f} km/s")}  # fmt: skip


def whole(star: Resimulation) -> Figure:
    """All arms in rows of at most 150 Angstrom: flux with model and bands, residual below."""
    shown = windows(star, each=20)
    pieces = list(_pieces(star.instrument))
    figure, pairs = _rows(len(pieces), height=1.45, head=0.85)
    low, limit = _floor(star), _limit(100 * star.residual[star.used])
    for (flux, residual), (arm, ends) in zip(pairs, pieces, strict=True):
        _compare(flux, residual, star, star.instrument.slices[arm], ends, low, thin=True)
        residual.set_ylim(-limit, limit)
        flux.set_ylabel(f"flux, {arm}")
        residual.set_ylabel("O−M (%)", fontsize=7)
        for window in shown:
            centre = 0.5 * (window.low + window.high)
            if window.line.diagnostic and ends[0] <= centre <= ends[1]:
                flux.plot([centre] * 2, [1.05, 1.085], color=INK, linewidth=0.5, clip_on=False)
                flux.text(centre, 1.10, window.line.species, ha="center", fontsize=5)
    pairs[-1][1].set_xlabel(f"wavelength in {star.instrument.medium} (Å)")
    figure.align_ylabels([axes for pair in pairs for axes in pair])
    _head(figure, star, pairs[0][0])
    return figure


def spectrum(read: SpectrumBatch, star: Resimulation) -> Figure:
    """One spectrum as read, and below it as prepared, with the model spectrum at the MAP and the difference.

    ``read`` is that spectrum alone. What is masked is missing from the lines; behind the spectrum as read
    are the arms of the model. The note of the star stands at the top.
    """
    from specinn.plotting import Figure

    pieces = list(_pieces(star.instrument))
    height, head = 1.45 * (len(pieces) + 1), 0.85
    total = height + head + 0.45
    figure = Figure(figsize=(11.0, total))
    outer = figure.add_gridspec(
        len(pieces) + 1, 1, left=0.058, right=0.99, bottom=0.45 / total, top=1.0 - head / total, hspace=0.36
    )
    _as_read(figure.add_subplot(outer[0]), read, star.instrument)
    pairs = [_cell(figure, outer[i + 1], 2.2) for i in range(len(pieces))]
    finite = star.flux[np.isfinite(star.flux)]
    low = float(np.clip(np.percentile(finite, 0.1) - 0.05, -0.05, 0.6)) if finite.size else 0.0
    limit = _limit(100 * star.residual[star.used])
    for (flux, residual), (arm, ends) in zip(pairs, pieces, strict=True):
        _compare(flux, residual, star, star.instrument.slices[arm], ends, low, thin=True)
        residual.set_ylim(-limit, limit)
        flux.set_ylabel(f"flux, {arm}")
        residual.set_ylabel("O−M (%)", fontsize=7)
    pairs[-1][1].set_xlabel(f"wavelength in {star.instrument.medium} at rest (Å)")
    _head(figure, star, pairs[0][0])
    figure.align_ylabels([axes for pair in pairs for axes in pair])
    if star.note:
        top = 1.0 - 0.29 / total
        figure.text(0.008, top, star.note[:110], fontsize=7.5, va="top", color=RED, parse_math=False)
    return figure


def _as_read(axes: Axes, read: SpectrumBatch, instrument: Instrument) -> None:
    """The flux of the file at the wavelengths of the file, every piece separately."""
    wave, flux, bad = read.wavelength, read.flux[0], read.mask[0]
    shown = np.where(bad, np.nan, flux)
    for piece in read.arms.values() or [slice(0, wave.size)]:
        axes.plot(wave[piece], shown[piece], color=INK, linewidth=0.5, rasterized=True)
    for arm in instrument.arms:
        axes.axvspan(*arm.range, color=BLUE, alpha=0.08, linewidth=0, zorder=0)
    axes.set_xlim(float(wave.min()), float(wave.max()))
    good = flux[~bad]
    if good.size:  # a few outliers do not compress the others
        low, high = np.percentile(good, (0.2, 99.8))
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(min(low - margin, 0.0) if low < 0.5 * high else low - margin, high + margin)
    axes.set_ylabel("as read")
    power = read.resolving_power
    about = [f"{(~bad).sum()} good pixels of {bad.size}", read.medium]
    if power is not None:
        about.append(f"R {float(np.median(power)):.0f}")
    for name in ("frame", "medium_from"):
        if name in read.meta.colnames and str(read.meta[name][0]):
            about.append(f"{name.replace('_', ' ')} {read.meta[name][0]}")
    axes.set_title(", ".join(about), fontsize=7, loc="right", pad=2, parse_math=False)


def lines(star: Resimulation, columns: int = 4) -> Figure:
    """Windows around the lines of every element that the model infers, one element per row."""
    chosen = windows(star, each=columns)
    elements = list(dict.fromkeys(window.element for window in chosen))
    figure, grid = _grid(max(len(elements), 1), columns, 1.45, head=0.95)
    key: Any = None
    for row, element in enumerate(elements):
        of_element = [window for window in chosen if window.element == element]
        wide = (
            len(of_element) == 1 and of_element[0].high - of_element[0].low > 20.0
        )  # the Balmer wings have a row to themselves
        for column, window in enumerate(of_element):
            pair = _cell(figure, grid[row, :] if wide else grid[row, column])
            _window(*pair, star, window)
            _ends(pair, column == 0)
            key = key or pair[0]
    _head(figure, star, key)
    figure.text(0.99, 0.1 / figure.get_figheight(), "* lines by which Ksoll et al. 2026 measure abundances",
                ha="right", fontsize=7.5)  # fmt: skip
    return figure


def examples(stars: Sequence[Resimulation]) -> Figure:
    """Several stars, one per row: the most informative lines of Mg, Ca, Li and Fe."""
    figure, grid = _grid(len(stars), len(_EXAMPLES), 1.65, head=0.5)
    key: Any = None
    for row, star in enumerate(stars):
        by_element = {window.element: window for window in windows(star, each=1)}
        for column, element in enumerate(_EXAMPLES):
            if element not in by_element:
                continue
            pair = _cell(figure, grid[row, column])
            _window(*pair, star, by_element[element])
            _ends(pair, column == 0)
            key = key or pair[0]
        figure.text(0.008, grid[row, 0].get_position(figure).y1 + 0.14 / figure.get_figheight(), star.id,
                    fontsize=9, fontweight="bold")  # fmt: skip
    _key(figure, key, 1.0)
    return figure


def mean_residual(instrument: Instrument, sums: np.ndarray, used: np.ndarray) -> Figure:
    """Observed minus model flux by wavelength over many stars: mean, and standard deviation about it.

    ``sums (3, n_pix)``: number of stars, sum of residuals and of their squares; ``used (n_pix,)``.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = 100 * sums[1] / sums[0]
        spread = np.sqrt(np.maximum(1e4 * sums[2] / sums[0] - mean**2, 0.0))
    pieces = list(_pieces(instrument))
    figure, pairs = _rows(len(pieces), height=1.0, head=0.4, residuals=False)
    limit = _limit((np.abs(mean) + spread)[used])
    for (axes, _), (arm, ends) in zip(pairs, pieces, strict=True):
        where = instrument.slices[arm]
        wave = instrument.wavelength[where]
        axes.fill_between(wave, (mean - spread)[where], (mean + spread)[where], color=BLUE, alpha=0.25,
                          linewidth=0, label="± standard deviation over stars", rasterized=True)  # fmt: skip
        axes.plot(wave, mean[where], color=INK, linewidth=0.6, label="mean over stars")
        axes.axhline(0, color=FAINT, linewidth=0.5)
        _shade(axes, wave, ~used[where] & (sums[0, where] > 0))
        axes.set_xlim(*ends)
        axes.set_ylim(-limit, limit)
        axes.set_ylabel(f"{arm} arm")
    pairs[-1][0].set_xlabel(f"wavelength in {instrument.medium} (Å)")
    figure.text(0.99, 1.0 - 0.1 / figure.get_figheight(), "observed − model (% of the continuum)", ha="right",
                va="top", fontsize=9)  # fmt: skip
    _key(figure, pairs[0][0], 1.0)
    return figure


def _compare(
    flux: Axes, residual: Axes, star: Resimulation, arm: slice, ends: tuple[float, float], low: float,
    *, thin: bool = False,
) -> None:  # fmt: skip
    """Observed and model flux with bands, and below it observed minus model in per cent."""
    wave = star.wavelength[arm]
    near = (wave >= ends[0]) & (wave <= ends[1])
    index = np.arange(arm.start, arm.stop)[near]
    wave = wave[near]
    model, off = star.model[index], 100 * star.residual[index]
    for (lower, upper), shade in (((0, 3), 0.3), ((1, 2), 0.55)):
        percent = 95 if lower == 0 else 68
        bottom, top = star.bands[lower, index], star.bands[upper, index]
        if not np.isfinite(star.bands).any():
            continue
        flux.fill_between(wave, bottom, top, color=ORANGE, alpha=shade, linewidth=0,
                          label=f"{percent} % of posterior samples")  # fmt: skip
        residual.fill_between(wave, 100 * (bottom - model), 100 * (top - model), color=ORANGE,
                              alpha=shade, linewidth=0)  # fmt: skip
    if thin:
        flux.plot(wave, star.flux[index], color=INK, linewidth=1.1, label="observed")
    else:
        flux.errorbar(wave, star.flux[index], star.sigma[index], fmt="o", color=INK, markersize=1.8,
                      elinewidth=0.5, linewidth=0, label="observed")  # fmt: skip
    flux.plot(wave, model, color=RED, linewidth=0.5 if thin else 1.1, label="model at the MAP")
    residual.plot(wave, off, color=INK, linewidth=0.5 if thin else 0.8)
    residual.axhline(0, color=RED, linewidth=0.6)
    for axes in (flux, residual):
        _shade(axes, wave, (star.good & ~star.used)[index])
        axes.set_xlim(*ends)
    flux.set_ylim(low, 1.09)
    flux.tick_params(labelbottom=False)


def _window(flux: Axes, residual: Axes, star: Resimulation, window: Window) -> None:
    centre = 0.5 * (window.low + window.high)
    for arm in star.instrument.slices.values():
        if star.wavelength[arm][0] <= centre <= star.wavelength[arm][-1]:
            break
    inside = (star.wavelength[arm] >= window.low) & (star.wavelength[arm] <= window.high)
    deepest = np.nanmin(np.concatenate([star.flux[arm][inside], star.model[arm][inside], [1.0]]))
    low = min(float(deepest) - 0.05, 0.85)
    _compare(flux, residual, star, arm, (window.low, window.high), low)
    limit = float(np.nanmax(np.abs(100 * star.residual[arm][inside]), initial=2.0))
    residual.set_ylim(-1.15 * limit, 1.15 * limit)
    flux.axvline(centre, color=FAINT, linewidth=0.6, linestyle=":", zorder=0)
    flux.set_title(window.line.name + (" *" if window.line.diagnostic else ""), fontsize=7.5, pad=2)


def _shade(axes: Axes, wave: np.ndarray, where: np.ndarray) -> None:
    """Grey behind pixels that the trained model does not use."""
    axes.fill_between(wave, 0, 1, where=where.tolist(), transform=axes.get_xaxis_transform(), color=FAINT,
                      alpha=0.28, linewidth=0, step="mid", zorder=0, label=_UNUSED)  # fmt: skip


def _floor(star: Resimulation) -> float:
    """The lower end of the flux axis: below all but a few pixels."""
    finite = star.flux[star.good]
    return float(np.clip(np.percentile(finite, 0.1) - 0.05, -0.05, 0.6)) if finite.size else 0.0


def _limit(values: np.ndarray) -> float:
    """The end of an axis of residuals, beyond which are the few largest."""
    values = np.abs(values[np.isfinite(values)])
    return max(1.0, 1.5 * float(np.percentile(values, 99))) if values.size else 1.0


def _pieces(instrument: Instrument) -> Iterator[tuple[str, tuple[float, float]]]:
    """The rows of whole arms: name of the arm, first and last Angstrom."""
    for arm in instrument.arms:
        low, high = arm.range
        edges = np.linspace(low, high, int(np.ceil((high - low) / _ROW)) + 1)
        yield from ((arm.name, (float(a), float(b))) for a, b in pairwise(edges))


def _rows(
    n: int, height: float, head: float, residuals: bool = True
) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    from specinn.plotting import Figure

    total = n * height + head + 0.45
    figure = Figure(figsize=(11.0, total))
    bottom, top = 0.45 / total, 1.0 - head / total
    outer = figure.add_gridspec(n, 1, left=0.058, right=0.99, bottom=bottom, top=top, hspace=0.28)
    if residuals:
        return figure, [_cell(figure, outer[i], 2.2) for i in range(n)]
    panels = [figure.add_subplot(outer[i]) for i in range(n)]
    return figure, [(axes, axes) for axes in panels]


def _grid(rows: int, columns: int, height: float, head: float) -> tuple[Figure, Any]:
    from specinn.plotting import Figure

    total = rows * height + head + 0.45
    figure = Figure(figsize=(2.55 * columns, total))
    return figure, figure.add_gridspec(
        rows,
        columns,
        left=0.065,
        right=0.99,
        bottom=0.45 / total,
        top=1.0 - 0.95 / total,
        hspace=0.42,
        wspace=0.2,
    )


def _cell(figure: Figure, where: Any, ratio: float = 2.4) -> tuple[Axes, Axes]:
    inner = where.subgridspec(2, 1, height_ratios=(ratio, 1.0), hspace=0.06)
    flux = figure.add_subplot(inner[0])
    return flux, figure.add_subplot(inner[1], sharex=flux)


def _ends(pair: tuple[Axes, Axes], first: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    if first:
        pair[0].set_ylabel("flux")
        pair[1].set_ylabel("O−M (%)", fontsize=7)
        pair[0].figure.align_ylabels(pair)
    pair[1].xaxis.get_major_formatter().set_useOffset(False)  # type: ignore[attr-defined]
    pair[1].locator_params(axis="x", nbins=4)
    pair[0].locator_params(axis="y", nbins=4)
    pair[1].yaxis.set_major_locator(MaxNLocator(4, prune="both"))


def _head(figure: Figure, star: Resimulation, key: Any) -> None:
    """Who the star is, what was inferred, and how well the two agree."""
    numbers = star.numbers()
    labels = [text + " " + form.format(star.labels[name]).replace("-", "−")
              for name, (text, form) in _NAMES.items() if name in star.labels]  # fmt: skip
    off = [f"{numbers[f'mean_abs{end}']:.2f} % of the continuum over {what} pixels"
           for end, what in (("", "all"), ("_used", "used")) if numbers[f"n_pixels{end}"]]  # fmt: skip
    height = figure.get_figheight()
    right: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": 8.5}
    figure.text(
        0.008, 1.0 - 0.08 / height, star.id, fontsize=11, fontweight="bold", va="top", parse_math=False
    )
    figure.text(0.99, 1.0 - 0.1 / height, "   ".join(labels), **right)
    if off:
        figure.text(0.99, 1.0 - 0.29 / height, "mean |observed − model|: " + ", ".join(off), **right)
    _key(figure, key, 1.0 - 0.42 / height)


def _key(figure: Figure, axes: Any, y: float) -> None:
    if axes is not None:
        by_label = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        names = sorted(by_label, key=lambda name: _KEY.index(name) if name in _KEY else len(_KEY))
        handles = [by_label[name] for name in names]
        figure.legend(handles, names, loc="upper left", bbox_to_anchor=(0.0, y), ncols=len(names),
                      fontsize=7.5, handlelength=1.8, columnspacing=1.4)  # fmt: skip
