"""Which pixels a model uses: the gradient of each label with respect to the flux, and the lines there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from astropy.table import Column, MaskedColumn, Table

from specinn.errors import ConfigError, GridError
from specinn.evaluation.ksoll2026 import PUBLISHED_SNR
from specinn.evaluation.simulation import Simulation
from specinn.instruments import Instrument
from specinn.labels import LabelSet
from specinn.lines import Line, lines_near, read_lines
from specinn.plugins import Plugins
from specinn.wavelengths import vacuum_to_air

if TYPE_CHECKING:
    from specinn.grids import Grid
    from specinn.plugins.interfaces import Estimator

__all__ = ["FEATURES", "STRONG", "Saliency", "draw", "feature_table", "pixel_table", "saliency"]

STRONG = 3.0  # standard deviations above the mean, from which on a pixel is a strong one
_HEADROOM = 2.2  # height of a panel in units of its highest pixel: the rest is for names
_ROOM = 0.016  # width of a name in units of a panel
_APART = 0.5  # Angstrom between features without a name: about a line's full width and a half


@attrs.frozen(eq=False)
class Saliency:
    """Median gradients over a test set.

    ``strength (n_labels, n_pix)`` is the median over spectra of the absolute gradient, ``signed`` that of the
    gradient itself. The gradient of a label in a spectrum is a vector over pixels, normalised to length 1
    before. ``used (n_pix,)`` marks the pixels that the model uses; ``n_spectra`` have a gradient.
    """

    labels: LabelSet
    instrument: Instrument
    strength: np.ndarray
    signed: np.ndarray
    used: np.ndarray
    n_spectra: int

    @property
    def wavelength(self) -> np.ndarray:
        """``(n_pix,)`` Angstrom, in the medium of the instrument."""
        return self.instrument.wavelength

    @property
    def threshold(self) -> np.ndarray:
        """``(n_labels,)`` strength above which a pixel is a strong one: the mean over the pixels in use and
        three standard deviations."""
        strength = self.strength[:, self.used]
        limit: np.ndarray = strength.mean(axis=1) + STRONG * strength.std(axis=1)
        return limit

    def features(self, n: int = 10, lines: Sequence[Line] | None = None) -> list[dict[str, Any]]:
        """The ``n`` strongest features of each label, strongest first, with the keys of :data:`FEATURES`.

        A feature is a strong pixel with none stronger nearby. It belongs to the nearest line of the table
        that reaches it, whatever its species; of the pixels of one line only the strongest is listed.
        """
        lines = read_lines() if lines is None else lines
        air = self.wavelength if self.instrument.medium == "air" else vacuum_to_air(self.wavelength)
        rows: list[dict[str, Any]] = []
        for k, label in enumerate(self.labels):
            taken: list[float] = []
            names: set[str] = set()
            strong = np.flatnonzero(self.used & (self.strength[k] > self.threshold[k]))
            for pixel in strong[np.argsort(-self.strength[k, strong], kind="stable")]:
                wave = float(self.wavelength[pixel])
                near = lines_near(float(air[pixel]), lines)
                if any(abs(wave - other) < _APART for other in taken) or (near and near[0].name in names):
                    continue
                taken.append(wave)
                names.update(line.name for line in near[:1])
                rows.append({
                    "label": label.name, "rank": len(taken), "wavelength": wave,
                    "strength": float(self.strength[k, pixel]), "signed": float(self.signed[k, pixel]),
                    "species": near[0].species if near else None,
                    "line": near[0].wavelength if near else None,
                    "diagnostic": bool(near and near[0].diagnostic),
                    "others": ", ".join(line.name for line in near[1:]),
                })  # fmt: skip
                if len(taken) == n:
                    break
        return rows


def saliency(
    estimator: Estimator,
    grid: Grid,
    *,
    snr: float = PUBLISHED_SNR,
    split: str = "test",
    n_spectra: int = 500,
    n_samples: int = 64,
    seed: int = 0,
    plugins: Plugins | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Saliency:
    """The saliency of every label over one split of a grid, as in Ksoll et al. 2026 (figures 11 and 12).

    Spectra are simulated as for ``specinn evaluate grid`` at one S/N per Angstrom, of at most ``n_spectra``
    models, evenly from the split. The gradient is that of the mean of ``n_samples`` posterior samples, whose
    latent draws do not depend on the flux, with respect to the flux that the network receives. Gradients are
    normalised to length 1 for every spectrum and label, then the median is taken over spectra. A spectrum
    whose gradient is zero or not finite does not count.

    Raises ``ModelError`` for an estimator without gradients, ``GridError`` where the grid does not suit the
    model, ``ConfigError`` for wrong options.
    """
    if not 0 < snr < np.inf or n_spectra < 1 or n_samples < 1 or seed < 0:
        raise ConfigError(
            f"snr {snr}, spectra {n_spectra}, samples {n_samples}, seed {seed}: expected a positive S/N, "
            "at least one spectrum and sample, and a seed of at least 0"
        )
    plugins = Plugins() if plugins is None else plugins
    rows = grid.split(split)
    if not rows.size:
        raise GridError(f"none of the {len(grid)} models of the grid is in the split {split!r}")
    rows = rows[np.unique(np.linspace(0, rows.size - 1, min(n_spectra, rows.size)).round().astype(int))]
    used = estimator.used_pixels
    simulation = Simulation(estimator, grid, plugins, seed)
    simulation.truth(rows[:1], estimator.labels)  # checks that the grid has the labels
    gradients = np.empty((len(rows), len(estimator.labels), int(used.sum())), np.float32)
    done = 0
    for part, _, batch in simulation.batches(rows, [snr]):
        gradient = estimator.gradients(batch, n_samples, seed)[:, :, used].astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            gradient /= np.sqrt((gradient**2).sum(axis=2, keepdims=True))
        gradients[done : done + len(part)] = gradient
        done += len(part)
        progress(done, len(rows))
    finite = np.isfinite(gradients).all(axis=(1, 2))
    if not finite.any():
        raise GridError("no spectrum of the grid has a gradient: does the grid suit the model?")
    strength, signed = np.zeros((2, len(estimator.labels), used.size))
    for k in range(len(estimator.labels)):  # label by label, so that copies stay small
        signed[k, used] = np.median(gradients[finite, k], axis=0)
        strength[k, used] = np.median(np.abs(gradients[finite, k]), axis=0)
    return Saliency(estimator.labels, estimator.instrument, strength, signed, used, int(finite.sum()))


FEATURES = {
    "label": ("", "Label"),
    "rank": ("", "Rank of the feature, by strength"),
    "wavelength": ("Angstrom", "Wavelength of the strongest pixel"),
    "strength": ("", "Median absolute normalised gradient there"),
    "signed": ("", "Median normalised gradient there: negative where a deeper line raises the label"),
    "species": ("", "Species of the line; empty where the table has none"),
    "line": ("Angstrom", "Wavelength of the line in air"),
    "diagnostic": ("", "Whether it is a diagnostic line of Ksoll et al. 2026 (A&A 708, A118)"),
    "others": ("", "Further lines of the table that reach the pixel, nearest first"),
}


def feature_table(rows: Sequence[dict[str, Any]], meta: dict[str, Any]) -> Table:
    """Rows of :meth:`Saliency.features` with units and descriptions."""
    table = Table(meta=dict(meta))
    for name, (unit, description) in FEATURES.items():
        values = [row[name] for row in rows]
        info = {"name": name, "unit": unit or None, "description": description}
        if name == "species":
            table[name] = Column([value or "" for value in values], dtype=str, **info)
        elif name == "line":
            missing = [value is None for value in values]
            filled = np.array([np.nan if value is None else value for value in values], dtype=float)
            table[name] = MaskedColumn(filled, mask=missing, **info)
        else:
            table[name] = Column(values, **info)
    return table


def pixel_table(result: Saliency, meta: dict[str, Any]) -> Table:
    """One row per pixel: wavelength, arm, whether it is used, and for each label strength and sign."""
    table = Table(meta=dict(meta))
    table["wavelength"] = Column(result.wavelength, unit="Angstrom", description="Pixel centre")
    arms = np.empty(result.used.size, dtype=object)
    for name, where in result.instrument.slices.items():
        arms[where] = name
    table["arm"] = Column(arms.astype(str), description="Arm of the instrument")
    table["used"] = Column(result.used, description="Whether the model looks at the pixel")
    for k, label in enumerate(result.labels):
        for end, values, what in (
            ("", result.strength, "Median absolute normalised gradient"),
            ("_signed", result.signed, "Median normalised gradient"),
        ):
            table[f"{label.name}{end}"] = Column(
                values[k].round(7), description=f"{what} of {label.description or label.name}"
            )
    return table


def draw(result: Saliency, rows: Sequence[dict[str, Any]], named: int = 6) -> Any:
    """A matplotlib figure: one panel per label and arm, strong pixels in black, the strongest features
    named."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arms = list(result.instrument.slices.items())
    widths = [arm.range[1] - arm.range[0] for arm in result.instrument.arms]
    figure = Figure(figsize=(11, 1.0 + 1.25 * len(result.labels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(result.labels), len(arms), sharex="col", sharey="row", squeeze=False, width_ratios=widths
    )
    for k, (label, limit) in enumerate(zip(result.labels, result.threshold, strict=True)):
        strength = np.where(result.used, result.strength[k], np.nan)
        strong = strength > limit
        top = float(np.nanmax(strength))
        for axis, (name, where), arm in zip(axes[k], arms, result.instrument.arms, strict=True):
            wave = result.wavelength[where]
            axis.vlines(wave, 0, strength[where], color="0.75", linewidth=0.4, rasterized=True)
            axis.vlines(wave[strong[where]], 0, strength[where][strong[where]], color="black", linewidth=0.7)
            axis.set_xlim(*arm.range)
            axis.set_ylim(0, _HEADROOM * top)
            axis.set_yticks([])
            axis.spines[["top", "right"]].set_visible(False)
            if k == 0:
                axis.set_title(name, fontsize=9)
        axes[k, 0].set_ylabel(label.name, fontsize=9)
        of_label = [row for row in rows if row["label"] == label.name][:named]
        for axis, arm in zip(axes[k], result.instrument.arms, strict=True):
            low, high = arm.range
            _name(
                axis,
                [row for row in of_label if low <= row["wavelength"] <= high],
                arm.range,
                _HEADROOM * top,
            )
    figure.suptitle(
        "median normalised gradient of each label with respect to the flux; black: 3 standard deviations "
        "above the mean\nred: diagnostic lines (Ksoll et al. 2026), blue: other lines, grey: no known line",
        fontsize=9,
    )
    for axis in axes[-1]:
        axis.set_xlabel(f"wavelength in {result.instrument.medium} (Angstrom)", fontsize=9)
        axis.tick_params(labelsize=8)
    return figure


def _name(axis: Any, rows: Sequence[dict[str, Any]], ends: tuple[float, float], top: float) -> None:
    """Names above features at height ``top``, moved apart where they would overlap."""
    rows = sorted(rows, key=lambda row: row["wavelength"])
    room = _ROOM * (ends[1] - ends[0])
    at = [float(np.clip(row["wavelength"], ends[0] + room / 2, ends[1] - room / 2)) for row in rows]
    for i in range(1, len(at)):
        at[i] = max(at[i], at[i - 1] + room)
    for i in range(len(at) - 1, -1, -1):
        at[i] = min(at[i], ends[1] - room * (len(at) - i - 0.5))
    for row, position in zip(rows, at, strict=True):
        text = f"{row['species']} {row['line']:.1f}" if row["species"] else f"{row['wavelength']:.1f}"
        colour = "tab:red" if row["diagnostic"] else "tab:blue" if row["species"] else "0.4"
        axis.annotate(
            text, (row["wavelength"], row["strength"]), (position, top), rotation=90, fontsize=6,
            color=colour, ha="center", va="top",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
