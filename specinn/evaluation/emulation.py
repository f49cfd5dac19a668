"""How good a synthesizer that was trained on a grid is: its spectra, and what a fit with it makes of a star.

Both are compared with spectra of the grid that it has not seen, at the resolving power of a survey. A network
that learns from the emulator cannot be better than a fit with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from specinn.errors import ConfigError, GridError
from specinn.evaluation.metrics import OF_GAUSSIAN
from specinn.spectra.resample import pixel_widths, resampling_operator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from specinn.grids import Grid
    from specinn.plugins.interfaces import Synthesizer

__all__ = [
    "COLUMNS",
    "RESOLVING_POWER",
    "Emulate",
    "Emulation",
    "arm_rows",
    "compare",
    "draw",
    "fits",
    "metrics",
]

Emulate = Callable[[Any], Any]  # flux (n_stars, n_pix) of labels (n_stars, n_labels)

RESOLVING_POWER = 20_000.0
_BIN, _FINE_BIN = 50.0, 10.0  # Angstrom, of metrics and of the figure
_TEFF = (3500, 4000, 4500, 5000, 5500, 6000, 6500, 7501)
_FE_H = (-3.21, -2.0, -1.0, -0.5, 0.0, 0.56)
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_STEP = 2e-3  # of a central difference, in units of a label's range
_ITERATIONS = 8
_HALVINGS = 4

COLUMNS = {
    "arms": {
        "arm": ("", "Arm; all: of all arms together"),
        "stars": ("", "Spectra that the emulator has not seen"),
        **{
            name: ("", f"{text} over stars of the root mean square over pixels of emulated minus true flux")
            for name, text in (("p5", "5 percentile"), ("median", "Median"), ("p95", "95 percentile"),
                               ("largest", "Maximum"))
        },
    },
    "fits": {
        "label": ("", "Label that was fitted, together with all others of the grid"),
        "unit": ("", "Its unit"),
        "stars": ("", "Spectra that were fitted"),
        "snr": ("", "S/N per Angstrom"),
        "bound": ("", "Median Cramer-Rao bound, one sigma"),
        "error": ("", "Median of |fit - truth| over 0.6745"),
        "ratio": ("", "Median of |fit - truth| / bound over 0.6745: 1 if the emulator were perfect"),
    },
}  # fmt: skip


@attrs.frozen(eq=False)
class Emulation:
    """Spectra ``flux (n_stars, n_pix)`` of a grid with the labels ``values (n_stars, n_labels)``, and
    ``difference``, emulated minus these.

    ``wavelength (n_pix,)`` in Angstrom has two pixels per resolution element of ``resolving_power``, in the
    pieces ``arms``; ``emulate`` is the emulator on these pixels, within ``bounds (n_labels, 2)``.
    """

    labels: tuple[str, ...]
    values: np.ndarray
    wavelength: np.ndarray
    arms: dict[str, slice]
    resolving_power: float
    flux: np.ndarray
    difference: np.ndarray
    emulate: Emulate
    bounds: np.ndarray

    def column(self, name: str) -> np.ndarray:
        """One label ``(n_stars,)``."""
        return np.asarray(self.values[:, self.labels.index(name)])

    def rms(self, arm: str | None = None) -> np.ndarray:
        """Root mean square over pixels ``(n_stars,)`` of an arm, or of all."""
        pixels = slice(None) if arm is None else self.arms[arm]
        return np.asarray(np.sqrt(np.square(self.difference[:, pixels]).mean(axis=1)))


def compare(
    emulator: Synthesizer,
    grid: Grid,
    *,
    split: str = "test",
    resolving_power: float = RESOLVING_POWER,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Emulation:
    """Emulate the spectra of one split of a grid, or of ``all``.

    Raises ``GridError`` where the grid has other labels, a lower resolving power, or no spectra of that
    split.
    """
    if tuple(emulator.labels) != tuple(grid.labels):
        raise GridError(
            f"the emulator has the labels {', '.join(emulator.labels)}, the grid {', '.join(grid.labels)}: "
            "an emulator is compared with the grid that it was trained on, or with one of the same labels"
        )
    for name, has in (("emulator", emulator.resolving_power), ("grid", grid.resolving_power)):
        if has < resolving_power:
            raise GridError(
                f"the {name} has a resolving power of {has:g}: expected at least {resolving_power:g}"
            )
    rows = grid.split(split)
    if not len(rows):
        raise GridError(f"the grid has no spectra in the split {split!r}: choose another, or all")
    wavelength, arms = _pixels(emulator, grid, resolving_power)
    emulate = emulator.resampled(
        wavelength,
        arms,
        resampling_operator(
            emulator.wavelength, emulator.arms, emulator.resolving_power, wavelength, arms, resolving_power
        ),
    )
    operator = resampling_operator(
        grid.wavelength, grid.arms, grid.resolving_power, wavelength, arms, resolving_power
    )
    flux, difference, done = [], [], 0
    for part, spectra in grid.blocks(rows):
        flux.append((operator @ spectra.T).T)
        difference.append(np.asarray(emulate(grid.values[part])) - flux[-1])
        done += len(part)
        progress(done, len(rows))
    return Emulation(
        tuple(grid.labels), grid.values[rows], wavelength, arms, resolving_power,
        np.concatenate(flux), np.concatenate(difference), emulate, np.asarray(emulator.bounds, float),
    )  # fmt: skip


def _pixels(emulator: Synthesizer, grid: Grid, resolving_power: float) -> tuple[np.ndarray, dict[str, slice]]:
    """Two pixels per resolution element, slightly inside what both have of each arm."""
    parts, arms, start = [], {}, 0
    for name in emulator.arms:
        if name not in grid.arms:
            raise GridError(f"the grid has the arms {', '.join(grid.arms)}, the emulator has {name}, too")
        both = emulator.wavelength[emulator.arms[name]], grid.wavelength[grid.arms[name]]
        low, high = max(w[0] for w in both) + 3, min(w[-1] for w in both) - 3
        parts.append(np.arange(low, high, 0.5 * (low + high) / resolving_power / 2))
        arms[name] = slice(start, start + parts[-1].size)
        start += parts[-1].size
    return np.concatenate(parts), arms


def metrics(emulation: Emulation) -> dict[str, Any]:
    """The errors as the header of an emulator states them.

    Root mean square over pixels, per star: quantiles over stars of all and by arm, medians in bins of Teff
    and [Fe/H]; and the root mean square over stars in bins of 50 Angstrom.
    """
    rms = emulation.rms()

    def quantiles(values: np.ndarray) -> dict[str, float]:
        return {str(q): float(np.quantile(values, q)) for q in _QUANTILES}

    def binned(values: np.ndarray, edges: Sequence[float]) -> list[dict[str, float]]:
        return [
            {"from": low, "to": high, "stars": int(here.sum()), "median_rms": float(np.median(rms[here]))}
            for low, high in pairwise(edges)
            if (here := (values >= low) & (values < high)).any()
        ]

    return {
        "resolving_power": emulation.resolving_power,
        "stars": len(rms),
        "rms_quantiles": quantiles(rms),
        "by_arm": {name: quantiles(emulation.rms(name)) for name in emulation.arms},
        "by_teff": binned(emulation.column("teff"), _TEFF) if "teff" in emulation.labels else [],
        "by_fe_h": binned(emulation.column("fe_h"), _FE_H),
        "by_wavelength": [
            {"from": low, "to": low + _BIN, "rms": float(np.sqrt(np.square(values).mean()))}
            for arm in emulation.arms
            for low, values in _bins(emulation, arm, _BIN)
        ],
    }


def _bins(emulation: Emulation, arm: str, width: float) -> list[tuple[float, np.ndarray]]:
    """Lower edges of bins of ``width`` Angstrom in an arm, and the differences ``(n_stars, n)`` there."""
    pixels = emulation.arms[arm]
    wave, difference = emulation.wavelength[pixels], emulation.difference[:, pixels]
    lows = np.arange(np.floor(wave[0] / width) * width, wave[-1], width)
    bins = [(float(low), (wave >= low) & (wave < low + width)) for low in lows]
    return [(low, difference[:, here]) for low, here in bins if here.any()]


def arm_rows(emulation: Emulation) -> list[dict[str, Any]]:
    """Rows of the table ``arms`` of :data:`COLUMNS`."""
    rows = []
    for name in (*emulation.arms, "all"):
        rms = emulation.rms(None if name == "all" else name)
        low, middle, high = np.quantile(rms, (0.05, 0.5, 0.95))
        rows.append({"arm": name, "stars": len(rms), "p5": float(low), "median": float(middle),
                     "p95": float(high), "largest": float(rms.max())})  # fmt: skip
    return rows


def fits(
    emulation: Emulation,
    *,
    snr: float = 250.0,
    n_stars: int = 50,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Fit ``n_stars`` spectra, with white noise of ``snr`` per Angstrom, by the emulator, all labels at once.

    Gauss-Newton from the truth, within the bounds of the emulator: the error that is left is that of the
    noise and of the emulator. Rotation, velocity, continuum and resolving power are known. The Cramer-Rao
    bound is that of the emulator's derivatives, with 12 / w^2 of the width w of each label's range as in
    :func:`.information.cramer_rao`. Rows are those of the table ``fits`` of :data:`COLUMNS`. Raises
    ``ConfigError`` for a wrong S/N or number.
    """
    from specinn.labels import make_label

    if not (np.isfinite(snr) and snr > 0):
        raise ConfigError(f"snr = {snr:g}: expected a positive number, S/N per Angstrom")
    if n_stars < 1:
        raise ConfigError(f"n_stars = {n_stars}: expected 1 or more spectra to fit")
    rows = np.linspace(0, len(emulation.values) - 1, min(n_stars, len(emulation.values))).astype(int)
    bounds = emulation.bounds
    width = np.maximum(bounds[:, 1] - bounds[:, 0], 1e-12)
    sigma = 1.0 / (snr * np.sqrt(pixel_widths(emulation.wavelength, emulation.arms)))
    rng = np.random.default_rng(seed)
    errors, limits = [], []
    for i, row in enumerate(rows):
        truth = emulation.values[row]
        observed = emulation.flux[row] + sigma * rng.standard_normal(sigma.size)
        found, jacobian = _fit(emulation.emulate, observed, sigma, truth, bounds)
        prior = 12.0 * np.eye(len(width))
        limits.append(width * np.sqrt(np.diag(np.linalg.inv(jacobian @ jacobian.T + prior))))
        errors.append(np.abs(found - truth))
        progress(i + 1, len(rows))
    error, bound = np.array(errors), np.array(limits)
    return [
        {
            "label": name, "unit": make_label(name, tuple(bounds[k])).printed_unit,
            "stars": len(rows), "snr": snr,
            "bound": float(np.median(bound[:, k])), "error": float(np.median(error[:, k]) / OF_GAUSSIAN),
            "ratio": float(np.median(error[:, k] / bound[:, k]) / OF_GAUSSIAN),
        }
        for k, name in enumerate(emulation.labels)
    ]  # fmt: skip


def _fit(
    emulate: Emulate, observed: np.ndarray, sigma: np.ndarray, start: np.ndarray, bounds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the best fit, and the derivatives ``(n_labels, n_pix)`` there in units of sigma and of the
    width of each label's range."""
    low, width = bounds[:, 0], np.maximum(bounds[:, 1] - bounds[:, 0], 1e-12)

    def residual(at: np.ndarray) -> np.ndarray:
        return (observed - np.asarray(emulate((low + width * at)[None]))[0]) / sigma

    at = ((start - low) / width).clip(0, 1)
    left = residual(at)
    for _ in range(_ITERATIONS):
        jacobian = _derivatives(emulate, at, low, width) / sigma
        fisher = jacobian @ jacobian.T
        step = np.linalg.solve(fisher + 1e-6 * np.eye(len(at)), jacobian @ left)
        for _ in range(_HALVINGS):
            tried = (at + step).clip(0, 1)
            after = residual(tried)
            if after @ after <= left @ left:
                break
            step = step / 2
        else:
            break
        gain = left @ left - after @ after
        at, left = tried, after
        if gain < 1e-2:
            break
    return low + width * at, _derivatives(emulate, at, low, width) / sigma


def _derivatives(emulate: Emulate, at: np.ndarray, low: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Differences ``(n_labels, n_pix)`` per range of each label, central except at the bounds."""
    n = len(at)
    above, below = (np.clip(at + sign * _STEP * np.eye(n), 0, 1) for sign in (1, -1))
    flux = np.asarray(emulate(low + width * np.concatenate([above, below])), dtype=float)
    return np.asarray((flux[:n] - flux[n:]) / (above - below).diagonal()[:, None])


def draw(emulation: Emulation) -> Figure:
    """Errors by wavelength, for each arm, and by Teff and [Fe/H]."""
    from matplotlib.figure import Figure

    from specinn.plotting import BLUE, FAINT, INK, RED, SERIES

    n = len(emulation.arms)
    figure = Figure(figsize=(7.2, 1.5 * n + 2.6), layout="constrained")
    panels = figure.add_gridspec(n + 1, 2, height_ratios=[1.0] * n + [1.7])
    for i, (name, arm) in enumerate(emulation.arms.items()):
        axes = figure.add_subplot(panels[i, :])
        wave = emulation.wavelength[arm]
        lows, values = zip(*_bins(emulation, name, _FINE_BIN), strict=True)
        of_stars = [np.sqrt(np.square(each).mean(axis=1)) for each in values]
        for level, colour, text in ((0.95, RED, "95 % of stars below"), (0.5, BLUE, "median of stars")):
            errors = [np.quantile(each, level) for each in of_stars]
            axes.plot(np.array(lows) + _FINE_BIN / 2, errors, color=colour, label=text)
        axes.set(yscale="log", xlim=(wave[0], wave[-1]), ylabel="rms error", title=f"{name} arm")
        if i == 0:
            figure.legend(*axes.get_legend_handles_labels(), ncols=2, loc="outside upper right")
        if i == n - 1:
            axes.set_xlabel(f"wavelength (Å), bins of {_FINE_BIN:g} Å")
    fe_h, rms = emulation.column("fe_h"), emulation.rms()
    axes = figure.add_subplot(panels[n, 0])
    for (low, high), (colour, _, marker) in zip(((-0.5, 9), (-1.5, -0.5), (-9, -1.5)), SERIES, strict=False):
        here = (fe_h >= low) & (fe_h < high)
        text = f"[Fe/H] > {low:g}" if high > 5 else f"< {high:g}" if low < -5 else f"{low:g} to {high:g}"
        axes.plot(emulation.column("teff")[here], rms[here], ls="", marker=marker, ms=2.5,
                  color=colour, label=text.replace("-", "−"))  # fmt: skip
    axes.set(yscale="log", xlabel="Teff (K)", ylabel="rms error of a star")
    axes.legend(handletextpad=0.1)
    axes = figure.add_subplot(panels[n, 1])
    ordered = np.arange(1, len(fe_h) + 1) / len(fe_h)
    for name, (colour, line, _) in zip(emulation.arms, SERIES, strict=False):
        axes.plot(np.sort(emulation.rms(name)), ordered, color=colour, ls=line, label=name)
    axes.plot(np.sort(rms), ordered, color=INK, label="all")
    axes.axhline(0.5, color=FAINT, lw=0.6)
    axes.set(xscale="log", xlabel="rms error of a star", ylabel="fraction of stars below", ylim=(0, 1))
    axes.legend()
    return figure
