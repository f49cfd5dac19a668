"""The error of the interpolation between model atmospheres: models left out, predicted by the others.

    python benchmarks/atmospheres.py [--prefix DIR] [--nodes 24] [--json]

Leaving a model out doubles the distance between the others in one parameter at a time, so the error is that
of the parameter named, at its worst place, and several times that between models that all exist.
The spectrum of the predicted atmosphere is compared with that of the model's own, 5146 to 5246 Angstrom at
solar ratios. The Sun (5777 K, 4.44, 0) has no model of its own: between 5500 and 6000 K it is predicted with
and without the models at 5750 K.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from specinn_turbospectrum import abundances
from specinn_turbospectrum.atmospheres import Atmosphere, Atmospheres
from specinn_turbospectrum.runner import Star, synthesise
from specinn_turbospectrum.synthesizer import Settings, Turbospectrum

STEPS = {"teff": (250.0, 0.0, 0.0), "logg": (0.0, 0.5, 0.0), "fe_h": (0.0, 0.0, 0.25)}


def spectrum(code: Turbospectrum, atmosphere: Atmosphere) -> np.ndarray:
    """Flux of an atmosphere at solar abundance ratios, microturbulence 1.5 km/s."""
    elements = abundances.log_eps({"fe_h": atmosphere.fe_h})
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "atmosphere"
        atmosphere.write(path, 1.5)
        star = Star(path, 1.5, atmosphere.fe_h, elements, atmosphere.spherical)
        return synthesise(code._installation, star, code._windows, Path(name))


def thinned(atmospheres: Atmospheres, axis: int, value: float) -> Atmospheres:
    """The same without all models at ``value`` of Teff (0), log g (1) or [M/H] (2)."""
    kept = {node: path for node, path in atmospheres.models.items() if abs(node[axis] - value) > 1e-6}
    return Atmospheres(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--prefix", default="")
    parser.add_argument("--nodes", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    settings = Settings(prefix=options.prefix, segments={"test": [5146.0, 5246.0]}, all_depths=True)
    code = Turbospectrum(settings)
    models = code._atmospheres
    inner = [
        node
        for node in sorted(models.models)
        if 4000 <= node[0] <= 7000
        and all(
            tuple(round(n + s * k, 3) for n, s in zip(node, step, strict=True)) in models.models
            for step in STEPS.values()
            for k in (-2, -1, 1, 2)
        )
    ]
    chosen = [inner[i] for i in np.random.default_rng(1).choice(len(inner), options.nodes, replace=False)]
    rows = []
    for node in chosen:
        atmosphere = models(*node)
        flux = spectrum(code, atmosphere)
        for axis, name in enumerate(STEPS):
            other = thinned(models, axis, node[axis])(*node)
            difference = spectrum(code, other) - flux
            rows.append(
                {
                    "left_out": name,
                    "teff": node[0],
                    "logg": node[1],
                    "fe_h": node[2],
                    "max_dt_K": float(
                        np.abs(other.temperature - atmosphere.temperature)[atmosphere.lg_tau_ross <= 1].max()
                    ),
                    "mean_flux": float(difference.mean()),
                    "median_abs_flux": float(np.median(np.abs(difference))),
                }
            )
    whole = models(5777.0, 4.44, 0.0)
    sun = spectrum(code, whole)
    without = spectrum(code, thinned(models, 0, 5750.0)(5777.0, 4.44, 0.0))
    layers = spectrum(code, whole.on_depths(np.round(np.arange(-5.0, 1.21, 0.2), 6)))
    report = {
        "sun_without_5750_mean_flux": float((without - sun).mean()),
        "sun_32_layers_mean_flux": float((layers - sun).mean()),
        "left_out": rows,
    }
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(f"the Sun without the models at 5750 K: mean flux {report['sun_without_5750_mean_flux']:+.1e}")
    print(f"the Sun with 32 of 56 layers: mean flux {report['sun_32_layers_mean_flux']:+.1e}")
    for name in STEPS:
        of_step = [row for row in rows if row["left_out"] == name]
        mean = np.abs([row["mean_flux"] for row in of_step])
        kelvin = [row["max_dt_K"] for row in of_step]
        print(
            f"{name} left out ({len(of_step)} models): |mean flux| median {np.median(mean):.1e}, "
            f"greatest {mean.max():.1e}; "
            f"temperature at tau < 10 median {np.median(kelvin):.1f} K, greatest {max(kelvin):.1f} K"
        )


if __name__ == "__main__":
    main()
