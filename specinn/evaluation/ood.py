"""Spectra that a model has no business with, and spectra that it must survive: made from grid spectra, sent
through the whole pipeline, counted."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import attrs
import numpy as np
from astropy.table import Table

from specinn.catalogue.result import Result
from specinn.errors import ConfigError, GridError
from specinn.evaluation.simulation import BLOCK, Simulation
from specinn.evaluation.tables import tabulate
from specinn.flags import Flag, is_bad
from specinn.inference.options import RunOptions
from specinn.inference.pipeline import Pipeline
from specinn.spectra import SpectrumBatch
from specinn.spectra.resample import pixel_widths

if TYPE_CHECKING:
    import torch

    from specinn.grids import Grid
    from specinn.grids.grid import FluxSource
    from specinn.plugins import Plugins
    from specinn.plugins.interfaces import Estimator

__all__ = [
    "COLUMNS",
    "FALSE_ALARMS",
    "KINDS",
    "Expected",
    "Kind",
    "Scene",
    "arm_missing",
    "cosmic_rays",
    "emission",
    "flat",
    "half_missing",
    "hot_star",
    "in_range",
    "ood_table",
    "pixels_missing",
    "stated_too_high",
    "stated_too_low",
    "swapped_arms",
    "tilted",
    "too_blurred",
    "too_poor",
    "two_stars",
    "two_stars_apart",
    "white_noise",
    "wrong_frame",
]

FALSE_ALARMS = 0.01
_H_ALPHA = 6562.8  # Angstrom, in air, as all below
_H_ALPHA_WING = 25.0
_HE_I = (6678.15, 3.0, 0.1)  # wavelength, FWHM in Angstrom and depth in a rotating early B star
# OH lines of the night sky in the red arm (Osterbrock et al. 1996, PASP 108, 277)
_SKY_LINES = (6498.73, 6533.04, 6553.62, 6577.28)
_HOT = 20_000.0  # K
_POOR = 2.0  # dex below the bounds
_POOREST = 1.0  # dex above the lower bound of [Fe/H], up to which grid stars serve to make poorer ones

Expected = Literal["nothing", "flag", "survival"]


@attrs.define(eq=False)
class Scene:
    """Some stars of a grid at one S/N per Angstrom: what each kind of spectra is made of."""

    simulation: Simulation
    rows: np.ndarray
    snr: float
    rng: np.random.Generator
    pool: np.ndarray  # rows of all stars that there are

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def wavelength(self) -> np.ndarray:
        return self.simulation.estimator.instrument.wavelength

    def clean(
        self,
        rows: np.ndarray | None = None,
        *,
        velocity: float = 0.0,
        resolution: float = 1.0,
        change: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    ) -> np.ndarray:
        """Noiseless spectra ``(n_stars, n_pix)`` of ``rows`` (by default those of the scene), moved by
        ``velocity`` km/s, at ``resolution`` times the instrument's resolving power. ``change`` is applied to
        the flux of the grid, and gets the rows, too."""
        import torch

        simulation, rows = self.simulation, self.rows if rows is None else rows
        flux = simulation.grid.flux(rows).astype(float)
        if change is not None:
            flux = change(flux, rows)
        model = torch.as_tensor(np.ascontiguousarray((simulation.operator @ flux.T).T), dtype=torch.float32)

        def every(value: Any) -> torch.Tensor:
            return torch.as_tensor(np.broadcast_to(value, len(rows)).copy(), dtype=torch.float32)

        seen = simulation.observer(model, every(simulation.vbroad[rows]), every(velocity), every(resolution))
        return seen.double().numpy()

    def observe(self, flux: np.ndarray) -> SpectrumBatch:
        """Noiseless ``flux (n_stars, n_pix)`` with noise, as a reader would give it: of known velocity 0."""
        instrument = self.simulation.estimator.instrument
        width = pixel_widths(instrument.wavelength, instrument.slices)
        sigma = np.broadcast_to(1.0 / (self.snr * np.sqrt(width)), flux.shape)
        noisy = flux + sigma * self.rng.standard_normal(flux.shape)
        return self.batch(noisy, sigma)

    def batch(self, flux: np.ndarray, sigma: np.ndarray) -> SpectrumBatch:
        """Observed spectra as they are."""
        simulation, n = self.simulation, len(flux)
        instrument = simulation.estimator.instrument
        ids = [str(name) for name in simulation.grid.ids[self.rows]]
        meta = Table({"id": ids, "path": [""] * n, "key": self.rows, "rv": np.zeros(n)})
        mask = np.repeat(~simulation.observer.inside[None], n, axis=0)
        power = instrument.resolving_power_at(instrument.wavelength)
        return SpectrumBatch(
            instrument.wavelength, flux.copy(), sigma.copy(), mask, power, instrument.medium, meta,
            instrument.slices,
        )  # fmt: skip

    def arms(self) -> Iterator[slice]:
        yield from self.simulation.estimator.instrument.slices.values()


def in_range(scene: Scene) -> SpectrumBatch:
    """Spectra like those of the training."""
    return scene.observe(scene.clean())


def white_noise(scene: Scene) -> SpectrumBatch:
    """Nothing but noise of mean 0, with errors that say so."""
    one = np.ones((len(scene), scene.wavelength.size))
    return scene.batch(scene.rng.standard_normal(one.shape), one)


def flat(scene: Scene) -> SpectrumBatch:
    """A continuum without lines."""
    return scene.observe(np.ones((len(scene), scene.wavelength.size)))


def hot_star(scene: Scene) -> SpectrumBatch:
    """The slope of a black body of 20 000 K, H alpha and He I 6678, and no lines of metals."""
    wave = scene.wavelength
    slope = wave**-5.0 / np.expm1(1.43877e8 / (wave * _HOT))
    at, width, depth = _HE_I
    lines = 0.4 / (1.0 + ((wave - _H_ALPHA) / 6.0) ** 2) + _gaussian(wave, at, width, depth)
    flux = slope / slope.mean() * (1.0 - lines)
    return scene.observe(np.repeat(flux[None], len(scene), axis=0))


def emission(scene: Scene) -> SpectrumBatch:
    """H alpha in emission (one to five times the continuum, 100 to 300 km/s wide) and lines of the night sky
    that were not subtracted (a fifth to once the continuum)."""
    flux, wave = scene.clean(), scene.wavelength
    for spectrum in flux:
        width = _H_ALPHA * scene.rng.uniform(100.0, 300.0) / 299792.458
        spectrum += _gaussian(wave, _H_ALPHA, width, scene.rng.uniform(1.0, 5.0))
        for line in _SKY_LINES:
            spectrum += _gaussian(wave, line, line / 20_000.0, scene.rng.uniform(0.2, 1.0))
    return scene.observe(flux)


def wrong_frame(scene: Scene) -> SpectrumBatch:
    """A velocity that is wrong by 50 km/s, up or down."""
    batch = in_range(scene)
    batch.meta["rv"] = scene.rng.choice([-50.0, 50.0], len(scene))
    return batch


def too_blurred(scene: Scene) -> SpectrumBatch:
    """Half of the resolving power that the file states."""
    return scene.observe(scene.clean(resolution=0.5))


def stated_too_high(scene: Scene) -> SpectrumBatch:
    """The right resolving power, but the file states twice as much, so that the pipeline blurs once more."""
    batch = in_range(scene)
    return attrs.evolve(batch, resolving_power=2.0 * np.asarray(batch.resolving_power))


def stated_too_low(scene: Scene) -> SpectrumBatch:
    """The right resolving power, but the file states half of it."""
    batch = in_range(scene)
    return attrs.evolve(batch, resolving_power=0.5 * np.asarray(batch.resolving_power))


def two_stars(scene: Scene) -> SpectrumBatch:
    """Two different stars of the grid in one fibre, equally bright, both at rest."""
    return scene.observe(0.5 * (scene.clean() + scene.clean(_partners(scene))))


def two_stars_apart(scene: Scene) -> SpectrumBatch:
    """The same, 50 km/s apart."""
    return scene.observe(0.5 * (scene.clean() + scene.clean(_partners(scene), velocity=50.0)))


def swapped_arms(scene: Scene) -> SpectrumBatch:
    """The flux of one arm on the wavelengths of the next."""
    batch = in_range(scene)
    arms = list(scene.arms())
    flux, sigma = batch.flux.copy(), batch.sigma.copy()
    for arm, source in zip(arms, [*arms[1:], arms[0]], strict=True):
        pixel = np.linspace(0.0, source.stop - source.start - 1.0, arm.stop - arm.start).round().astype(int)
        flux[:, arm] = batch.flux[:, source.start + pixel]
        sigma[:, arm] = batch.sigma[:, source.start + pixel]
    return attrs.evolve(batch, flux=flux, sigma=sigma)


def too_poor(scene: Scene) -> SpectrumBatch:
    """[Fe/H] 2 dex below the bounds: stars at most 1 dex above the bound, the optical depth of all that is
    not H alpha made less by the difference in [Fe/H] (the linear part of the curve of growth)."""
    grid = scene.simulation.grid
    hydrogen = np.abs(grid.wavelength - _H_ALPHA) < _H_ALPHA_WING
    target = scene.simulation.estimator.labels["fe_h"].bounds[0] - _POOR

    def poorer(flux: np.ndarray, rows: np.ndarray) -> np.ndarray:
        less = 10.0 ** (target - grid.column("fe_h")[rows])
        return np.where(hydrogen, flux, flux.clip(min=0.01) ** less[:, None])

    return scene.observe(scene.clean(change=poorer))


def half_missing(scene: Scene) -> SpectrumBatch:
    """Half of all pixels lost, in stretches of 20 Angstrom."""
    batch = in_range(scene)
    stretch = (scene.wavelength // 20.0).astype(int)
    stretch -= stretch.min()
    for i in range(len(scene)):
        order = scene.rng.permutation(stretch.max() + 1)
        batch.mask[i] |= (order % 2 == 0)[stretch]
    return batch


def pixels_missing(scene: Scene) -> SpectrumBatch:
    """Half of all pixels lost, each for itself."""
    batch = in_range(scene)
    batch.mask[scene.rng.random(batch.mask.shape) < 0.5] = True
    return batch


def arm_missing(scene: Scene) -> SpectrumBatch:
    """One arm lost, another one in every next star."""
    batch, arms = in_range(scene), list(scene.arms())
    for i in range(len(scene)):
        batch.mask[i, arms[i % len(arms)]] = True
    return batch


def cosmic_rays(scene: Scene) -> SpectrumBatch:
    """A hundred hits of one to three pixels, half to twenty times the continuum, of which no error knows."""
    batch = in_range(scene)
    for spectrum in batch.flux:
        at = scene.rng.integers(3, spectrum.size - 3, 100)
        height = 0.5 * 40.0 ** scene.rng.random(100)
        spectrum[at] += height
        for shift in (-1, 1):
            spectrum[at + shift] += height * np.where(scene.rng.random(100) < 0.4, scene.rng.random(100), 0.0)
    return batch


def tilted(scene: Scene) -> SpectrumBatch:
    """A continuum that is off by 10 %, from -10 % at one end of each arm to +10 % at the other."""
    batch = in_range(scene)
    sign = scene.rng.choice([-1.0, 1.0], (len(scene), 1))
    for arm in scene.arms():
        tilt = 1.0 + 0.1 * sign * np.linspace(-1.0, 1.0, arm.stop - arm.start)
        batch.flux[:, arm] *= tilt
        batch.sigma[:, arm] *= tilt
    return batch


def _poorest(simulation: Simulation, rows: np.ndarray, n: int) -> np.ndarray:
    """Those at most 1 dex above the lower bound of [Fe/H], or the poorest two."""
    fe_h = simulation.grid.column("fe_h")[rows]
    order = np.argsort(fe_h)
    few = np.count_nonzero(fe_h < simulation.estimator.labels["fe_h"].bounds[0] + _POOREST)
    return np.sort(rows[order[: min(max(few, 2), n)]])


@attrs.frozen
class Kind:
    """A way of making spectra, and what is expected of the model: to flag them, to survive them, or (of those
    like its training) to raise no more than 1 % false alarms. ``choose`` gives the stars that it is made of,
    where not all will do: rows of those that it is given, at most so many."""

    name: str
    make: Callable[[Scene], SpectrumBatch]
    expected: Expected = "flag"
    choose: Callable[[Simulation, np.ndarray, int], np.ndarray] | None = None


KINDS = (
    Kind("in range", in_range, "nothing"),
    Kind("white noise", white_noise),
    Kind("flat continuum", flat),
    Kind("hot star", hot_star),
    Kind("H alpha and sky emission", emission),
    Kind("frame wrong by 50 km/s", wrong_frame),
    Kind("half the resolving power", too_blurred),
    Kind("twice the resolving power stated", stated_too_high),
    Kind("half the resolving power stated", stated_too_low),
    Kind("two stars", two_stars),
    Kind("two stars 50 km/s apart", two_stars_apart),
    Kind("swapped arms", swapped_arms),
    Kind("2 dex below the bounds of [Fe/H]", too_poor, choose=_poorest),
    Kind("half of the pixels missing, in stretches", half_missing, "survival"),
    Kind("half of the pixels missing, one by one", pixels_missing, "survival"),
    Kind("one arm missing", arm_missing, "survival"),
    Kind("strong cosmic rays", cosmic_rays, "survival"),
    Kind("continuum tilted by 10 %", tilted, "survival"),
)


def _partners(scene: Scene) -> np.ndarray:
    """For every star another one, anywhere in the pool."""
    others = scene.rng.choice(scene.pool, len(scene))
    same = others == scene.rows
    others[same] = scene.pool[(np.searchsorted(scene.pool, others[same]) + 1) % len(scene.pool)]
    return others


def _gaussian(wave: np.ndarray, at: float, fwhm: float, height: float) -> np.ndarray:
    return height * np.exp(-4.0 * math.log(2.0) * ((wave - at) / fwhm) ** 2)


COLUMNS = {
    "kind": "What the spectra are",
    "expected": "nothing: like the training; flag: bad; survival: no flag, and a posterior that holds",
    "snr": "S/N per Angstrom at the continuum",
    "n": "Spectra",
    "bad": "Fraction with flag_bad, of any reason",
    "ood": "Fraction with the flag out_of_distribution",
    "detected": "Fraction with another bad flag, or a score above that of all but 1 % of those in range",
    "score": "Median score; above 1 a spectrum is flagged",
    "inside_68": "Fraction of the truths, over all labels, between the 16 and 84 percentiles",
    "inside_95": "Fraction of the truths, over all labels, between the 2.5 and 97.5 percentiles",
    "message": "What most of the flagged are told",
}


def ood_table(
    estimator: Estimator,
    grid: Grid,
    plugins: Plugins,
    snr: Sequence[float] = (50.0, 250.0),
    *,
    n_stars: int = 256,
    n_samples: int = 1024,
    split: str = "test",
    seed: int = 0,
    as_observed: bool = False,
    kinds: Sequence[Kind] = KINDS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Table:
    """How many spectra of each kind a model flags, and whether it survives those that it must; a row for each
    kind and S/N per Angstrom (:data:`COLUMNS`).

    The stars are at most ``n_stars`` of one split of the grid, those whose labels are within the bounds of
    the model; every spectrum goes through the whole pipeline, as synthetic unless ``as_observed``.
    ``progress`` is called with the number of spectra done and to do. Raises ``GridError`` where the grid does
    not suit the model, ``ConfigError`` for wrong options.
    """
    values = [float(value) for value in snr]
    if not values or not all(0 < value < math.inf for value in values) or n_stars < 2:
        raise ConfigError(
            f"snr {snr}, stars {n_stars}: expected positive S/N per Angstrom and at least 2 stars"
        )
    grid = attrs.evolve(grid, flux_of=_remembered(grid.flux_of))
    simulation = Simulation(estimator, grid, plugins, seed, as_observed=as_observed)
    rows = grid.split(split)
    rows = rows[estimator.labels.inside(simulation.truth(rows, estimator.labels))]
    if not rows.size:
        raise GridError(f"no model of the split {split!r} of the grid is within the bounds of the model")
    pipeline = Pipeline(
        estimator, plugins, RunOptions(synthetic=not as_observed, samples=n_samples, seed=seed)
    )
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(rows)[:n_stars])
    stars = {kind.name: kind.choose(simulation, rows, n_stars) if kind.choose else chosen for kind in kinds}
    done, total = 0, len(values) * sum(map(len, stars.values()))
    table = []
    for value in values:
        results: dict[str, list[Result]] = {kind.name: [] for kind in kinds}
        for start in range(0, len(chosen), BLOCK):
            for kind in kinds:
                part = stars[kind.name][start : start + BLOCK]
                if part.size:
                    scene = Scene(simulation, part, value, np.random.default_rng([seed, start]), rows)
                    results[kind.name].append(pipeline(kind.make(scene)))
                    done += len(part)
                    progress(done, total)
        clean = None
        for kind in kinds:
            result = Result.join(results[kind.name])
            if clean is None:
                clean = _scores(result)
            truth = simulation.truth(stars[kind.name], result.summary.labels)
            table.append(_row(kind, value, result, truth, clean))
    return tabulate(table, {key: ("", text) for key, text in COLUMNS.items()}, {"seed": seed, "split": split})


def _remembered(flux_of: FluxSource) -> FluxSource:
    """The same, with the last answers kept: most kinds are made of the same stars."""

    @functools.lru_cache(maxsize=3)
    def read(rows: bytes) -> np.ndarray:
        return flux_of(np.frombuffer(rows, np.int64))

    def remembered(rows: np.ndarray) -> np.ndarray:
        return read(np.asarray(rows, np.int64).tobytes())

    return remembered


def _scores(result: Result) -> np.ndarray:
    """``(n_spec,)`` scores; infinite for what is bad for another reason, NaN where the model has none."""
    flags = np.asarray(result.meta["flags"], np.uint32)
    other = is_bad(flags & ~np.uint32(Flag.OUT_OF_DISTRIBUTION))
    return np.where(other, np.inf, np.asarray(result.meta["ood_score"], float))


def _row(kind: Kind, snr: float, result: Result, truth: np.ndarray, clean: np.ndarray) -> dict[str, Any]:
    """One row of :func:`ood_table`; ``clean`` are the scores of spectra in range."""
    flags = np.asarray(result.meta["flags"], np.uint32)
    flagged, scores = (flags & np.uint32(Flag.OUT_OF_DISTRIBUTION)) != 0, _scores(result)
    scored = np.asarray(result.meta["ood_score"], float)
    scored = scored[np.isfinite(scored)]
    limit = np.quantile(clean, 1.0 - FALSE_ALARMS, method="higher")
    row: dict[str, Any] = {
        "kind": kind.name,
        "expected": kind.expected,
        "snr": snr,
        "n": len(flags),
        "bad": float(is_bad(flags).mean()),
        "ood": float(flagged.mean()),
        "detected": float((scores > limit).mean()),
        "score": float(np.median(scored)) if scored.size else None,
        "inside_68": None,
        "inside_95": None,
        "message": "",
    }
    has = ~is_bad(flags)
    if kind.expected != "flag" and has.any():
        _, low95, low68, high68, high95, _ = result.summary.quantiles[:, has]
        row["inside_68"] = float(np.mean((truth[has] >= low68) & (truth[has] <= high68)))
        row["inside_95"] = float(np.mean((truth[has] >= low95) & (truth[has] <= high95)))
    if flagged.any():
        said = [str(text).partition("): ")[2] for text in result.meta["message"][flagged]]
        row["message"] = max(sorted(set(said)), key=said.count)
    return row
