"""Several spectra of one star as one row: the product of their posteriors, the prior counted once.

p(labels | d_1, ..., d_k) is proportional to the product of p(labels | d_i) over prior^(k - 1). Posteriors are
approximated as Gaussian in the variables of the network, where they come closest to it; there the prior of
labels learnt as probits is a standard normal distribution, and that of the others is taken as flat. Labels
that are not detected, whose likelihoods have only one flank, are combined separately. Where the prior is not
known, spectra that do not determine a label leave what the others say of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np
from astropy.table import Table

from specinn import catalogue
from specinn.catalogue.epochs import PERCENTILES, CatalogueSource, SampleSource, Source, has_samples
from specinn.catalogue.result import Result
from specinn.catalogue.schema import Field
from specinn.errors import ConfigError
from specinn.flags import Flag, is_bad, names
from specinn.labels import Label, LabelSet
from specinn.posterior import QUANTILES, Summary
from specinn.posterior.summary import follow, posterior_flags

if TYPE_CHECKING:
    from specinn.plugins import Plugins

__all__ = [
    "P_DISAGREE",
    "Combination",
    "combine",
    "combine_gaussians",
    "combine_limits",
    "fields_of",
    "prior_precision",
    "stars_of",
]

P_DISAGREE = 1e-3  # of the chi-square, below which spectra are flagged as disagreeing
_DRAWS = 4096  # of a combined posterior, from which its columns are read
_KNOWN = 0.1  # information in units of the prior's, from which it counts in the chi-square
_MASSES = np.diff([0.0, *(QUANTILES[name] for name in PERCENTILES), 1.0])
_GRID = 4000  # points between the bounds of a label
_BLOCK = 1024  # stars whose columns are computed together
_OF_POSTERIORS = int(Flag.MANY_REJECTED | Flag.ALL_REJECTED | Flag.AT_BOUNDS | Flag.UPPER_LIMIT)


# One star -----------------------------------------------------------------------------------------------


def prior_precision(labels: LabelSet) -> np.ndarray:
    """``(n_labels,)`` of the training prior in the variables of the network: 1 (about 0), or 0 for flat."""
    return np.array([float(label.transform == "probit") for label in labels])


@attrs.frozen(eq=False)
class Combination:
    """The Gaussian ``mean (n_labels,)`` and ``covariance (n_labels, n_labels)`` of several.

    ``chi2`` is theirs about it, with ``dof`` degrees of freedom; ``label_chi2 (n_labels,)`` that of each
    label by itself, with one degree less than there are Gaussians, NaN where not all of them know the label.
    """

    mean: np.ndarray
    covariance: np.ndarray
    chi2: float
    dof: int
    label_chi2: np.ndarray

    @property
    def p_value(self) -> float:
        """Chance of a larger chi-square; NaN without degrees of freedom."""
        from scipy.special import chdtrc

        return float(chdtrc(self.dof, self.chi2)) if self.dof else np.nan


def combine_gaussians(
    mean: np.ndarray, covariance: np.ndarray, prior: np.ndarray, common: float = 0.0
) -> Combination:
    """The product of Gaussian posteriors over the prior to the power of their number less one.

    A posterior that is wider than the prior counts as uninformative.

    Parameters
    ----------
    mean : ndarray
        ``(k, n_labels)`` of the posteriors, in the variables of the network.
    covariance : ndarray
        ``(k, n_labels, n_labels)``.
    prior : ndarray
        ``(n_labels,)`` precision of the prior, whose mean is 0; 0 where it is flat.
    common : float
        Share of the variances that is common to all k and does not average out: likelihoods then enter with
        the power 1 / (1 + (k - 1) common), and k equal ones give the variance common + (1 - common) / k of
        one.

    Returns
    -------
    Combination
        Its mean, covariance, and the chi-square of the k about it.

    Examples
    --------
    Two spectra of one star, 0.1 apart in logg, each with an error of 0.1; the prior is flat:

    >>> import numpy as np
    >>> from specinn.catalogue.combine import combine_gaussians
    >>> star = combine_gaussians(np.array([[4.4], [4.5]]), np.full((2, 1, 1), 0.01), np.zeros(1))
    >>> star.mean.round(3), np.sqrt(star.covariance).round(3)
    (array([4.45]), array([[0.071]]))
    >>> print(round(star.chi2, 2), star.dof, round(star.p_value, 2))
    0.5 1 0.48
    """
    k = len(mean)
    # in units of the prior's width, or of the posterior's where it is flat, eigenvalues can be compared
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    typical = np.sqrt(variance.mean(axis=0))
    scale = np.where(prior > 0, 1.0 / np.sqrt(np.where(prior > 0, prior, 1.0)), typical)
    unit = np.diag(prior * scale**2)
    precision = np.linalg.inv(covariance / np.outer(scale, scale))
    value, vector = np.linalg.eigh(precision - unit)  # the likelihood: directions, and its precision there
    weighted = np.einsum("kji,kjl,kl->ki", vector, precision, mean / scale)

    def pool(informative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sum of the likelihoods' precisions, and of precision times mean."""
        return (
            np.einsum("kij,kj,klj->il", vector, np.where(informative, value, 0.0), vector),
            np.einsum("kij,kj->i", vector, np.where(informative, weighted, 0.0)),
        )

    power = 1.0 / (1.0 + (k - 1) * common)
    total, product = pool(value > 0.0)
    combined = np.linalg.inv(power * total + unit)

    informative = value > _KNOWN
    total, where = pool(informative)
    best = where @ np.linalg.pinv(total, rcond=1e-10, hermitian=True) @ where
    chi2 = np.sum(weighted[informative] ** 2 / value[informative]) - best
    dof = int(informative.sum()) - int(np.linalg.matrix_rank(total, tol=1e-6, hermitian=True))
    return Combination(
        combined @ (power * product) * scale,
        combined * np.outer(scale, scale),
        float(max(chi2, 0.0)) / (1.0 - common),
        dof,
        _by_label(mean / scale, variance / scale**2, prior * scale**2) / (1.0 - common),
    )


def _by_label(mean: np.ndarray, variance: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Chi-squares of single labels, whatever the others are; NaN where a posterior is that of the prior."""
    precision = 1.0 / variance - prior
    informative = (precision > _KNOWN).all(axis=0)
    precision = np.where(informative, precision, 1.0)
    each = mean / variance / precision
    centre = (precision * each).sum(axis=0) / precision.sum(axis=0)
    return np.where(informative, (precision * (each - centre) ** 2).sum(axis=0), np.nan)


def combine_limits(
    percentiles: np.ndarray, label: Label, common: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Values of a label, and the chance ``(n,)`` that it is below each, where likelihoods may be one-sided.

    ``percentiles (k, 5)`` as :data:`PERCENTILES`, physical. In the variable in which the prior is flat
    (:attr:`Summary.undetected`) posteriors are likelihoods; their mean densities between neighbouring
    percentiles are multiplied. The lowest is joined with the next where it is denser: a network's posterior
    that is a little wider than the prior piles up at the bound, and a product would make that a peak.
    """
    log = label.transform == "log10"
    low, high = np.log10(label.bounds) if log else label.bounds
    grid = low + (np.arange(_GRID) + 0.5) * (high - low) / _GRID
    total = np.zeros(_GRID)
    for inner in np.log10(percentiles) if log else percentiles:
        edges, mass = np.concatenate([[low], inner, [high]]), _MASSES
        if mass[0] * (edges[2] - edges[1]) > mass[1] * (edges[1] - edges[0]):
            edges, mass = np.delete(edges, 1), np.append(mass[0] + mass[1], mass[2:])
        density = mass / np.maximum(np.diff(edges), (high - low) / _GRID)
        total += np.log(density)[np.searchsorted(edges[1:-1], grid)]
    total /= 1.0 + (len(percentiles) - 1) * common
    chance = np.exp(total - total.max()).cumsum()
    return (10.0**grid if log else grid), (chance - 0.5 * chance[0]) / chance[-1]


# All stars ------------------------------------------------------------------------------------------------


def combine(
    files: Sequence[str | Path],
    plugins: Plugins,
    *,
    by: str = "id",
    radius: float | None = None,
    model_files: Sequence[Path] = (),
    common: float = 0.0,
    seed: int = 0,
) -> Table:
    """A catalogue with one row per star, in the order in which stars first appear.

    Rows with a bad flag are left out; single spectra pass unchanged. Samples are read star by star.

    Parameters
    ----------
    files : sequence of str or Path
        Catalogues, or files of samples.
    plugins : Plugins
        Where the model of catalogues is looked up.
    by : str
        Rows with the same value of this column are of one star, those without a value are stars of their own;
        or a table with the columns path (or id) and star.
    radius : float, optional
        Rows within so many arcsec are of one star.
    model_files : sequence of Path
        Models that catalogues name and that are not installed.
    common : float
        Share of the variances that is common to spectra of a star (:func:`combine_gaussians`).
    seed : int
        Of the draws from which columns are read.

    Returns
    -------
    astropy.table.Table
        The columns of a catalogue with ``n_epochs``, ``chi2``, ``dof``, ``p_value`` and ``<label>_chi2``.

    Raises
    ------
    ConfigError, ModelError, ReadError, OutputError
        For arguments that cannot be used, and files that do not match or are damaged.
    """
    if not 0.0 <= common < 1.0:
        raise ConfigError(f"common {common:g}: expected a share from 0 (nothing) to below 1")
    if radius is not None and not 0.0 < radius < 3600.0:
        raise ConfigError(f"radius {radius:g}: expected arcsec, above 0 and below 3600")
    paths = [Path(file) for file in files]
    kinds = [has_samples(path) for path in paths]
    if len(set(kinds)) > 1:
        raise ConfigError("catalogues and files of samples cannot be combined: give files of one kind")
    if kinds[0] and radius is not None:
        raise ConfigError("a file of samples has no positions for --radius: give the catalogue instead")
    with contextlib.ExitStack() as stack:
        source = (
            SampleSource(paths, by, stack)
            if kinds[0]
            else CatalogueSource(paths, by, plugins, model_files, radius)
        )
        draws = np.random.default_rng(seed).normal(size=(_DRAWS // 2, len(source.labels)))
        draws[0] = 0.0  # the mode itself
        z = np.concatenate([draws, -draws])
        fields = fields_of(source)
        stars = list(stars_of(source.keys))
        blocks = [stars[i : i + _BLOCK] for i in range(0, len(stars), _BLOCK)]
        chunks = [_columns(source, block, common, z) for block in blocks]
    return catalogue.build(
        chunks,
        fields,
        source.meta
        | {"combined": Path(by).name if radius is None else f"{radius:g} arcsec", "common": common},
    )


def fields_of(source: Source) -> tuple[Field, ...]:
    """The columns of a single spectrum, then those of the combination."""
    return (
        *source.fields(),
        Field("n_epochs", np.int64, "", "Spectra that were combined: those without a bad flag"),
        Field("chi2", np.float32, "", "Chi-square of the spectra about their combination, over all labels"),
        Field("dof", np.int64, "", "Degrees of freedom of chi2"),
        Field("p_value", np.float32, "", "Chance of a larger chi2 if the spectra agree"),
        *(
            Field(f"{n}_chi2", np.float32, "", f"Chi-square of {n} alone; n_epochs - 1 degrees of freedom")
            for n in source.labels.names
        ),
    )


def stars_of(keys: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of each star, in the order of their first ones; rows without a key are stars of their own."""
    _, first, star = np.unique(keys, return_index=True, return_inverse=True)
    star = np.where(keys == "", np.arange(len(keys)), first[star])
    order = np.argsort(star, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(star[order])) + 1) if len(order) else ()


def _columns(
    source: Source, stars: Sequence[np.ndarray], common: float, z: np.ndarray
) -> dict[str, np.ndarray]:
    """The columns of some stars, of which ``stars`` has the rows each."""
    labels = source.labels
    used = [rows[~is_bad(source.flags[rows])] for rows in stars]
    combined_rows = [part if len(part) else rows for part, rows in zip(used, stars, strict=True)]
    summary, combinations, lost = _combined(source, used, common, z)
    flags = np.array([np.bitwise_or.reduce(source.flags[rows]) for rows in combined_rows])
    several = list(combinations)
    flags[several] &= ~np.uint32(_OF_POSTERIORS)
    flags[several] |= posterior_flags(summary, labels)[several]
    messages = np.array([source.message(rows[0]) for rows in combined_rows], dtype=object)
    for i, one in combinations.items():
        messages[i] = ", ".join(names(flags[i])) if is_bad(flags[i]) else ""
        if one.p_value < P_DISAGREE:
            flags[i] |= np.uint32(Flag.EPOCHS_DISAGREE)
            messages[i] = _disagreement(one, labels, len(used[i]))
    first = np.array([rows[0] for rows in stars])
    keys = np.where(source.keys[first] == "", source.ids[first], source.keys[first])
    meta = Table({"id": keys, "flags": flags, "message": messages})
    columns = catalogue.summarise(Result(meta, summary), instrument="", model="", undetermined=lost)
    columns |= _agreement(combinations, labels, [len(rows) for rows in used])
    return columns | source.others(combined_rows, columns)


def _combined(
    source: Source, used: Sequence[np.ndarray], common: float, z: np.ndarray
) -> tuple[Summary, dict[int, Combination], np.ndarray]:
    """The summary of all stars, the combinations of those with several spectra, by number of the star, and
    ``(n_stars, n_labels)`` what none of the spectra of a star determines."""
    from scipy.special import ndtri

    labels = source.labels
    summary = Summary.empty(labels, len(used))
    lost = np.zeros(summary.map.shape, bool)
    # the prior of other labels is not known, and would count once for each spectrum that tells no more
    flat = np.array([label.transform != "linear" for label in labels])
    combinations: dict[int, Combination] = {}
    for i, rows in enumerate(used):
        if len(rows) == 1:
            source.alone(summary, i, rows[0])
        elif len(rows) > 1:
            each = source.spectra(rows)
            combinations[i] = combine_gaussians(each.mean, each.covariance, prior_precision(labels), common)
            y = combinations[i].mean + z @ np.linalg.cholesky(combinations[i].covariance).T
            values = np.ascontiguousarray(labels.from_network(y).T)
            silent = each.undetermined & ~flat
            lost[i, : len(labels)] = silent.all(axis=0)
            one_sided = each.undetected | each.undetermined
            for j in np.flatnonzero(one_sided.any(axis=0)):
                # the draws keep their ranks, and so their correlations
                rank = (np.argsort(np.argsort(y[:, j])) + 0.5) / len(y)
                telling = ~silent[:, j] if not lost[i, j] else np.arange(len(rows)) == 0
                if one_sided[telling, j].any():
                    limit_values, chance = combine_limits(each.percentiles[telling, :, j], labels[j], common)
                    values[j] = np.interp(rank, chance, limit_values)
                else:
                    variance = each.covariance[telling, j, j][:, None, None]
                    prior = prior_precision(labels)[[j]]
                    own = combine_gaussians(each.mean[telling][:, [j]], variance, prior, common)
                    at = own.mean[0] + np.sqrt(own.covariance[0, 0]) * ndtri(rank)
                    values[j] = labels[j].from_network(at)
            summary.put_star(i, values, -0.5 * (z**2).sum(axis=1), labels.inside(values.T))
    follow(summary.labels, lost)
    return summary, combinations, lost


def _disagreement(one: Combination, labels: LabelSet, n: int) -> str:
    worst = labels.names[int(np.nan_to_num(one.label_chi2, nan=-1.0).argmax())]
    return (
        f"{n} spectra disagree: chi-square {one.chi2:.0f} with {one.dof} degrees of "
        f"freedom (p = {one.p_value:.1g}), most in {worst}"
    )


def _agreement(
    combinations: Mapping[int, Combination], labels: LabelSet, n_epochs: Sequence[int]
) -> dict[str, np.ndarray]:
    """The columns that say how well the spectra of each star agree; NaN for those that were not combined."""
    n = len(n_epochs)
    columns = {
        "chi2": np.full(n, np.nan),
        "p_value": np.full(n, np.nan),
        "dof": np.zeros(n, int),
        "n_epochs": np.array(n_epochs),
        **{f"{name}_chi2": np.full(n, np.nan) for name in labels.names},
    }
    for i, one in combinations.items():
        columns["chi2"][i], columns["dof"][i], columns["p_value"][i] = one.chi2, one.dof, one.p_value
        for name, value in zip(labels.names, one.label_chi2, strict=True):
            columns[f"{name}_chi2"][i] = value
    return columns
