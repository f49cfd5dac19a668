"""Posteriors informed by outside knowledge: importance weights of samples, and better samples where spectrum
and knowledge meet in a tail.

The prior of the training is taken as flat, so that what is known of a star multiplies its posterior. Where
the weights leave few effective samples, new ones are drawn from a Gaussian about the meeting point, in the
variables of the network, with weights posterior density times knowledge over the density of the Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np

from specinn.flags import Flag, is_bad
from specinn.posterior import Posterior, Summary
from specinn.posterior.summary import posterior_flags

if TYPE_CHECKING:
    from astropy.table import Table

    from specinn.inference.prior import PriorTable, StarPrior
    from specinn.plugins.interfaces import Correction, Estimator
    from specinn.spectra import SpectrumBatch

__all__ = [
    "ENOUGH",
    "FEWEST",
    "P_DISAGREE",
    "Informed",
    "Informer",
    "disagreement",
    "effective",
    "inform",
]

ENOUGH = 400.0  # effective samples, below which better ones are drawn: a median is then good to 6 % of sigma
FEWEST = 20.0  # below which there are no informed values
_DRAWS = 1024  # samples at least
_ROUNDS = 4  # of better samples at most
P_DISAGREE = 1e-3  # chance of a larger chi-square, below which spectrum and knowledge disagree
_WIDER = 1.15  # than the moments is the Gaussian from which samples are drawn: its tails must not be short
_SEED = 20  # apart from the random numbers of other parts of a run

_Density = Callable[[np.ndarray], Posterior]


@attrs.frozen(eq=False)
class Informed:
    """The informed posterior of one star: ``samples`` of equal weight (None where there are too few), the
    effective number behind them, and whether spectrum and knowledge disagree: ``chance`` of a larger
    chi-square, and ``sentence``, which compares the two. ``centre (n_labels,)`` is their mean, uncorrected.
    """

    samples: Posterior | None
    n_effective: float
    chance: float
    sentence: str
    centre: np.ndarray | None = None


def effective(log_weight: np.ndarray) -> float:
    """The effective number (sum w)^2 / sum w^2 of samples with the log weights ``(n,)``.

    >>> effective(np.zeros(10)), effective(np.array([0.0, -np.inf]))
    (10.0, 1.0)
    """
    if not np.isfinite(log_weight).any():
        return 0.0
    weight = np.exp(log_weight - log_weight.max())
    return float(weight.sum() ** 2 / np.square(weight).sum())


def disagreement(residuals: np.ndarray, errors: np.ndarray) -> tuple[float, np.ndarray]:
    """How a posterior and what is known disagree, by their Gaussian moments.

    Parameters
    ----------
    residuals : ndarray
        ``(n_terms, n)`` of samples of the posterior.
    errors : ndarray
        ``(n_terms,)`` of the knowledge.

    Returns
    -------
    tuple
        The chance of a larger chi-square, and the deviation of each term ``(n_terms,)`` in its standard
        errors, those of both together.

    Examples
    --------
    >>> chance, sigma = disagreement(np.array([[80.0, 100.0, 120.0]]), np.array([30.0]))
    >>> print(round(chance, 4), sigma.round(2))
    0.0055 [2.77]
    """
    from scipy.special import chdtrc

    centre = residuals.mean(axis=1)
    covariance = np.atleast_2d(np.cov(residuals)) + np.diag(errors**2)
    chi2 = centre @ np.linalg.solve(covariance, centre)
    return float(chdtrc(len(centre), chi2)), centre / np.sqrt(np.diag(covariance))


@attrs.frozen(eq=False)
class _Weighted:
    """Samples inside the bounds: uncorrected, physical ``values (n, n_labels)``, their corrected
    ``posterior`` as that of one star, their ``residuals``, and log weights, those of the knowledge alone in
    ``known``."""

    values: np.ndarray
    posterior: Posterior
    residuals: np.ndarray
    known: np.ndarray
    log_weight: np.ndarray

    @classmethod
    def of(
        cls, values: np.ndarray, posterior: Posterior, star: StarPrior, log_proposal: np.ndarray | None = None
    ) -> _Weighted:
        inside = posterior.inside[0]
        posterior = Posterior(
            posterior.labels, posterior.samples[:, inside], posterior.log_prob[:, inside],
            np.ones((1, int(inside.sum())), bool),
        )  # fmt: skip
        residuals = star.residuals(posterior.samples[0])
        known = -0.5 * np.square(residuals / star.errors[:, None]).sum(axis=0)
        weight = known
        if log_proposal is not None:
            weight = known + posterior.log_prob[0].astype(float) - log_proposal[inside]
        return cls(values[inside], posterior, residuals, known, weight)

    @property
    def weight(self) -> np.ndarray:
        """``(n,)``; their sum is 1."""
        weight = np.exp(self.log_weight - self.log_weight.max())
        out: np.ndarray = weight / weight.sum()
        return out

    def gaussian(self, errors: np.ndarray, weighted: bool) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance, in the variables of the network, of the informed posterior.

        Of the weighted samples; else of a Gaussian posterior with residuals that are linear in it (the
        update of an ensemble Kalman filter).
        """
        y, weight = self.posterior.labels.to_network(self.values), self.weight
        if weighted:
            mean = weight @ y
            off = y - mean
            return mean, (weight * off.T) @ off
        n = len(errors)
        mean, residual = y.mean(axis=0), self.residuals.mean(axis=1)
        joint = np.cov(np.vstack([y.T, self.residuals]))
        across = joint[:-n, -n:]
        gain = np.linalg.solve(joint[-n:, -n:] + np.diag(errors**2), across.T).T
        return mean - gain @ residual, joint[:-n, :-n] - gain @ across.T


def inform(
    star: StarPrior,
    values: np.ndarray,
    posterior: Posterior,
    density: _Density,
    n_samples: int,
    seed: tuple[int, int],
) -> Informed:
    """The posterior of one star, informed by what is known of it.

    Parameters
    ----------
    star : StarPrior
        What is known.
    values : ndarray
        ``(n, n_labels)`` physical, uncorrected samples of the star's own posterior.
    posterior : Posterior
        Those samples, corrected, as that of one star.
    density : callable
        Physical, uncorrected values ``(n, n_labels)`` to such a posterior.
    n_samples : int
        To return; also drawn in each round of better ones.
    seed : tuple of int
        The seed of the run and the key of the spectrum.

    Returns
    -------
    Informed
        What was found.
    """
    labels, errors = posterior.labels, star.errors
    best = _Weighted.of(values, posterior, star)
    if len(best.values) <= 2 * len(labels):
        return Informed(None, 0.0, np.nan, "too few samples are within the bounds of the training")
    own, n_effective = best, effective(best.log_weight)
    chance, sigma = disagreement(own.residuals, errors)
    moments = own.gaussian(errors, weighted=False) if n_effective < ENOUGH else None
    for number in range(_ROUNDS):
        if moments is None or n_effective >= ENOUGH:
            break
        try:
            y, log_proposal = _draw(*moments, n_samples, np.random.default_rng([*seed, _SEED, number]))
        except np.linalg.LinAlgError:  # a posterior without a width in some direction
            break
        values = labels.from_network(y)
        drawn = _Weighted.of(values, density(values), star, log_proposal)
        if (several := effective(drawn.log_weight)) > n_effective:
            best, n_effective = drawn, several
        if several > 2 * len(labels):
            moments = drawn.gaussian(errors, weighted=True)
    sentence = _sentence(star, own.residuals, sigma)
    if n_effective < FEWEST:
        return Informed(None, n_effective, chance, sentence)
    return Informed(_equal(best, n_samples), n_effective, chance, sentence, best.weight @ best.values)


def _draw(
    centre: np.ndarray, covariance: np.ndarray, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws ``(n, n_labels)`` from a Gaussian, wider than that of the moments, and their log densities."""
    root = np.linalg.cholesky(covariance + 1e-9 * np.diag(np.diag(covariance))) * _WIDER
    z = rng.normal(size=(n, len(centre)))
    log_density = -0.5 * np.square(z).sum(axis=1) - np.log(np.diag(root)).sum()
    return centre + z @ root.T, log_density - 0.5 * len(centre) * np.log(2.0 * np.pi)


def _equal(weighted: _Weighted, n: int) -> Posterior:
    """``n`` samples of equal weight (systematic resampling), whose log density includes the knowledge."""
    steps = np.cumsum(weighted.weight)
    chosen = np.searchsorted(steps, (np.arange(n) + 0.5) / n).clip(max=len(steps) - 1)
    own = weighted.posterior
    log_prob = own.log_prob[:, chosen] + weighted.known[chosen].astype(own.log_prob.dtype)
    return Posterior(own.labels, own.samples[:, chosen], log_prob, np.ones((1, n), bool))


def _with_centre(samples: Posterior, star: StarPrior, centre: Posterior) -> None:
    """Replace the last sample by the ``centre``, a posterior of one sample: of so many dimensions the best
    random sample is off by a third of a standard deviation in each, which is avoidable for the MAP."""
    if centre.inside[0, 0]:
        known = -0.5 * np.square(star.residuals(centre.samples[0])[:, 0] / star.errors).sum()
        samples.samples[0, -1], samples.log_prob[0, -1] = centre.samples[0, 0], centre.log_prob[0, 0] + known


def _sentence(star: StarPrior, residuals: np.ndarray, sigma: np.ndarray) -> str:
    """What the spectrum and what the knowledge say of the term that deviates most."""
    worst = int(np.abs(sigma).argmax())
    name, error = star.names[worst], star.errors[worst]
    middle, spread = residuals[worst].mean(), residuals[worst].std()
    if name == "parallax":
        said = f"log g is {middle:+.2f} +- {spread:.2f} from that of the parallax, known to {error:.2f}"
    else:
        known, unit = star.value[worst], star.labels[name].printed_unit
        digits = 0 if abs(known) > 100 else 2
        said = (
            f"{name} is {known + middle:.{digits}f} +- {spread:.{digits}f} by the spectrum and "
            f"{known:.{digits}f} +- {error:.{digits}f} {unit} by the prior"
        )
    return f"spectrum and prior disagree: {said} ({abs(sigma[worst]):.1f} sigma)"


# A batch --------------------------------------------------------------------------------------------------


class Informer:
    """What a table of outside knowledge makes of the posteriors of a batch.

    Parameters
    ----------
    prior
        The table.
    estimator
        The model.
    corrections
        Those of the run: knowledge is of corrected values.
    n_samples, seed
        Of the run.
    kept
        How many informed samples of each star are kept; 0 for none.
    """

    def __init__(
        self,
        prior: PriorTable,
        estimator: Estimator,
        corrections: Sequence[Correction],
        n_samples: int,
        seed: int,
        kept: int = 0,
    ) -> None:
        self.prior, self.estimator, self.corrections = prior, estimator, corrections
        self.n_samples, self.seed, self.kept = n_samples, seed, kept

    def known(self, meta: Table) -> np.ndarray:
        """``(n_spec,)`` which spectra have a row of the table."""
        return _table_rows(meta) >= 0

    def empty(self, meta: Table) -> tuple[Summary, Posterior | None]:
        """No informed values, and the columns ``prior`` and ``n_effective`` of ``meta`` without any."""
        n, labels = len(meta), self.estimator.labels
        meta["prior"], meta["n_effective"] = np.array([""] * n, dtype=object), np.full(n, np.nan)
        kept = Posterior.empty(labels, n, self.kept) if self.kept else None
        return Summary.empty(labels, n), kept

    def __call__(
        self,
        batch: SpectrumBatch,
        meta: Table,
        flags: np.ndarray,
        reasons: list[str],
        rows: np.ndarray,
        own: Posterior | None,
    ) -> tuple[Summary, Posterior | None]:
        """The informed summary of the spectra of a preprocessed ``batch``, and samples if they are kept.

        ``own`` are the posteriors of its ``rows``, uncorrected. Columns are added to ``meta``, bits to
        ``flags``, sentences to ``reasons``.
        """
        summary, kept = self.empty(meta)
        table_rows, place = _table_rows(meta), {int(row): i for i, row in enumerate(rows)}
        results: dict[int, tuple[StarPrior, Informed]] = {}
        for i in map(int, np.flatnonzero((table_rows != -1) & ~is_bad(flags))):
            star, note = self._star(int(table_rows[i]))
            if star is not None and own is not None:
                samples = own[[place[i]]]
                if self.n_samples < _DRAWS:
                    samples = self.estimator.sample(batch[[i]], _DRAWS, self.seed)
                corrected = self._corrected(samples)
                if not star.in_range(corrected):
                    star, note = star.without_parallax(), "the parallax is not used beyond 3300 to 8000 K"
            if note:
                flags[i] |= np.uint32(Flag.PRIOR_UNUSED)
                _say(reasons, i, note)
            if star is None:
                continue
            result = self._informed(batch, i, samples.samples[0], corrected, star)
            meta["prior"][i], meta["n_effective"][i] = ", ".join(star.names), result.n_effective
            if result.chance < P_DISAGREE or result.samples is None:
                flags[i] |= np.uint32(Flag.PRIOR_DISAGREES)
                _say(reasons, i, result.sentence)
            if result.samples is not None:
                results[i] = star, result
        for i, samples in self._with_centres(batch, results):
            summary.put(np.array([i]), samples.summary())
            if kept is not None:
                kept.put(np.array([i]), _thinned(samples, self.kept))
        bits = posterior_flags(summary, self.estimator.labels) & np.uint32(Flag.AT_BOUNDS | Flag.UPPER_LIMIT)
        flags |= np.where(np.isfinite(summary.map[:, 0]), bits, np.uint32(0))
        return summary, kept

    def _star(self, table_row: int) -> tuple[StarPrior | None, str]:
        """What the row says, and what of it cannot be used."""
        if table_row >= 0:
            return self.prior.star(table_row)
        several = f"{-table_row} rows of {self.prior.name} are within {self.prior.radius:g} arcsec"
        return None, f"{several}, so that none of them was used"

    def _informed(
        self, batch: SpectrumBatch, row: int, values: np.ndarray, corrected: Posterior, star: StarPrior
    ) -> Informed:
        """The informed posterior of one spectrum, of which ``values (n, n_labels)`` are own samples, and
        ``corrected`` the same as a posterior."""

        def density(values: np.ndarray) -> Posterior:
            return self._density(batch[[row]], values[None])

        seed = self.seed, int(batch.meta["key"][row])
        return inform(star, values, corrected, density, max(self.n_samples, _DRAWS), seed)

    def _with_centres(
        self, batch: SpectrumBatch, results: Mapping[int, tuple[StarPrior, Informed]]
    ) -> Iterator[tuple[int, Posterior]]:
        """The informed samples by row, the last of them at the centre; one call of the model for all."""
        if not results:
            return
        rows = np.array(list(results))
        centres = np.stack([np.asarray(result.centre) for _, result in results.values()])
        dense = self._density(batch if len(rows) == len(batch) else batch[rows], centres[:, None])
        for place, (row, (star, result)) in enumerate(results.items()):
            assert result.samples is not None
            _with_centre(result.samples, star, dense[place])
            yield row, result.samples

    def _density(self, spectra: SpectrumBatch, values: np.ndarray) -> Posterior:
        """Uncorrected, physical ``values (n_spec, n, n_labels)`` as corrected posteriors."""
        log_prob = np.asarray(self.estimator.log_prob(spectra, values), float)
        return self._corrected(Posterior(self.estimator.labels, values, log_prob))

    def _corrected(self, posterior: Posterior) -> Posterior:
        for correction in self.corrections:
            posterior, _ = correction.apply(posterior)
        return posterior


def _table_rows(meta: Table) -> np.ndarray:
    """``(n_spec,)`` the rows of the table that :meth:`PriorTable.match` found for the spectra."""
    none = np.full(len(meta), -1)
    return np.asarray(meta["prior_row"]) if "prior_row" in meta.colnames else none


def _say(reasons: list[str], row: int, sentence: str) -> None:
    reasons[row] = "; ".join(filter(None, (reasons[row], sentence)))


def _thinned(posterior: Posterior, n: int) -> Posterior:
    """``n`` of the samples, with the last, which is the centre."""
    every = np.linspace(0, posterior.samples.shape[1] - 1, n).astype(int)
    names = "samples", "log_prob", "inside"
    return Posterior(posterior.labels, *(getattr(posterior, name)[:, every] for name in names))
