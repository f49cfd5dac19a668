"""A plain fit of a star with Turbospectrum, without any network: what corrected lines lead to.

    python benchmarks/plain_fit.py [STAR] [--corrections shipped|none|FILE] [--abundances]

in the root of a checkout that has the development data beside it, with Turbospectrum set up. ``STAR`` is one
of the recipe of the lines (Sun by default). All labels at once make one linear, robust step from the
literature's values, with the same weight for every pixel at R = 20 000: it is the bias of this physics with
these lines. The continuum, first laid on the spectrum of these values, is fitted along, lest it hold the
labels there. With ``--abundances`` parameters stay, and every element moves by itself, iron included: for the
Sun, whose abundances are known. The ranges that the recipe leaves out are left out. It takes three to five
minutes of a core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.linalg import block_diag
from scipy.ndimage import gaussian_filter1d
from specinn_turbospectrum import abundances
from specinn_turbospectrum.line_fit.fit import COMPARED_AT
from specinn_turbospectrum.line_fit.recipe import Recipe
from specinn_turbospectrum.line_fit.spectra import STEP_KMS, ObservedStar, fit_broadening, grids, on_grid
from specinn_turbospectrum.synthesizer import Turbospectrum

from specinn.plugins import Plugins
from specinn.wavelengths import C_KMS, FWHM_PER_SIGMA

RECIPE = Path("plugins/specinn_turbospectrum/recipes/lines.toml")
STEPS = {"teff": 50.0, "logg": 0.1, "vmic": 0.1}  # of derivatives; 0.05 dex for all others
LARGE = 0.01  # residual from which the weight of a pixel is reduced
KNOTS_KMS = 800.0  # between those of the continuum
LITHIUM = (6706.5, 6709.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("star", nargs="?", default="Sun")
    parser.add_argument("--corrections", default="shipped")
    parser.add_argument("--abundances", action="store_true")
    options = parser.parse_args()
    recipe = Recipe.read(RECIPE)
    known = {star.name: star for star in (*recipe.stars, *recipe.validation)}
    if options.star not in known:
        parser.error(f"{options.star}: expected one of {', '.join(known)}")
    star = known[options.star]
    arms = grids(recipe.windows)
    code = Turbospectrum.from_config(
        {**recipe.synthesizer, "segments": {n: list(w) for n, w in recipe.windows.items()},
         "corrections": options.corrections}, abundances.LABELS,
    )  # fmt: skip
    names = [name for name in abundances.LABELS if name not in abundances.PARAMETERS]
    names = ["fe_h", *names] if options.abundances else [*abundances.PARAMETERS, *names]
    start, steps, spectra = derivatives(code, star.labels, names, options.abundances)

    observed = ObservedStar(star, arms, recipe.excluded, Plugins())
    sharp = on_grid(code.wavelength, spectra[0], arms)
    broaden = fit_broadening(observed, sharp)
    data = observed.aligned({arm: broaden(flux) for arm, flux in sharp.items()})
    width = C_KMS / FWHM_PER_SIGMA * np.sqrt(COMPARED_AT**-2 - star.resolving_power**-2) / STEP_KMS

    def seen(flux: np.ndarray) -> np.ndarray:
        parts = on_grid(code.wavelength, flux, arms)
        return np.concatenate([gaussian_filter1d(broaden(parts[arm]), width) for arm in arms])

    wavelength = np.concatenate([np.exp(grid) for grid in arms.values()])
    finite = [np.isfinite(data[arm]) for arm in arms]
    whole = [gaussian_filter1d(of_arm.astype(float), width) > 0.99 for of_arm in finite]
    smooth = np.concatenate([gaussian_filter1d(np.nan_to_num(data[arm], nan=1.0), width) for arm in arms])
    use = np.concatenate(finite) & np.concatenate(whole)
    model = seen(spectra[0])
    residual = (smooth - model)[use]
    slopes = np.stack([(seen(flux) - model)[use] for flux in spectra[1:]], axis=1) / steps
    levels = continuum(list(arms.values()))[use] * model[use, None]
    slopes = np.hstack([slopes, levels[:, np.abs(levels).sum(axis=0) > 1.0]])
    change, error = robust_step(residual, slopes, FWHM_PER_SIGMA * width)

    print(f"{star.name}, corrections {options.corrections}: best fit minus literature, all at once")
    for name, value, sigma in zip(names, change, error, strict=False):
        print(f"{name:6} {value:+8.3f} +- {sigma:.3f}   from {start[abundances.LABELS.index(name)]:g}")
    print(f"median absolute residual at the literature's values {np.median(np.abs(residual)):.4f}")
    near = use & (wavelength >= LITHIUM[0]) & (wavelength <= LITHIUM[1])
    if near.any():
        off = np.abs(smooth - model)
        line = off[near & (np.abs(wavelength - 6707.8) < 0.15)].mean()
        worst = wavelength[near][off[near].argmax()]
        print(
            f"{LITHIUM[0]} to {LITHIUM[1]} Angstrom: off by at most {off[near].max():.4f}, at {worst:.2f}; "
            f"in the line of lithium by {line:.4f}"
        )


def derivatives(
    code: Turbospectrum, labels: dict[str, float], names: list[str], alone: bool
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """The labels ``(n_labels,)`` of the star, the steps ``(n_names,)``, and its spectrum, then those with
    each label changed by its step. ``alone``: with [Fe/H] iron moves, and no other element."""
    default = {"a_li": 1.05 + labels["fe_h"]}
    start = np.array([labels.get(name, default.get(name, 0.0)) for name in abundances.LABELS])
    steps = np.array([STEPS.get(name, 0.05) for name in names])
    spectra = [code(start[None])[0]]
    for name, step in zip(names, steps, strict=True):
        moved = start.copy()
        moved[abundances.LABELS.index(name)] += step
        if name == "fe_h" and alone:
            moved[[i for i, label in enumerate(abundances.LABELS) if label.endswith("_fe")]] -= step
        spectra.append(code(moved[None])[0])
        print(f"{len(spectra) - 1} of {len(names)} derivatives", file=sys.stderr)
    return start, steps, spectra


def continuum(arms: list[np.ndarray]) -> np.ndarray:
    """``(n_pix, n_knots)``: for each knot the line that falls from 1 there to 0 at its neighbours."""
    out = []
    for log_wavelength in arms:
        knots = np.arange(0.0, len(log_wavelength) * STEP_KMS + KNOTS_KMS, KNOTS_KMS)
        away = np.abs(np.arange(len(log_wavelength))[:, None] * STEP_KMS - knots) / KNOTS_KMS
        out.append(np.clip(1.0 - away, 0.0, None))
    return block_diag(*out)


def robust_step(residual: np.ndarray, slopes: np.ndarray, element: float) -> tuple[np.ndarray, np.ndarray]:
    """What to add to the labels ``(n,)`` and its standard error, from the scatter of the residuals;
    ``element`` pixels are one resolution element, and not independent."""
    change = np.zeros(slopes.shape[1])
    for _ in range(20):
        left = residual - slopes @ change
        weight = 1.0 / (1.0 + (left / LARGE) ** 2)
        normal = slopes.T @ (slopes * weight[:, None])
        change = np.linalg.solve(normal, slopes.T @ (weight * residual))
    variance = np.diag(np.linalg.inv(normal)) * np.average(left**2, weights=weight) * element
    return change, np.sqrt(variance)


if __name__ == "__main__":
    main()
