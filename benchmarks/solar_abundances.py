"""What corrected lines make of the Sun: the abundances that fit its atlas best, and the region of lithium.

    python benchmarks/solar_abundances.py [CORRECTIONS]

in the root of a checkout that has the development data beside it, with Turbospectrum set up. ``CORRECTIONS``
is "shipped" (default), "none" or a table of ``specinn synthesis fit-lines``. All elements of the grid of
record and iron are fitted at once, linearly, to the flux atlas at R = 20 000, from the solar scale; the
ranges that the recipe of the lines leaves out are left out. It takes three minutes of a core.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d
from specinn_turbospectrum import abundances
from specinn_turbospectrum.line_fit.fit import COMPARED_AT
from specinn_turbospectrum.line_fit.recipe import C_KMS, Recipe
from specinn_turbospectrum.line_fit.spectra import STEP_KMS, ObservedStar, fit_broadening, grids, on_grid
from specinn_turbospectrum.synthesizer import Turbospectrum

from specinn.plugins import Plugins

RECIPE = Path("plugins/specinn_turbospectrum/recipes/lines.toml")
STEP = 0.05  # dex
LARGE = 0.01  # residual from which the weight of a pixel is reduced
LITHIUM = (6706.5, 6709.0)


def main(corrections: str) -> None:
    recipe = Recipe.read(RECIPE)
    sun = next(star for star in recipe.stars if star.name == "Sun")
    code = Turbospectrum.from_config(
        {**recipe.synthesizer, "segments": {n: list(w) for n, w in recipe.windows.items()},
         "corrections": corrections}, abundances.LABELS,
    )  # fmt: skip
    names = ["fe_h", *(name for name in abundances.LABELS if name not in abundances.PARAMETERS)]
    start = np.array([sun.labels.get(name, 0.0) for name in abundances.LABELS])
    spectra = [code(start[None])[0]]
    for name in names:
        moved = start.copy()
        moved[abundances.LABELS.index(name)] += STEP
        if name == "fe_h":  # all others stay
            others = [i for i, label in enumerate(abundances.LABELS) if label.endswith("_fe")]
            moved[others] -= STEP
        spectra.append(code(moved[None])[0])
        print(f"{len(spectra) - 1} of {len(names)} derivatives", file=sys.stderr)

    arms = grids(recipe.windows)
    observed = ObservedStar(sun, arms, recipe.excluded, Plugins())
    sharp = on_grid(code.wavelength, spectra[0], arms)
    broaden = fit_broadening(observed, sharp)
    data = observed.aligned({arm: broaden(flux) for arm, flux in sharp.items()})
    width = C_KMS / 2.3548 * np.sqrt(COMPARED_AT**-2 - sun.resolving_power**-2) / STEP_KMS

    def seen(flux: np.ndarray) -> np.ndarray:
        parts = on_grid(code.wavelength, flux, arms)
        return np.concatenate([gaussian_filter1d(broaden(parts[arm]), width) for arm in arms])

    wavelength = np.concatenate([np.exp(grid) for grid in arms.values()])
    finite = np.concatenate([np.isfinite(data[arm]) for arm in arms])
    whole = [gaussian_filter1d(np.isfinite(data[arm]).astype(float), width) for arm in arms]
    smooth = np.concatenate([gaussian_filter1d(np.nan_to_num(data[arm], nan=1.0), width) for arm in arms])
    model = seen(spectra[0])
    use = finite & (np.concatenate(whole) > 0.99)
    residual = (smooth - model)[use]
    slopes = np.stack([(seen(flux) - model)[use] / STEP for flux in spectra[1:]], axis=1)
    change = np.zeros(len(names))
    for _ in range(20):
        left = residual - slopes @ change
        weight = 1.0 / (1.0 + (left / LARGE) ** 2)
        normal = slopes.T @ (slopes * weight[:, None])
        change = np.linalg.solve(normal, slopes.T @ (weight * residual))
    # pixels of one resolution element are not independent
    error = np.sqrt(np.diag(np.linalg.inv(normal)) * np.average(left**2, weights=weight) * 2.3548 * width)
    print(f"corrections: {corrections}; A(X) that fits best minus the solar scale, all at once, dex")
    for name, value, sigma in zip(names, change, error, strict=True):
        print(f"{name:6} {value:+.3f} +- {sigma:.3f}")
    near = use & (wavelength >= LITHIUM[0]) & (wavelength <= LITHIUM[1])
    off = np.abs(smooth - model)[near]
    line = np.abs(smooth - model)[near & (np.abs(wavelength - 6707.8) < 0.15)]
    print(f"{LITHIUM[0]} to {LITHIUM[1]}: off by at most {off.max():.4f}, in the line by {line.mean():.4f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "shipped")
