"""Fit a correction on benchmark stars, and measure on stars left out of the fit whether it helps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from specinn.errors import ConfigError, ReadError
from specinn.evaluation.stars import Benchmark, check_instruments, of_one_spectrum, reference_stars_of
from specinn.flags import is_bad, names
from specinn.inference.run import prepare
from specinn.inference.sources import Source, file_source
from specinn.plugins.interfaces import BenchmarkStars, Correction, Estimator, LeaveOneOut
from specinn.posterior import Posterior
from specinn.spectra.readers import read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from specinn.plugins import Plugins
    from specinn.spectra import SpectrumBatch

__all__ = ["LEAST", "choose", "draw", "fit", "infer", "leave_one_out", "pair", "verdict"]

LEAST = 3  # stars in a fit: two would leave no degree of freedom for its errors
_NAMED = 40  # spectra in a figure; of more the names would hide the points


def pair(
    stars: Sequence[Benchmark], spectra: Sequence[Path], plugins: Plugins
) -> tuple[list[tuple[Benchmark, Source]], list[str]]:
    """The stars with their spectra, and the names of files that match no star.

    Without ``spectra`` they are the files of the table. Otherwise a file belongs to the star that has its
    name (with or without folder and suffix), and a spectrum of any other file to the one that has its ``id``.
    """
    if not spectra:
        return [(star, file_source(star.file, i, plugins)) for i, star in enumerate(stars)], []
    matched, strange = [], []
    star_names = [
        {star.star.casefold(), star.file.name.casefold(), star.file.stem.casefold()} for star in stars
    ]

    def named(*wanted: str) -> list[Benchmark]:
        return [
            star
            for star, of in zip(stars, star_names, strict=True)
            if of & {name.casefold() for name in wanted}
        ]

    for i, path in enumerate(spectra):
        pairs = [(star, file_source(path, i, plugins)) for star in named(path.name, path.stem)]
        with contextlib.suppress(ReadError):
            for batch in () if pairs else read(path, plugins):
                for row, name in enumerate(map(str, batch.meta["id"])):
                    one = Source(f"{name} of {path}", partial(_only, batch[row]), (i << 32) + row)
                    pairs += [(star, one) for star in named(name)]
        matched += pairs
        strange += [] if pairs else [path.name]
    if not matched:
        raise ConfigError(
            f"none of the {len(spectra)} spectra belongs to a star of the table: expected their names "
            "in its column file, or their ids in file or star"
        )
    return matched, strange


def _only(batch: SpectrumBatch) -> list[SpectrumBatch]:
    return [batch]


def infer(
    estimator: Estimator,
    pairs: Sequence[tuple[Benchmark, Source]],
    plugins: Plugins,
    *,
    degrade_snr: float | None = None,
    n_samples: int = 4096,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Benchmark], BenchmarkStars, dict[str, str]]:
    """Send the spectra through the pipeline: the stars that gave samples, row by row; their results; and by
    name why others gave none.

    Raises ``ConfigError`` for a file with several spectra, ``PluginError`` for an unknown instrument.
    """
    check_instruments((star for star, _ in pairs), plugins)
    rows: list[Benchmark] = []
    posteriors: list[Posterior] = []
    lost: dict[str, str] = {}
    for i, (star, source) in enumerate(pairs):
        job = prepare(
            plugins, instrument=star.instrument, model=estimator, samples=n_samples, seed=seed,
            resolving_power=star.resolving_power, degrade_snr=degrade_snr, keep_samples=True,
        )  # fmt: skip
        result = of_one_spectrum(job, source)
        flags = np.asarray(result.meta["flags"], np.uint32)
        if is_bad(flags)[0]:
            lost[star.star] = str(result.meta["message"][0]) or ", ".join(names(int(flags[0])))
        elif result.posterior is not None:
            rows.append(star)
            posteriors.append(result.posterior)
        progress(i + 1, len(pairs))
    if not rows:
        raise ReadError("none of the stars gave values: " + "; ".join(dict.fromkeys(lost.values())))
    reference_stars = reference_stars_of(estimator)
    with_literature = [n for n in estimator.labels.names if any(n in star.literature for star in rows)]
    stars = BenchmarkStars(
        np.array([star.star for star in rows]),
        Posterior.join(posteriors),
        {name: np.array([star.literature.get(name, np.nan) for star in rows]) for name in with_literature},
        {name: np.array([star.errors.get(name, 0.0) for star in rows]) for name in with_literature},
        np.array([star.role == "reference" or star.star.casefold() in reference_stars for star in rows]),
    )
    return rows, stars, lost


def choose(
    rows: Sequence[Benchmark],
    stars: BenchmarkStars,
    *,
    with_reference_stars: bool = False,
    with_out_of_range: bool = False,
) -> tuple[np.ndarray, dict[str, str]]:
    """``(n_spec,)`` which spectra take part in a fit, and by star why others do not.

    The limit ``stars.fe_h_min`` is one of the inferred [Fe/H], because nothing else is known of a star to
    which a correction is applied.
    """
    best, labels = stars.posterior.map, stars.posterior.labels
    chosen, why = np.ones(len(stars), bool), {}
    for i, star in enumerate(rows):
        fe_h = float(best[i, labels.index("fe_h")]) if "fe_h" in labels else np.inf
        reasons = {
            "reference star of the training": stars.seen[i] and not with_reference_stars,
            "out of range according to the table": not star.in_range and not with_out_of_range,
            f"inferred [Fe/H] below {stars.fe_h_min}": stars.fe_h_min is not None and fe_h < stars.fe_h_min,
        }
        for reason in (reason for reason, holds in reasons.items() if holds):
            chosen[i], why[star.star] = False, reason
            break
    return chosen, why


def fit(kind: type[Correction], stars: BenchmarkStars) -> tuple[Correction, dict[str, LeaveOneOut]]:
    """The correction fitted on these stars, for every label that at least three of them have, and the errors
    of stars left out. Raises ``ConfigError`` where no label has three stars.
    """
    count = {
        name: len(set(stars.star[np.isfinite(values)].tolist())) for name, values in stars.literature.items()
    }
    labels = [name for name, n in count.items() if n >= LEAST]
    if not labels:
        raise ConfigError(
            f"{max(count.values(), default=0)} stars with literature values are left for the fit, but at "
            f"least {LEAST} are needed: give more, or see why the others are left out"
        )
    stars = attrs.evolve(stars, literature={name: stars.literature[name] for name in labels})
    tested = leave_one_out(kind, stars)
    return kind.fit(stars, np.ones(len(stars), bool), tested), tested


def leave_one_out(kind: type[Correction], stars: BenchmarkStars) -> dict[str, LeaveOneOut]:
    """By label, the errors of the MAP of each star before and after a correction fitted without it.

    A star with several spectra is left out as a whole, and its error is their mean. Reference stars of the
    training take part in the fits and are not counted. Labels that only they have are left out.
    """
    before: dict[str, list[float]] = {name: [] for name in stars.literature}
    after: dict[str, list[float]] = {name: [] for name in stars.literature}
    for star in dict.fromkeys(stars.star[~stars.seen].tolist()):
        of_star = stars.star == star
        raw = stars.posterior[of_star]
        corrected = kind.fit(stars, ~of_star).apply(raw)[0]
        for name, literature in stars.literature.items():
            if np.isfinite(literature[of_star]).any():
                k = raw.labels.index(name)
                for errors, estimates in ((before, raw), (after, corrected)):
                    errors[name].append(float(np.nanmean(estimates.map[:, k] - literature[of_star])))

    def summary(name: str) -> LeaveOneOut:
        sizes = np.abs([before[name], after[name]])
        return LeaveOneOut(
            sizes.shape[1], *np.median(sizes, axis=1).tolist(), *np.sqrt((sizes**2).mean(axis=1)).tolist()
        )

    return {name: summary(name) for name, errors in before.items() if errors}


def verdict(tested: Mapping[str, LeaveOneOut]) -> str:
    """One sentence: whether the correction helps stars that it was not fitted on."""
    if not tested:
        return "All stars of the fit were seen in the training: whether the correction helps is not known."
    better = [name for name, errors in tested.items() if errors.helps]
    worse = [name for name in tested if name not in better]
    n = max(errors.n_stars for errors in tested.values())
    few = f" (only {n} stars: more may change this)" if n < 10 else ""
    if not better:
        return f"The correction improves no label of the stars left out of the fit: do not use it{few}."
    if worse:
        return (
            f"For stars left out of the fit, it improves {', '.join(better)} but not {', '.join(worse)}: fit "
            f"only the former, with --label{few}."
        )
    return f"The correction improves every label of the stars left out of the fit: it helps{few}."


def draw(correction: Correction, stars: BenchmarkStars, chosen: np.ndarray) -> Figure:
    """Residuals against the inferred Teff, a panel for each label of the correction with literature values.

    Dots are posterior samples, markers with errors (posterior and reference) the MAP, open ones for stars
    that are not in the fit; the line is what the correction subtracts, with bands of one and two standard
    errors.
    """
    from matplotlib.figure import Figure

    from specinn.plotting import BLUE, FAINT, INK, ORANGE

    labels = stars.posterior.labels
    drawn = [name for name in stars.literature if name in correction.terms() or not correction.terms()]
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(3.7 * columns, 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    best, std, k_teff = stars.posterior.map, stars.posterior.std, labels.index("teff")
    teff = best[:, k_teff].astype(float)
    grid = np.linspace(teff[chosen].min(), teff[chosen].max(), 100)
    for axes, name in zip(panels, drawn, strict=False):
        k, literature = labels.index(name), stars.literature[name]
        off = best[:, k] - literature
        for i in np.flatnonzero(np.isfinite(literature)):
            samples = stars.posterior.samples[i, stars.posterior.inside[i]][:300]
            axes.plot(
                samples[:, k_teff], samples[:, k] - literature[i], ",", color=FAINT, rasterized=True, zorder=1
            )
            error = np.hypot(std[i, k], stars.errors[name][i])
            colour, fill = (BLUE, BLUE) if chosen[i] else (FAINT, "white")
            axes.errorbar(teff[i], off[i], error, std[i, k_teff], fmt="o", color=colour, mfc=fill,
                          elinewidth=0.8, zorder=3)  # fmt: skip
            if len(stars) <= _NAMED:
                axes.annotate(
                    stars.star[i], (teff[i], off[i]), (4, 4), textcoords="offset points", fontsize=6
                )
        line = correction.bias(name, grid)
        if line is not None:
            axes.plot(grid, line[0], "--", color=ORANGE, zorder=2)
            for n in (1, 2):
                ends = (line[0] - n * line[1], line[0] + n * line[1])
                axes.fill_between(grid, *ends, color=ORANGE, alpha=0.18, linewidth=0, zorder=0)
        axes.axhline(0, color=INK, linewidth=0.6, zorder=0)
        axes.set_title(f"{labels[name].symbol}: inferred − literature ({labels[name].printed_unit})")
        axes.margins(x=0.12, y=0.1)
    for axes in panels[len(drawn) :]:
        axes.remove()
    figure.supxlabel("inferred $T_\\mathrm{eff}$ (K)", fontsize=8.5)
    return figure
