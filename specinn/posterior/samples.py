"""Posterior: samples of the labels of a batch of stars."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from specinn.errors import ConfigError, ModelError
from specinn.labels import LabelSet, derived, with_derived_labels
from specinn.posterior.summary import Summary

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

__all__ = ["Posterior"]


def _as_ids(ids: Iterable[Any] | None) -> tuple[str, ...] | None:
    return None if ids is None else tuple(str(name) for name in ids)


@attrs.frozen(eq=False, slots=False, repr=False)
class Posterior:
    """Posterior samples of a batch. Methods on one star take its number, from 0, or its name.

    A sample outside the training bounds is rejected: it counts only towards :attr:`rejected_fraction`.

    Attributes
    ----------
    labels : LabelSet
        Names, units and training bounds.
    samples : ndarray
        ``(n_spec, n_samples, n_labels)`` in physical units.
    log_prob : ndarray
        ``(n_spec, n_samples)`` log density in the network's label space (docs/method.md).
    inside : ndarray, optional
        ``(n_spec, n_samples)`` bool: the accepted samples. It is unchanged when a correction moves samples;
        by default those within the bounds.
    ids : tuple of str, optional
        The names of the stars, where they are known.

    Raises
    ------
    ModelError
        If shapes do not agree.

    Examples
    --------
    >>> import numpy as np
    >>> from specinn import Posterior
    >>> from specinn.labels import LabelSet, make_label
    >>> labels = LabelSet([make_label("teff", (4000.0, 7000.0))])
    >>> samples = np.array([[[5700.0], [5800.0], [7100.0]], [[4500.0], [4600.0], [4700.0]]])
    >>> log_prob = np.array([[-1.0, -0.5, -0.1], [-2.0, -1.0, -2.0]])
    >>> posterior = Posterior(labels, samples, log_prob, ids=["a", "b"])
    >>> posterior.accepted("a", "teff")  # (n_accepted, n_labels): 7100 K is beyond the bounds
    array([[5700.],
           [5800.]])
    >>> posterior.rejected_fraction.round(2)
    array([0.33, 0.  ])
    >>> posterior.map  # of highest density, (n_spec, n_labels)
    array([[5800.],
           [4600.]])
    >>> posterior["b"].quantiles([0.16, 0.84]).ravel()
    array([4532., 4668.])
    """

    labels: LabelSet
    samples: np.ndarray
    log_prob: np.ndarray
    inside: np.ndarray = None  # type: ignore[assignment]
    ids: tuple[str, ...] | None = attrs.field(default=None, converter=_as_ids)

    def __attrs_post_init__(self) -> None:
        if self.samples.ndim != 3 or self.samples.shape[2] != len(self.labels):
            raise ModelError(
                f"samples have shape {self.samples.shape}: expected (n_spec, n_samples, {len(self.labels)})"
            )
        if self.log_prob.shape != self.samples.shape[:2]:
            raise ModelError(f"log_prob has shape {self.log_prob.shape}, samples {self.samples.shape}")
        if self.inside is None:
            good = self.labels.inside(self.samples) & np.isfinite(self.log_prob)
            object.__setattr__(self, "inside", good)
        elif self.inside.shape != self.log_prob.shape or self.inside.dtype != bool:
            raise ModelError(f"inside has shape {self.inside.shape}: expected booleans {self.log_prob.shape}")
        if self.ids is not None and len(self.ids) != len(self):
            raise ModelError(f"{len(self.ids)} ids for the posteriors of {len(self)} stars")

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        from specinn.posterior.display import posterior_tables

        return "\n\n".join(table.text() for table in posterior_tables(self))

    def _repr_html_(self) -> str:
        from specinn.posterior.display import posterior_tables

        return "\n".join(table.html() for table in posterior_tables(self))

    @classmethod
    def empty(cls, labels: LabelSet, n: int, n_samples: int) -> Posterior:
        """NaN samples for ``n`` spectra, none of them accepted."""
        samples = np.full((n, n_samples, len(labels)), np.nan, np.float32)
        return cls(labels, samples, np.full((n, n_samples), -np.inf, np.float32))

    @classmethod
    def join(cls, parts: Sequence[Posterior]) -> Posterior:
        """``parts``, posteriors of one model, one after the other."""
        fields = ("samples", "log_prob", "inside")
        named = [p.ids for p in parts if p.ids is not None]
        ids = tuple(chain(*named)) if len(named) == len(parts) else None
        samples, log_prob, inside = (np.concatenate([getattr(p, f) for p in parts]) for f in fields)
        return cls(parts[0].labels, samples, log_prob, inside, ids)

    def put(self, rows: np.ndarray, other: Posterior) -> None:
        """Fill ``rows`` with the rows of another posterior."""
        for name in ("samples", "log_prob", "inside"):
            getattr(self, name)[rows] = getattr(other, name)

    def __getitem__(self, rows: Any) -> Posterior:
        """The chosen stars: a number or a name, a slice, a boolean mask or a list of numbers."""
        rows = self.row(rows) if isinstance(rows, str) else rows
        rows = np.atleast_1d(np.arange(len(self))[rows])
        ids = None if self.ids is None else [self.ids[row] for row in rows]
        return Posterior(self.labels, self.samples[rows], self.log_prob[rows], self.inside[rows], ids)

    def row(self, star: int | str = 0) -> int:
        """The number, from 0, of a star given by its number (from the end where negative) or its name.

        Raises
        ------
        ConfigError
            Where there is no such ``star``, or several of that name.
        """
        n = len(self)
        if isinstance(star, str):
            rows = [row for row, name in enumerate(self.ids or ()) if name == star]
            if len(rows) == 1:
                return rows[0]
            if rows:
                raise ConfigError(f"{len(rows)} spectra are called {star!r}: give one of the numbers {rows}")
            hint = f"there are {', '.join(self.ids[:8])}{', ...' if n > 8 else ''}" if self.ids else ""
            raise ConfigError(f"no spectrum is called {star!r}; {hint or 'give its number'}")
        if isinstance(star, (bool, np.bool_)) or not isinstance(star, numbers.Integral):
            raise ConfigError(f"star {star!r}: expected its number, from 0, or its id")
        if not -n <= star < n:
            raise ConfigError(f"there is no spectrum {star}: they are numbered from 0 to {n - 1}")
        return int(star) % n

    def name(self, star: int | str = 0) -> str:
        """The name of a star, or its number if it has none."""
        row = self.row(star)
        return self.ids[row] if self.ids else f"spectrum {row}"

    def accepted(self, star: int | str = 0, labels: Sequence[str] | str | None = None) -> np.ndarray:
        """The accepted samples of one star in physical units.

        Parameters
        ----------
        star : int or str
            Its number, from 0, or its name.
        labels : sequence of str, optional
            Names, or one name (default: those of the model); ``li_fe`` and ``alpha_m`` are derived where the
            model infers what they follow from.

        Returns
        -------
        ndarray
            ``(n_accepted, n_labels)`` float64.

        Raises
        ------
        ConfigError
            For a star or a label that does not exist.
        """
        row, label_set, own = self.row(star), with_derived_labels(self.labels), self.labels
        values: np.ndarray = self.samples[row, self.inside[row]].astype(np.float64)
        values = np.column_stack([values, *derived(self.labels, lambda name: values[:, own.index(name)])])
        names = self.labels.names if labels is None else (labels,) if isinstance(labels, str) else labels
        chosen: np.ndarray = values[:, [label_set.index(name) for name in names]]
        return chosen

    def plot(
        self,
        star: int | str = 0,
        labels: Sequence[str] | str | None = None,
        *,
        figure: Figure | None = None,
    ) -> Figure:
        """Histograms of the accepted samples of one star, one panel per label, with MAP and 16 to 84
        percentiles.

        Parameters
        ----------
        star, labels
            As in :meth:`accepted`.
        figure : matplotlib.figure.Figure, optional
            An empty one to draw in, such as ``plt.figure()`` for ``plt.show()``.

        Returns
        -------
        matplotlib.figure.Figure
            It shows itself in a notebook and has ``savefig``.

        Raises
        ------
        ConfigError
            As :meth:`accepted` does.
        ModelError
            Where no sample was accepted.
        """
        from specinn.posterior.plot import plot

        return plot(self, star, labels, figure)

    def corner(
        self,
        star: int | str = 0,
        labels: Sequence[str] | str | None = None,
        truths: Mapping[str, float] | Sequence[float] | None = None,
        *,
        figure: Figure | None = None,
    ) -> Figure:
        """Accepted samples of one star, all pairs of labels; contours hold 68 and 95 per cent.

        Needs the package corner (``pip install 'specinn[notebook]'``).

        Parameters
        ----------
        star, labels, figure
            As in :meth:`plot`, which also says what is returned and raised.
        truths : mapping or sequence of float, optional
            Values to mark, in physical units, by name or in the order of ``labels``.
        """
        from specinn.posterior.plot import corner

        return corner(self, star, labels, truths, figure)

    def to_xarray(self) -> xarray.Dataset:
        """The samples as an ``xarray.Dataset``: one variable per label, with units, over ``star`` and
        ``draw``.

        Rejected samples are NaN. ``accepted`` marks the others, ``log_prob`` is the log density. Needs xarray
        (``pip install 'specinn[notebook]'``).
        """
        from specinn.posterior.export import posterior_to_xarray

        return posterior_to_xarray(self)

    def to_arviz(self, star: int | str = 0) -> Any:
        """The accepted samples of one star as what ArviZ takes: one chain of independent draws.

        An ``InferenceData`` with ArviZ 0.x, an ``xarray.DataTree`` with ArviZ 1; the log density is ``lp`` in
        the group ``sample_stats``. Raises ``ModelError`` where no sample was accepted. Needs ArviZ
        (``pip install 'specinn[notebook]'``).
        """
        from specinn.posterior.export import posterior_to_arviz

        return posterior_to_arviz(self, star)

    def summary(self) -> Summary:
        """What enters a catalogue. A spectrum whose samples are all NaN counts as not sampled."""
        out = Summary.empty(self.labels, len(self))
        for i, samples in enumerate(self.samples):
            if not np.isnan(samples).all():
                values = np.ascontiguousarray(samples.T)
                out.put_star(i, values, self.log_prob[i], self.inside[i])
        return out

    @property
    def rejected_fraction(self) -> np.ndarray:
        """``(n_spec,)`` fraction of samples outside the training bounds."""
        out: np.ndarray = 1.0 - self.inside.mean(axis=1)
        return out

    @cached_property
    def map(self) -> np.ndarray:
        """``(n_spec, n_labels)`` the accepted sample of highest density; NaN where all were rejected."""
        density = np.where(self.inside, self.log_prob, -np.inf)
        best = density.argmax(axis=1)
        out: np.ndarray = self.samples[np.arange(len(self)), best].astype(np.float64)
        out[~self.inside.any(axis=1)] = np.nan
        return out

    def quantiles(self, q: list[float] | tuple[float, ...]) -> np.ndarray:
        """``(n_q, n_spec, n_labels)`` quantiles ``q`` of accepted samples, linearly interpolated; or NaN."""
        out = np.full((len(q), len(self), len(self.labels)), np.nan)
        for i, keep in enumerate(self.inside):
            if keep.any():
                out[:, i] = np.quantile(self.samples[i][keep], q, axis=0)
        return out

    @cached_property
    def mean(self) -> np.ndarray:
        """``(n_spec, n_labels)`` mean of accepted samples; NaN where none."""
        return self._moments[0]

    @cached_property
    def std(self) -> np.ndarray:
        """``(n_spec, n_labels)`` standard deviation of accepted samples; NaN where none."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        weight = self.inside[..., None].astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            n = weight.sum(axis=1)
            values = np.where(self.inside[..., None], self.samples, 0.0)
            mean = values.sum(axis=1, dtype=np.float64) / n
            spread = np.where(self.inside[..., None], values - mean[:, None], 0.0)
            return mean, np.sqrt((spread**2).sum(axis=1) / n)
