"""The fit: derivatives, steps until the residuals converge, lines missing from the lists, stars left out in
turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import scipy.sparse as sparse
from scipy.ndimage import gaussian_filter1d, maximum_filter1d

from specinn.plugins import Plugins
from specinn.wavelengths import C_KMS, FWHM_PER_SIGMA
from specinn_turbospectrum import abundances
from specinn_turbospectrum.line_fit import solve
from specinn_turbospectrum.line_fit.lines import Lines, check_covered
from specinn_turbospectrum.line_fit.recipe import LEAST_KMS, Recipe, ReferenceStar
from specinn_turbospectrum.line_fit.spectra import (
    STEP_KMS,
    Arms,
    Broadening,
    ObservedStar,
    fit_broadening,
    grids,
    on_grid,
)
from specinn_turbospectrum.line_fit.syntheses import Job, Syntheses
from specinn_turbospectrum.linelists import ATOMIC_NUMBER, MOLECULES
from specinn_turbospectrum.strength import opacity_ratio

_DAMPING_GROUPS, _DAMPING_STEP = 3, 0.1
_WHOLE_STEPS, _PART = 2, 0.6  # of a step, later: continuum and lines follow one another
_SEEN = 0.05  # ratio of opacities at the centre, above which a line may be seen in a star
_MOLECULE = 1.2  # dex below the strongest of a molecule in a window, up to which its lines may be seen
_THETA = 5040.0 / 4000.0
_LABEL_STEPS = {"vmic": 0.1}  # for derivatives; 0.1 dex for abundances
_LABEL_PRIOR = {"vmic": 0.2}  # standard deviation; 0.2 dex for abundances
_EMPIRICAL_PRIOR = 0.3  # dex, about the strength that a feature was given when it was found
_THEORETICAL = 0.5  # dex of prior, from which a line may not exist at all
_FARTHEST = 3.0  # standard deviations of its prior that any other line may move
_LABEL_DIGITS = 4  # of labels that are fitted along, so that a fit that resumes finds its syntheses
_SAME_FEATURE = 3.0  # km/s within which features of two stars are one
_SUBSTITUTE = 8.0  # km/s within which a line may have been raised in place of one that is lacking
_CHI = (0.5, 2.5, 4.5)  # eV, of which an empirical line may be
_FIRST_LOG_GF = {0.5: -5.0, 2.5: -3.5, 4.5: -2.0}  # about 0.05 deep in the Sun
COMPARED_AT = 20_000.0  # resolving power at which residuals are stated
WRONG = 0.02


@attrs.frozen
class Residuals:
    """Synthetic minus observed normalised flux of one star and window at R = 20 000: mean absolute, median
    absolute, and the fraction of pixels off by more than 2 %; NaN where the star has no pixels there."""

    mean: float
    median: float
    wrong: float


@attrs.define(eq=False)
class _Star:
    """A reference star during the fit: its labels as fitted so far, its broadening, and the flux of its last
    synthesis."""

    star: ReferenceStar
    observed: ObservedStar
    labels: dict[str, float]
    broadening: Broadening | None = None
    sharp: Arms = attrs.field(factory=dict)
    flux: Arms = attrs.field(factory=dict)
    data: Arms = attrs.field(factory=dict)
    jacobian: dict[str, sparse.csr_matrix] = attrs.field(factory=dict)
    by_label: dict[str, Arms] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class _Derivatives:
    """Those of one round, at ``x``: which lines and dampings they make unknowns, and by star the jacobian and
    the derivatives of its labels."""

    x: np.ndarray
    group: np.ndarray
    damped: np.ndarray
    jacobian: dict[str, dict[str, sparse.csr_matrix]]
    by_label: dict[str, dict[str, Arms]]


@attrs.frozen(eq=False)
class Result:
    """The result of a fit: for each line the change of log gf and damping, its uncertainty, and the stars
    that show it; residuals by star and window, before, after, and left out; spectra for the figures;
    ``provenance`` of the synthesizer."""

    lines: Lines
    d_log_gf: np.ndarray
    d_damping: np.ndarray
    sigma: np.ndarray
    prior: np.ndarray
    shown: dict[str, np.ndarray]
    labels: dict[str, dict[str, float]]
    broadening: dict[str, Broadening]
    before: dict[str, dict[str, Residuals]]
    after: dict[str, dict[str, Residuals]]
    left_out: dict[str, dict[str, Residuals]]
    history: list[float]
    features: list[dict[str, Any]]
    spectra: dict[str, dict[str, dict[str, np.ndarray]]]
    provenance: dict[str, Any]


def fit_lines(
    recipe: Recipe,
    folder: Path,
    plugins: Plugins,
    *,
    leave_one_out: bool = False,
    processes: int = 1,
    progress: Callable[[str], None] = lambda message: None,
) -> Result:
    """Fit the lines of the recipe's windows to its reference stars. Syntheses stay in ``folder``, so that a
    fit that was stopped resumes.

    Raises ``ConfigError`` and ``ReadError`` for stars that cannot be used, ``ConfigError`` for windows that
    no line list covers, ``SynthesisError`` where the code fails.
    """
    return _Fit(recipe, folder, plugins, processes, progress).run(leave_one_out)


class _Fit:
    def __init__(
        self, recipe: Recipe, folder: Path, plugins: Plugins, processes: int, progress: Callable[[str], None]
    ) -> None:
        self.recipe, self.folder, self.method, self.progress = recipe, folder, recipe.method, progress
        self.windows = dict(sorted(recipe.windows.items(), key=lambda item: item[1]))
        self.arms = grids(self.windows)
        self.stars = [self._star(star, plugins) for star in recipe.stars]
        self.validation = [self._star(star, plugins) for star in recipe.validation]
        self.code = Syntheses(recipe.synthesizer, self.windows, folder, plugins, processes, progress)
        lists = {name: self.code.synthesizer.lines(name) for name in self.code.synthesizer.arms}
        check_covered(lists, self.windows)
        self.lines = Lines.of(lists)
        self.group = self.prior = np.empty(0)
        self.history: list[float] = []
        self.features: list[dict[str, Any]] = []
        self.rounds: list[_Derivatives] = []
        self._start = time.monotonic()

    def _star(self, star: ReferenceStar, plugins: Plugins) -> _Star:
        return _Star(star, ObservedStar(star, self.arms, self.recipe.excluded, plugins), dict(star.labels))

    def run(self, leave_one_out: bool) -> Result:
        n = len(self.lines)
        self.x, self.damping = np.zeros(n), np.zeros(n)
        everyone = [*self.stars, *self.validation]
        self._synthesise(everyone, self.x, self.damping, "before")
        self._broaden(everyone)
        before = {star.star.name: self._compare(star) for star in everyone}
        spectra_before = {star.star.name: dict(star.flux) for star in everyone}
        self._tell("before", self.stars)
        for turn in range(self.method.jacobians):
            if turn:
                self._broaden(self.stars)
            self._derivatives(turn)
            self._converge(self.stars)
            if self.recipe.empirical.deep > 0 and self._find_features():
                self._add_features()
                self._converge(self.stars)
            self.rounds.append(self._derived())
        sigma, shown = self._uncertainty(), self._shown()
        self._synthesise(everyone, self.x, self.damping, "after")
        self._broaden(everyone)
        after = {star.star.name: self._compare(star) for star in everyone}
        spectra = {star.star.name: self._spectra(star, spectra_before[star.star.name]) for star in everyone}
        x, damping = self.x, self.damping
        left_out = self._leave_one_out(spectra) if leave_one_out else {}
        return Result(
            self.lines, x, damping, sigma, self.prior, shown,
            {star.star.name: star.labels for star in everyone},
            {star.star.name: star.broadening for star in everyone if star.broadening},
            before, after, left_out, self.history, self.features, spectra,
            dict(self.code.synthesizer.provenance),
        )  # fmt: skip

    def _leave_one_out(
        self, spectra: dict[str, dict[str, dict[str, np.ndarray]]]
    ) -> dict[str, dict[str, Residuals]]:
        """Residuals of each star in a fit of the others, to whose ``spectra`` the synthetic one is added.

        Such a fit begins without corrections, so that no line is left where the star moved it, and takes the
        rounds and steps of the whole fit. Its derivatives are those of the whole fit, round by round: new
        ones would cost most of a fit for each star. From what the star has shown remain the point at which
        those of the second round were computed, priors by depth, the places of features that others show as
        well, with their first strength, and its own labels and broadening.
        """
        out = {}
        for star in self.stars:
            others = [other for other in self.stars if other is not star]
            unseen = self._features_not_shown_by(others)
            self.x, self.damping = np.zeros(len(self.lines)), np.zeros(len(self.lines))
            self.x[unseen] = self.method.bounds[0]
            kept = [(other, other.labels) for other in others]
            for other in others:
                other.labels = dict(other.star.labels)
            what = f"without {star.star.name}"
            self._synthesise(others, self.x, self.damping, what)
            for other in others:
                self._align(other)
            for derivatives in self.rounds:
                self._take(derivatives, unseen)
                self._converge(others, what)
            self._synthesise([star], self.x, self.damping, "left out")
            self._align(star)
            out[star.star.name] = self._compare(star)
            for name, values in spectra[star.star.name].items():
                values["left_out"] = star.flux[name]
            for other, labels in kept:
                other.labels = labels
        return out

    def _derived(self) -> _Derivatives:
        return _Derivatives(
            self.x_of_jacobian, self.group, self.damped,
            {star.star.name: star.jacobian for star in self.stars},
            {star.star.name: dict(star.by_label) for star in self.stars},
        )  # fmt: skip

    def _take(self, derivatives: _Derivatives, unseen: np.ndarray) -> None:
        """Derivatives of a round, those of features found later from the last one; ``unseen`` are the numbers
        of lines that are not to move."""
        n, first, last = len(self.lines), len(derivatives.x), self.rounds[-1]
        later = sparse.diags((np.arange(n) >= first).astype(float))
        self.x_of_jacobian = np.concatenate([derivatives.x, last.x[first:]])
        self.group = np.concatenate([derivatives.group, last.group[first:]])
        self.group[unseen] = -1
        self.damped = derivatives.damped
        for star in self.stars:
            name, star.jacobian = star.star.name, {}
            star.by_label = derivatives.by_label[name]
            for arm, jacobian in derivatives.jacobian[name].items():
                wider = jacobian.copy()
                wider.resize(jacobian.shape[0], n)
                star.jacobian[arm] = (wider + last.jacobian[name][arm] @ later).tocsr()

    def _features_not_shown_by(self, stars: Sequence[_Star]) -> np.ndarray:
        """Numbers of the empirical lines that these stars alone would not have shown."""
        if not self.features:
            return np.array([], int)
        depth = np.array([[feature["depth"][star.star.name] for star in stars] for feature in self.features])
        shown = (depth >= self.recipe.empirical.deep).sum(axis=1) >= self.recipe.empirical.stars
        if self.recipe.empirical.alone > 0:
            shown |= depth.max(axis=1) >= self.recipe.empirical.alone
        return np.flatnonzero(self.lines.empirical)[~shown]

    # Syntheses ---------------------------------------------------------------------------------------

    def _write(self, name: str, d_log_gf: np.ndarray, d_damping: np.ndarray) -> tuple[str, ...]:
        paths = []
        for number in range(len(self.windows)):
            path = self.folder / f"{name}-{number}.list"
            self.lines.write(number, d_log_gf, d_damping, path)
            paths.append(str(path))
        return tuple(paths)

    def _job(self, labels: Mapping[str, float], lists: tuple[str, ...]) -> Job:
        default = {"a_li": 1.05 + labels["fe_h"]}
        values = tuple(float(labels.get(name, default.get(name, 0.0))) for name in abundances.LABELS)
        return Job(values, lists)

    def _synthesise(self, stars: Sequence[_Star], x: np.ndarray, damping: np.ndarray, what: str) -> None:
        lists = self._write("base", x, damping)
        spectra = self.code([self._job(star.labels, lists) for star in stars], what)
        for star, flux in zip(stars, spectra, strict=True):
            star.sharp = on_grid(self.code.wavelength, flux, self.arms)

    def _broaden(self, stars: Sequence[_Star]) -> None:
        for star in stars:
            star.broadening = fit_broadening(star.observed, star.sharp)
            self._align(star)

    def _align(self, star: _Star) -> None:
        assert star.broadening is not None
        star.flux = {name: star.broadening(flux) for name, flux in star.sharp.items()}
        star.data = star.observed.aligned(star.flux)

    # Derivatives --------------------------------------------------------------------------------------

    def _may_be_seen(self) -> tuple[np.ndarray, np.ndarray]:
        """Whether a line may be seen in a reference star, and its strength in the one where it is strongest,
        both ``(n,)``."""
        lines = self.lines
        number = np.array([int(code.partition(".")[0]) for code in lines.code.tolist()])
        atom = number <= len(ATOMIC_NUMBER)
        strength = np.zeros(len(lines))
        log_gf = lines.log_gf + self.x
        for star in self.stars:
            labels = star.labels
            atmosphere = self.code.synthesizer.atmosphere(labels["teff"], labels["logg"], labels["fe_h"])
            ratio = opacity_ratio(
                number[atom], lines.ion[atom], lines.wavelength[atom], lines.chi[atom], log_gf[atom],
                atmosphere, abundances.log_eps(labels), labels["vmic"], self.code.synthesizer.data,
            )  # fmt: skip
            strength[atom] = np.maximum(strength[atom], ratio)
        molecular = log_gf - _THETA * lines.chi
        for molecule in MOLECULES.values():
            for segment in range(len(self.windows)):
                rows = (number == molecule) & (lines.segment == segment)
                if rows.any():
                    strength[rows] = 10.0 ** (molecular[rows] - molecular[rows].max() + _MOLECULE) * _SEEN
        return (strength > _SEEN) | lines.empirical, strength

    def _derivatives(self, turn: int) -> None:
        """One synthesis for each group of lines, of damping, and for each label that is fitted with the
        lines."""
        use, strength = self._may_be_seen()
        group = self.lines.groups(use, self.method.groups)
        at = f"derivatives {turn + 1}"
        lists = [
            self._write(f"group{g}", self.x + self.method.boost * (group == g), self.damping)
            for g in range(self.method.groups)
        ]
        base = self._write("base", self.x, self.damping)
        jobs = [self._job(star.labels, lists[g]) for star in self.stars for g in range(self.method.groups)]
        more = [(star, name, _LABEL_STEPS.get(name, 0.1)) for star in self.stars for name in star.star.fit]
        jobs += [
            self._job({**star.labels, name: star.labels.get(name, 0.0) + step}, base)
            for star, name, step in more
        ]
        self.progress(f"{at}: {use.sum()} lines that may be seen, {len(jobs)} spectra")
        spectra = self.code(jobs, at)
        for (star, name, step), flux in zip(more, spectra[len(jobs) - len(more) :], strict=True):
            arms = self._broadened(star, flux)
            star.by_label[name] = {arm: (arms[arm] - star.flux[arm]) / step for arm in arms}
        self.log_centre = np.log(self.lines.wavelength)
        for k, star in enumerate(self.stars):
            part = spectra[k * self.method.groups : (k + 1) * self.method.groups]
            star.jacobian = self._jacobian(star, part, group, self.method.boost, strength)
        self.x_of_jacobian = self.x.copy()
        self.group = group
        self.prior = self.lines.prior(self.recipe.priors, self._depth())
        self.prior[self.lines.empirical] = _EMPIRICAL_PRIOR
        self._damping_derivatives(at, strength)

    def _jacobian(
        self, star: _Star, spectra: Sequence[np.ndarray], group: np.ndarray, step: float, strength: np.ndarray
    ) -> dict[str, sparse.csr_matrix]:
        """By window, from one synthesis per group in which its lines were changed by ``step`` dex."""
        parts: dict[str, list[sparse.csr_matrix]] = {arm: [] for arm in self.arms}
        for g, flux in enumerate(spectra):
            arms = self._broadened(star, flux)
            for number, (arm, grid) in enumerate(self.arms.items()):
                response = (arms[arm] - star.flux[arm]) / step
                rows = self._in_order(np.flatnonzero((group == g) & (self.lines.segment == number)))
                parts[arm].append(self._sparse(response, grid, rows, strength, len(self.lines)))
        return {arm: sum(parts[arm][1:], parts[arm][0]).tocsr() for arm in parts}

    def _in_order(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of lines, by wavelength."""
        return rows[np.argsort(self.log_centre[rows])]

    def _sparse(
        self, response: np.ndarray, grid: np.ndarray, rows: np.ndarray, strength: np.ndarray, n: int
    ) -> sparse.csr_matrix:
        owner = solve.attribute(response, grid, self.log_centre[rows], strength[rows])
        pixel = np.flatnonzero(owner >= 0)
        return sparse.csr_matrix((response[pixel], (pixel, rows[owner[pixel]])), shape=(len(grid), n))

    def _damping_derivatives(self, at: str, strength: np.ndarray) -> None:
        """Those of strong lines, which lie far apart: a third of them at a time."""
        strong = self._depth() > self.method.strong
        self.damped = np.flatnonzero(strong)
        group = self.lines.groups(strong, _DAMPING_GROUPS)
        lists = [
            self._write(f"damping{g}", self.x, self.damping + _DAMPING_STEP * (group == g))
            for g in range(_DAMPING_GROUPS)
        ]
        spectra = self.code(
            [self._job(star.labels, names) for star in self.stars for names in lists], f"{at}, damping"
        )
        for k, star in enumerate(self.stars):
            part = spectra[k * _DAMPING_GROUPS : (k + 1) * _DAMPING_GROUPS]
            by_arm = self._jacobian(star, part, group, _DAMPING_STEP, strength)
            star.jacobian |= {f"{arm} damping": jacobian for arm, jacobian in by_arm.items()}

    def _broadened(self, star: _Star, flux: np.ndarray) -> Arms:
        assert star.broadening is not None
        return {
            name: star.broadening(part)
            for name, part in on_grid(self.code.wavelength, flux, self.arms).items()
        }

    def _depth(self) -> np.ndarray:
        """``(n,)`` the depth of a line in the star that shows it best: how far the flux is below the
        continuum at its centre, where it responds."""
        depth = np.zeros(len(self.lines))
        for star in self.stars:
            for number, (arm, grid) in enumerate(self.arms.items()):
                rows = np.flatnonzero(self.lines.segment == number)
                respond = np.asarray(np.abs(star.jacobian[arm]).max(axis=0).todense()).ravel()[rows] > 0.05
                at = np.interp(np.log(self.lines.wavelength[rows]), grid, 1.0 - star.sharp[arm])
                depth[rows] = np.maximum(depth[rows], np.where(respond, at, 0.0))
        return depth

    # Steps -----------------------------------------------------------------------------------------------

    def _converge(self, stars: Sequence[_Star], what: str = "fit") -> None:
        """Steps until the mean residual changes by less than the recipe says."""
        before = self._mean_residual(stars)
        for number in range(self.method.steps):
            self._step(stars, 1.0 if number < _WHOLE_STEPS else _PART)
            self._synthesise(stars, self.x, self.damping, what)
            for star in stars:
                self._align(star)
            after = self._mean_residual(stars)
            moved = (self.x < -1).sum(), (np.abs(self.x) > 0.3).sum()
            self.progress(
                f"{what}, step {number + 1}: mean residual {before:.5f} to {after:.5f}, "
                f"{moved[1]} lines moved by more than 0.3 dex, {moved[0]} weakened by more than 1 "
                f"({time.monotonic() - self._start:.0f} s)"
            )
            if what == "fit":
                self.history.append(after)
                self._tell(f"step {number + 1}", stars)
            if abs(before - after) < self.method.converged * before:
                break
            before = after

    def _step(self, stars: Sequence[_Star], part: float) -> None:
        """One step of all lines, or a part of it, then of the labels that are fitted with them."""
        unknown, equations, sigma, value = self._equations(stars)
        normal = solve.normal_equations(equations, value, sigma, self.method.pixel_error, self.method.robust)
        moved = part * np.clip(solve.step(*normal), -0.6, 0.4)
        n = len(self.lines)
        low, high = self.method.bounds
        reach = _FARTHEST * self.prior
        weakest = np.where(self.prior < _THEORETICAL, np.maximum(low, -reach), low)
        x = self.x.copy()
        is_gf = unknown < n
        lines = unknown[is_gf]  # the others stay: features of a star that is left out, beyond their prior
        x[lines] = np.clip(x[lines] + moved[is_gf], weakest[lines], np.minimum(high, reach)[lines])
        damping = self.damping.copy()
        damping[unknown[~is_gf] - n] += moved[~is_gf]
        damping = np.clip(damping, -3.0 * self.method.damping, 3.0 * self.method.damping)
        self._fit_labels(stars, x - self.x)
        self.x, self.damping = x, damping

    def _equations(
        self, stars: Sequence[_Star]
    ) -> tuple[np.ndarray, list[solve.Equations], np.ndarray, np.ndarray]:
        """The unknowns (numbers of lines; of those whose damping is fitted, plus n) in order of wavelength,
        and theirs."""
        n = len(self.lines)
        lines = np.flatnonzero(self.group >= 0)
        unknown = np.concatenate([lines, self.damped + n])
        unknown = unknown[np.argsort(self.lines.wavelength[unknown % n], kind="stable")]
        change = self.x - self.x_of_jacobian
        equations = []
        for star in stars:
            for arm in self.arms:
                both = sparse.hstack(
                    [solve.carried(star.jacobian[arm], change), star.jacobian[f"{arm} damping"]]
                ).tocsc()
                residual = star.data[arm] - star.flux[arm]
                equations.append(solve.Equations(residual, both[:, unknown].tocsr()))
        value = np.concatenate([self.x, self.damping])[unknown]
        sigma = np.concatenate([self.prior, np.full(n, self.method.damping)])[unknown]
        return unknown, equations, sigma, value

    def _fit_labels(self, stars: Sequence[_Star], moved: np.ndarray) -> None:
        for star in stars:
            names = list(star.star.fit)
            if not names:
                continue
            columns, rest = [], []
            for arm in self.arms:
                predicted = solve.carried(star.jacobian[arm], self.x - self.x_of_jacobian) @ moved
                rest.append(star.data[arm] - star.flux[arm] - predicted)
                columns.append(np.stack([star.by_label[name][arm] for name in names], axis=1))
            residual, design = np.concatenate(rest), np.concatenate(columns)
            weight = solve.robust_weight(residual, self.method.robust) / self.method.pixel_error**2
            prior = np.array([_LABEL_PRIOR.get(name, 0.2) for name in names])
            away = np.array([star.labels.get(name, 0.0) - star.star.labels.get(name, 0.0) for name in names])
            # correlated pixels and lines that share the blame: the labels move half the way
            normal = design.T @ (design * weight[:, None]) + np.diag(1.0 / prior**2)
            right = design.T @ (np.nan_to_num(residual) * weight) - away / prior**2
            for name, value in zip(names, 0.5 * np.linalg.solve(normal, right), strict=True):
                moved_to = star.labels.get(name, 0.0) + float(np.clip(value, -0.2, 0.2))
                star.labels[name] = round(moved_to, _LABEL_DIGITS)

    def _mean_residual(self, stars: Sequence[_Star]) -> float:
        pieces = [
            np.abs(star.data[arm] - star.flux[arm]).clip(max=0.3) for star in stars for arm in self.arms
        ]
        return float(np.nanmean(np.concatenate(pieces)))

    # Lines that the lists lack -----------------------------------------------------------------------------

    def _find_features(self) -> bool:
        """Where some stars are fainter than their models and no line that may be seen is at the place, or one
        is by much and none is brighter."""
        features = []
        centres = np.sort(self.log_centre[self._depth() > 0.01])
        for number, (arm, grid) in enumerate(self.arms.items()):
            depths = []
            for star in self.stars:
                assert star.broadening is not None
                missing = np.nan_to_num(star.flux[arm] - star.data[arm])
                depths.append(gaussian_filter1d(missing, max(star.broadening.sigma / STEP_KMS, 1.0)))
            reach = int(_SAME_FEATURE / STEP_KMS)
            near = np.stack([maximum_filter1d(depth, 2 * reach + 1) for depth in depths])
            seen = np.stack([depth >= self.recipe.empirical.deep for depth in near]).sum(axis=0)
            total = np.stack(depths).sum(axis=0)
            shown = seen >= self.recipe.empirical.stars
            if self.recipe.empirical.alone > 0:
                shown |= (near.max(axis=0) >= self.recipe.empirical.alone) & (near.min(axis=0) >= -WRONG)
            peak = (total == maximum_filter1d(total, 2 * reach + 1)) & shown
            for pixel in np.flatnonzero(peak):
                index = np.searchsorted(centres, grid[pixel])
                around = centres[max(index - 1, 0) : index + 1]
                away = np.abs(around - grid[pixel]).min(initial=1.0) * C_KMS
                # a line that is there may have been held back by the star that it does not suit
                if away > 2.0 or near[:, pixel].max() >= self.recipe.empirical.alone > 0:
                    features.append(
                        (
                            number,
                            float(np.exp(grid[pixel])),
                            [float(depth) for depth in near[:, pixel]],
                        )
                    )
        self._found = features
        self.progress(f"{len(features)} features that the lists lack")
        return bool(features)

    def _add_features(self) -> None:
        """Each becomes a line of Fe I of the excitation that fits the stars best."""
        segment = np.array([number for number, *_ in self._found])
        wavelength = np.array([round(wave, 3) for _, wave, _ in self._found])
        depth = np.array([depths for *_, depths in self._found])  # (n, n_stars)
        first = len(self.lines)
        plain = self.lines
        shape = (len(_CHI), len(wavelength), len(self.stars))
        predicted = np.zeros(shape)
        zeros = np.zeros(len(wavelength))
        for i, chi in enumerate(_CHI):
            self.lines = plain.with_empirical(
                "26.000", 1, wavelength, zeros + chi, zeros + _FIRST_LOG_GF[chi], segment
            )
            pad = np.zeros(len(wavelength))
            lists = self._write(f"chi{i}", np.concatenate([self.x, pad]), np.concatenate([self.damping, pad]))
            spectra = self.code([self._job(star.labels, lists) for star in self.stars], "features")
            for k, (star, flux) in enumerate(zip(self.stars, spectra, strict=True)):
                arms = self._broadened(star, flux)
                for number, (arm, grid) in enumerate(self.arms.items()):
                    in_segment = segment == number
                    at = np.log(wavelength[in_segment])
                    predicted[i, in_segment, k] = np.interp(at, grid, star.flux[arm] - arms[arm])
        predicted = np.maximum(predicted, 1e-4)
        factor = (predicted * depth).sum(axis=2) / (predicted**2).sum(axis=2)  # (n_chi, n)
        misfit = ((predicted * factor[..., None] - depth) ** 2).sum(axis=2)
        best = misfit.argmin(axis=0)
        chi = np.array(_CHI)[best]
        scale = np.log10(np.clip(factor[best, np.arange(len(best))], 0.05, 30.0))
        log_gf = np.round(np.array([_FIRST_LOG_GF[c] for c in chi]) + scale, 3)
        # lines that were raised in place of what is lacking
        away = np.abs(self.log_centre[:, None] - np.log(np.sort(wavelength))[None]).min(axis=1) * C_KMS
        self.x[(away < _SUBSTITUTE) & (self.x > 0)] = 0.0
        self.lines = plain.with_empirical("26.000", 1, wavelength, chi, log_gf, segment)
        n = len(self.lines)
        pad = np.zeros(n - first)
        self.x, self.damping = np.concatenate([self.x, pad]), np.concatenate([self.damping, pad])
        self.x_of_jacobian = np.concatenate([self.x_of_jacobian, pad])
        self.group = np.concatenate([self.group, np.zeros(n - first, int)])
        self.prior = np.concatenate([self.prior, pad + _EMPIRICAL_PRIOR])
        self.log_centre = np.log(self.lines.wavelength)
        self._synthesise(self.stars, self.x, self.damping, "features")
        for star in self.stars:
            without = {arm: flux.copy() for arm, flux in star.flux.items()}
            self._align(star)
            for number, (arm, grid) in enumerate(self.arms.items()):
                rows = self._in_order(first + np.flatnonzero(segment == number))
                response = (
                    star.flux[arm] - without[arm]
                ) * 2.0  # of weak lines: d flux / d log gf = ln 10 (-depth)
                jacobian = star.jacobian[arm]
                jacobian.resize(len(grid), n)
                star.jacobian[arm] = (jacobian + self._sparse(response, grid, rows, np.ones(n), n)).tocsr()
                star.jacobian[f"{arm} damping"].resize(len(grid), n)
        names = [star.star.name for star in self.stars]
        self.features += [
            {"wavelength": wave, "depth": dict(zip(names, np.round(depths, 3).tolist(), strict=True))}
            for _, wave, depths in self._found
        ]

    # What comes of it ------------------------------------------------------------------------------------

    def _uncertainty(self) -> np.ndarray:
        """``(n,)`` of log gf in dex: that of the prior where a line was not fitted."""
        unknown, equations, prior, value = self._equations(self.stars)
        banded, _ = solve.normal_equations(
            equations, value, prior, self.method.pixel_error, self.method.robust
        )
        sigma = self.prior.copy()
        is_gf = unknown < len(self.lines)
        sigma[unknown[is_gf]] = solve.uncertainty(banded)[is_gf]
        return sigma

    def _shown(self) -> dict[str, np.ndarray]:
        """By star, ``(n,)`` whether its spectrum constrains a line."""
        out = {}
        for star in self.stars:
            say = np.zeros(len(self.lines), bool)
            for arm in self.arms:
                jacobian = solve.carried(star.jacobian[arm], self.x - self.x_of_jacobian)
                finite = sparse.diags(np.isfinite(star.data[arm]).astype(float))
                information = (
                    np.asarray((finite @ jacobian).power(2).sum(axis=0)).ravel() / self.method.pixel_error**2
                )
                say |= information > 1.0 / self.prior**2
            out[star.star.name] = say
        return out

    def _compare(self, star: _Star) -> dict[str, Residuals]:
        width = C_KMS / FWHM_PER_SIGMA * np.sqrt(max(COMPARED_AT**-2 - star.star.resolving_power**-2, 1e-12))
        out = {}
        for arm in self.arms:
            finite = np.isfinite(star.data[arm])
            if finite.sum() < LEAST_KMS / STEP_KMS:
                continue
            difference = np.where(finite, star.flux[arm] - star.data[arm], 0.0)
            whole = gaussian_filter1d(finite.astype(float), width / STEP_KMS)
            smooth = gaussian_filter1d(difference, width / STEP_KMS)
            smooth = np.abs(smooth[finite & (whole > 0.9)])
            out[arm] = Residuals(
                *(round(float(x), 5) for x in (smooth.mean(), np.median(smooth), (smooth > WRONG).mean()))
            )
        return out

    def _spectra(self, star: _Star, before: Arms) -> dict[str, dict[str, np.ndarray]]:
        return {
            arm: {
                "wavelength": np.exp(grid),
                "observed": star.data[arm],
                "before": before[arm],
                "after": star.flux[arm],
            }
            for arm, grid in self.arms.items()
        }

    def _tell(self, when: str, stars: Sequence[_Star]) -> None:
        for star in stars:
            text = ", ".join(f"{arm} {100 * r.wrong:.1f} %" for arm, r in self._compare(star).items())
            fitted = ", ".join(f"{name} {star.labels.get(name, 0.0):+.2f}" for name in star.star.fit)
            self.progress(
                f"{when}: {star.star.name} {star.broadening}: off by more than 2 %: {text} {fitted}"
            )
