"""The summary of samples: the MAP, the percentiles, and what they imply for the star."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from specinn.flags import Flag, raise_flag
from specinn.labels import DERIVED, LabelSet, derived, with_derived_labels

__all__ = ["QUANTILES", "Summary", "can_be_absent", "follow", "posterior_flags"]

_BOUND_MARGIN = 0.01  # of a label's range, for AT_BOUNDS
QUANTILES = {"median": 0.5, "p2_5": 0.025, "p16": 0.16, "p84": 0.84, "p97_5": 0.975, "upper": 0.95}
_NEVER_ABSENT = ("teff", "logg", "fe_h", "vmic", "alpha_m")  # their lowest value means no non-detection
_LEANS = 0.1  # density at the lower bound over the highest, above which nothing is detected
_WIDE = 0.8  # standard deviation over that of the prior, above which nothing is known (docs/catalogue.md)
# half of the interval from the 16 to the 84 percentile in standard deviations, by the shape of the prior
_HALF = {"probit": 0.994, "log10": 0.68 * 3.0**0.5}


def follow(labels: LabelSet, which: np.ndarray) -> None:
    """Fill in the columns of derived labels in ``which (n_spec, n_labels)``, bool, of ``labels``: it is True
    for them where it is for a label from which they follow."""
    for name, parts in DERIVED.items():
        if {name, *parts} <= set(labels.names):
            which[:, labels.index(name)] = which[:, [labels.index(part) for part in parts]].any(axis=1)


def can_be_absent(name: str) -> bool:
    """Whether the label of that name may be undetected: an abundance [X/Fe] or A(Li), or vbroad."""
    return name not in _NEVER_ABSENT


@attrs.frozen(eq=False)
class Summary:
    """The summary of the posteriors of a batch for a catalogue; float64, and NaN where no sample was
    accepted.

    Attributes
    ----------
    labels : LabelSet
        Those of the model and the derived ones after them (:func:`specinn.labels.with_derived_labels`).
    map : ndarray
        ``(n_spec, n_labels)`` the accepted sample of highest density.
    std : ndarray
        ``(n_spec, n_labels)`` standard deviation of the accepted samples.
    quantiles : ndarray
        ``(n_quantiles, n_spec, n_labels)`` of accepted samples in the order of :data:`QUANTILES`, linearly
        interpolated.
    rejected_fraction : ndarray
        ``(n_spec,)``; NaN where no sample was drawn.

    Examples
    --------
    >>> import numpy as np
    >>> from specinn.labels import LabelSet, make_label
    >>> from specinn.posterior import Posterior
    >>> labels = LabelSet([make_label("vbroad", (0.5, 100.0))])
    >>> samples = np.array([np.geomspace(0.5, 6.0, 400), np.geomspace(28.0, 32.0, 400)])[..., None]
    >>> summary = Posterior(labels, samples, np.zeros((2, 400))).summary()
    >>> summary.undetected.tolist()  # the first one leans on the lower bound: only its limit is known
    [[True], [False]]
    >>> summary.undetermined.tolist()  # but it excludes half of what was possible
    [[False], [False]]
    """

    labels: LabelSet
    map: np.ndarray
    std: np.ndarray
    quantiles: np.ndarray
    rejected_fraction: np.ndarray

    @classmethod
    def empty(cls, labels: LabelSet, n: int) -> Summary:
        """For ``n`` spectra of a model with ``labels``, without values."""
        labels = with_derived_labels(labels)
        shape = (n, len(labels))
        numbers = [np.full(s, np.nan) for s in (shape, shape, (len(QUANTILES), *shape), (n,))]
        return cls(labels, *numbers)

    def __len__(self) -> int:
        return len(self.rejected_fraction)

    def __getitem__(self, rows: np.ndarray) -> Summary:
        return Summary(
            self.labels, self.map[rows], self.std[rows], self.quantiles[:, rows], self.rejected_fraction[rows]
        )

    def put(self, rows: np.ndarray, other: Summary) -> None:
        """Fill ``rows`` with the rows of another summary."""
        self.map[rows], self.std[rows] = other.map, other.std
        self.quantiles[:, rows], self.rejected_fraction[rows] = other.quantiles, other.rejected_fraction

    def put_star(self, row: int, values: np.ndarray, log_prob: np.ndarray, inside: np.ndarray) -> None:
        """Fill a row from samples ``values (n_labels, n)`` of the model's labels, contiguous along a label,
        their ``log_prob (n,)`` and whether they are ``inside (n,)`` the bounds."""
        accepted = int(np.count_nonzero(inside))
        self.rejected_fraction[row] = 1.0 - accepted / inside.size
        if not accepted:
            return
        ordered = np.empty((len(self.labels), accepted), values.dtype)
        inferred, more = ordered[: len(values)], ordered[len(values) :]
        if accepted < inside.size:
            np.compress(inside, values, axis=1, out=inferred)
            log_prob = log_prob[inside]
        else:
            inferred[:] = values
        if len(more):
            own = LabelSet(self.labels[: len(values)])
            more[:] = derived(own, lambda name: inferred[own.index(name)])
        self.map[row] = ordered[:, log_prob.argmax()]
        # a vectorised sort takes 20 us per label of 4096 samples, a partition at one index 7, at twelve 90
        ordered.sort(axis=1)
        off = ordered - ordered[:, accepted // 2, None]  # numbers small enough for single precision
        mean = off.mean(axis=1, dtype=off.dtype)
        off -= mean[:, None]
        self.std[row] = np.sqrt(np.square(off, out=off).mean(axis=1))
        position = np.array(list(QUANTILES.values())) * (accepted - 1)
        below = position.astype(int)
        low = ordered[:, below].astype(np.float64)
        high = ordered[:, np.minimum(below + 1, accepted - 1)]
        self.quantiles[:, row] = (low + (high - low) * (position - below)).T

    def hide(self, names: Sequence[str]) -> None:
        """Make the values of the labels ``names`` NaN. Raises ``ConfigError`` for one that is none."""
        columns = [self.labels.index(name) for name in names]
        self.map[:, columns] = self.std[:, columns] = self.quantiles[..., columns] = np.nan

    @property
    def undetermined(self) -> np.ndarray:
        """``(n_spec, n_labels)`` whether the posterior is nearly as wide as the prior, so that its middle
        says what was assumed and not what the spectrum shows.

        Its standard deviation is more than 0.8 of :attr:`~specinn.labels.Label.prior_std`, in the variable
        that the network learns (of labels that are not learnt as they are by the 16 and 84 percentiles,
        which are in proportion to it while the posterior is the prior). A derived label is not determined
        where a label is not from which it follows.
        """
        out = np.zeros(self.map.shape, bool)
        low, high = (self.quantiles[list(QUANTILES).index(name)] for name in ("p16", "p84"))
        for i, label in enumerate(self.labels):
            if label.transform == "linear":
                std = self.std[:, i]
            else:
                std = label.to_network(high[:, i]) - label.to_network(low[:, i])
                std = 0.5 * std / _HALF[label.transform]
            out[:, i] = std > _WIDE * label.prior_std
        follow(self.labels, out)
        return out

    @property
    def undetected(self) -> np.ndarray:
        """``(n_spec, n_labels)`` whether the posterior leans on the lower bound, so that the percentile
        ``upper`` is a limit, and nothing else is known; not where it is :attr:`undetermined`.

        The mean density below the 2.5 percentile is more than a tenth of the highest between neighbouring
        percentiles (a Gaussian whose mean is less than 2.5 standard deviations above the bound). Densities
        are those in the variable in which the training prior is flat, where they are likelihoods: the
        logarithm for labels learnt as such, else the label itself. Never for Teff, logg, [Fe/H] and vmic;
        [Li/Fe] is treated as A(Li).
        """
        order = np.argsort(list(QUANTILES.values()))
        mass = np.diff([0.0, *np.array(list(QUANTILES.values()))[order], 1.0])
        out = np.zeros(self.map.shape, bool)
        for i, label in enumerate(self.labels):
            if not can_be_absent(label.name):
                continue
            bounds = [np.full(len(self), bound) for bound in label.bounds]
            ends = np.stack([bounds[0], *self.quantiles[order, :, i], bounds[1]])
            if label.transform == "log10":
                ends = np.log10(ends)
            density = mass[:, None] / np.maximum(np.diff(ends, axis=0), 1e-6 * (ends[-1] - ends[0]))
            out[:, i] = density[0] > _LEANS * density.max(axis=0)
        if "li_fe" in self.labels and "a_li" in self.labels:
            out[:, self.labels.index("li_fe")] = out[:, self.labels.index("a_li")]
        out &= ~self.undetermined
        return out

    @classmethod
    def join(cls, parts: Sequence[Summary]) -> Summary:
        """``parts``, summaries of one model, one after the other."""
        return cls(
            parts[0].labels,
            np.concatenate([p.map for p in parts]),
            np.concatenate([p.std for p in parts]),
            np.concatenate([p.quantiles for p in parts], axis=1),
            np.concatenate([p.rejected_fraction for p in parts]),
        )


def posterior_flags(summary: Summary, labels: LabelSet) -> np.ndarray:
    """Flags of samples: how many were rejected, and whether the MAP of a label that is determined
    leans on a bound of the training."""
    rejected = summary.rejected_fraction
    flags = np.zeros(len(rejected), np.uint32)
    raise_flag(flags, rejected > 0.5, Flag.MANY_REJECTED)
    raise_flag(flags, rejected == 1.0, Flag.ALL_REJECTED)
    # in the variables of the network: 1 % of vbroad's range is negligible at 100 km/s and large at 1 km/s
    low, high = labels.to_network(labels.bounds.T)
    best = labels.to_network(summary.map[:, : len(labels)])
    near = np.minimum(best - low, high - best) < _BOUND_MARGIN * (high - low)
    near &= ~summary.undetermined[:, : len(labels)]
    raise_flag(flags, near.any(axis=1), Flag.AT_BOUNDS)
    raise_flag(flags, summary.undetected.any(axis=1), Flag.UPPER_LIMIT)
    return flags
