"""Figures of the posterior of one star: one histogram per label, and all pairs of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from specinn.errors import ConfigError, ModelError
from specinn.labels import Label, with_derived_labels
from specinn.plotting import BLUE, FAINT, INK, RED
from specinn.plotting import Figure as Canvas
from specinn.posterior.display import value_with_errors
from specinn.posterior.export import optional, some_accepted
from specinn.posterior.summary import QUANTILES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from specinn.posterior.samples import Posterior

__all__ = ["corner", "plot"]

_COLUMNS = 4
_BINS = 36
_FEWEST = 50  # samples that a corner plot needs
_INSIDE = (0.68, 0.95)  # shares of the samples within the contours
_EDGES = (0.002, 0.998)  # quantiles that limit the plotted range


@attrs.frozen(eq=False)
class _Star:
    """Chosen labels of one star: ``values (n, n_labels)`` accepted samples, MAP ``best``, percentiles, upper
    limits (NaN for detections), whether they are not determined (``lost``), and the plotted range ``low`` to
    ``high``."""

    name: str
    labels: list[Label]
    values: np.ndarray
    best: np.ndarray
    p16: np.ndarray
    p84: np.ndarray
    limit: np.ndarray
    lost: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def title(self, i: int) -> str:
        """The value of a label with its errors, or the upper limit."""
        if self.lost[i]:
            return "not determined"
        value = value_with_errors(self.best[i], self.p16[i], self.p84[i])
        unit = self.labels[i].printed_unit
        value = f"< {self.limit[i]:.2f}" if np.isfinite(self.limit[i]) else value
        return (value if unit == "dex" else f"{value} {unit}").replace("-", "−")


def plot(
    posterior: Posterior,
    star: int | str,
    labels: Sequence[str] | str | None,
    figure: Figure | None,
) -> Figure:
    """See :meth:`specinn.posterior.Posterior.plot`."""
    chosen = _find(posterior, star, labels)
    n = len(chosen.labels)
    columns = min(_COLUMNS, n)
    rows = -(-n // columns)
    if figure is None:
        figure = Canvas(figsize=(2.6 * columns, 1.75 * rows + 0.5), layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in every[n:]:
        axes.remove()
    for i, (axes, label) in enumerate(zip(every, chosen.labels, strict=False)):
        axes.hist(
            chosen.values[:, i], bins=_BINS, range=(chosen.low[i], chosen.high[i]), color=FAINT, alpha=0.6
        )
        if np.isfinite(chosen.limit[i]):
            axes.axvline(chosen.limit[i], color=RED, linestyle="--", label="95 % upper limit")
        elif not chosen.lost[i]:
            axes.axvspan(chosen.p16[i], chosen.p84[i], color=BLUE, alpha=0.2, linewidth=0, label="16 to 84 %")
            axes.axvline(chosen.best[i], color=RED, label="MAP")
        _dress(axes, label, chosen.low[i], chosen.high[i])
        axes.set_title(chosen.title(i), fontsize="small")
    handles = {name: handle for axes in every[:n]
               for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}  # fmt: skip
    figure.suptitle(chosen.name, x=0.01, ha="left", fontsize="medium")
    figure.legend(handles.values(), handles.keys(), loc="upper right", ncols=len(handles), frameon=False,
                  fontsize="small")  # fmt: skip
    return figure


def corner(
    posterior: Posterior,
    star: int | str,
    labels: Sequence[str] | str | None,
    truths: Mapping[str, float] | Sequence[float] | None,
    figure: Figure | None,
) -> Figure:
    """See :meth:`specinn.posterior.Posterior.corner`."""
    package = optional("corner", "a corner plot")
    chosen = _find(posterior, star, labels)
    n = len(chosen.labels)
    if len(chosen.values) < _FEWEST:
        raise ModelError(
            f"only {len(chosen.values)} samples of {chosen.name} were accepted, but a corner plot needs "
            f"{_FEWEST}: use plot, or draw more"
        )
    marked = _truths(posterior, truths, chosen.labels)
    room = 0.05 * (chosen.high - chosen.low)  # includes a truth that is far off
    low, high = np.fmin(chosen.low, marked - room), np.fmax(chosen.high, marked + room)
    panel = 1.9 if n < 6 else 1.35  # inches
    if figure is None:
        figure = Canvas(figsize=(1.3 + n * panel, 1.3 + n * panel))
    figure.set_layout_engine("none")
    names = [_axis(label) for label in chosen.labels]
    package.corner(
        chosen.values, bins=_BINS, range=list(zip(low, high, strict=True)), labels=names, color=INK,
        truths=[None if np.isnan(value) else value for value in marked], truth_color=BLUE, levels=_INSIDE,
        smooth=1.0, plot_datapoints=False, fill_contours=True, max_n_ticks=3, fig=figure,
        label_kwargs={"fontsize": "small"}, labelpad=0.25 / panel - 0.1, hist_kwargs={"linewidth": 0.9},
    )  # fmt: skip
    width, height = figure.get_size_inches()
    figure.subplots_adjust(0.9 / width, 0.9 / height, 1.0 - 0.1 / width, 1.0 - 0.3 / height)
    package.overplot_lines(figure, chosen.best, color=RED, linewidth=0.8)
    grid = np.array(figure.axes).reshape(n, n)
    for i in range(n):
        grid[i, i].set_title(chosen.title(i), fontsize="small" if n < 6 else "x-small")
    for axes in figure.axes:
        axes.tick_params(labelsize="x-small")
    marks = ", blue: truth" if np.isfinite(marked).any() else ""
    figure.text(0.98, 0.98, f"{chosen.name}\nred: MAP{marks}\ncontours: 68 and 95 %", ha="right", va="top",
                fontsize="medium" if n > 2 else "x-small")  # fmt: skip
    return figure


def _find(posterior: Posterior, star: int | str, labels: Sequence[str] | str | None) -> _Star:
    row = some_accepted(posterior, star)
    label_set = with_derived_labels(posterior.labels)
    if labels is None:
        labels = posterior.labels.names
    names = [labels] if isinstance(labels, str) else list(labels)
    if not names:
        raise ConfigError(f"labels is empty: choose from {', '.join(label_set.names)}")
    values = posterior.accepted(row, names)
    summary, columns = posterior[row].summary(), [label_set.index(name) for name in names]
    best = summary.map[0, columns]
    at = dict(zip(QUANTILES, summary.quantiles[:, 0, columns], strict=True))
    low, high = np.quantile(values, _EDGES, axis=0)
    low, high = np.minimum(low, best), np.maximum(high, best)
    room = np.maximum(0.1 * (high - low), 1e-6 * np.maximum(np.abs(high), 1.0))
    return _Star(
        posterior.name(row), [label_set[name] for name in names], values, best, at["p16"], at["p84"],
        np.where(summary.undetected[0, columns], at["upper"], np.nan), summary.undetermined[0, columns],
        low - room, high + room,
    )  # fmt: skip


def _truths(posterior: Posterior, truths: Any, labels: Sequence[Label]) -> np.ndarray:
    """One value per label, NaN for those without a given truth."""
    if truths is None:
        return np.full(len(labels), np.nan)
    if isinstance(truths, Mapping):
        label_set = with_derived_labels(posterior.labels)
        for name in truths:
            label_set.index(name)
        return np.array([float(truths.get(label.name, np.nan)) for label in labels])
    values = np.asarray(truths, dtype=float)
    if values.shape != (len(labels),):
        names = ", ".join(label.name for label in labels)
        raise ConfigError(f"truths have shape {values.shape}: expected one value for each of {names}")
    return values


def _dress(axes: Axes, label: Label, low: float, high: float) -> None:
    axes.set_xlim(low, high)
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(labelsize="x-small")
    axes.set_xlabel(_axis(label), fontsize="small")


def _axis(label: Label) -> str:
    unit = label.printed_unit
    return label.symbol if unit == "dex" else f"{label.symbol} ({unit})"
