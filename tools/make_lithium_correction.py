"""The table of A(Li) in 3D NLTE minus 1D LTE, from the networks of breidablik (Wang et al. 2021, 2024).

    pip install breidablik==1.5.1
    python tools/make_lithium_correction.py specinn/catalogue/lithium_3d_nlte.npz

breidablik (MIT licence, https://github.com/ellawang44/Breidablik) interpolates what Wang et al. (2021,
MNRAS 500, 2159) computed with Balder in Stagger model atmospheres. Nodes that are not within the convex hull
of those atmospheres, or that its own check finds too far from one, have no value.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
from scipy.spatial import Delaunay

AXES = {
    "teff": np.arange(4000.0, 7001.0, 100.0),
    "logg": np.arange(1.5, 5.01, 0.25),
    "fe_h": np.arange(-4.0, 0.51, 0.25),
    "a_li": np.arange(-0.5, 4.01, 0.25),
}
UNIT = 1e-4  # dex, of the stored integers
NONE = -(2**15)
SOURCE = (
    "A(Li) in 3D NLTE minus A(Li) in 1D LTE of the line at 670.8 nm, as a function of Teff (K), log g, "
    "[Fe/H] and A(Li) in 1D LTE; computed with breidablik 1.5.1 (MIT), the networks of Wang et al. (2021, "
    "MNRAS 500, 2159; 2024, MNRAS 528, 5394) for Balder spectra of Stagger model atmospheres"
)


def main(path: Path) -> None:
    import breidablik.interpolate.grid_check as check
    from breidablik.interpolate.nlte import Nlte

    nlte = Nlte()
    snapshot = Path(check.__file__).parents[1] / "grid_snapshot.txt"
    with snapshot.open() as file:
        scale = np.array(file.readline().split(), float)
        atmospheres = np.loadtxt(file)
    hull = Delaunay(atmospheres)
    shape = tuple(map(len, AXES.values()))
    table = np.full(shape, NONE, np.int16)
    for i, teff in enumerate(AXES["teff"]):
        for j, logg in enumerate(AXES["logg"]):
            for k, fe_h in enumerate(AXES["fe_h"]):
                if hull.find_simplex([teff * scale[0], logg, fe_h * scale[1]]) < 0 or _far(
                    check, teff, logg, fe_h
                ):
                    continue
                values = nlte._nlte_correction(teff, logg, fe_h, AXES["a_li"])[:, 0]
                table[i, j, k] = np.round(values / UNIT)
    path.unlink(missing_ok=True)
    np.savez_compressed(path, **AXES, correction=table, unit=UNIT, none=NONE, source=SOURCE)
    some = table[table != NONE] * UNIT
    count = f"{some.size} of {table.size} nodes"
    print(f"{path}: {path.stat().st_size} bytes, {count}, {some.min()} to {some.max()} dex")


def _far(check: object, teff: float, logg: float, fe_h: float) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check._grid_check(teff, logg, fe_h)  # type: ignore[attr-defined]
    return bool(caught)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
