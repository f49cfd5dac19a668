"""What a spectrum costs with specinn, and with the defaults of TSFitPy: the same code, stars and wavelengths.

    python benchmarks/synthesis.py [--prefix DIR] [--segment 5146 5742 --segment 6092 6797] [--parts] [--json]

TSFitPy (github.com/TSFitPy-developers/TSFitPy) drives babsma_lu and bsyn_lu as specinn does. Its defaults:

* wavelength step 0.005 Angstrom: ``wavelength_delta`` in
  ``input_files/synthetic_spectra_generation_configuration.cfg`` (commit 216404d);
* LTE, flux, molecules included: ``nlte``, ``compute_intensity_flag`` and ``include_molecules`` there;
* all hydrogen lines, whatever the window: ``create_window_linelist`` copies their file whole
  (``scripts/create_window_linelist_function.py``, commit 54c8b50; "H is always generated whether it is in the
  segment or not", README, commit a61845f). They are taken to be the 133 of Turbospectrum's own ``Hlinedata``;
* all other lines from 5 Angstrom below the window to 5 above it, weak or strong: the same function as
  ``generate_synthetic_spectra.py`` (commit 1b5d987) calls it;
* all depth points of MARCS (56): what is interpolated is passed on (``scripts/turbospectrum_class_nlte.py``,
  commit c12f0b4).

Both get the same executables, line lists and atmospheres, so only these settings are compared: not the
compiler, not Python, not TSFitPy's own interpolation, start or convolution. Its users choose line lists
themselves; here both have those that set-up installed.

Time is that of the processor, in this process and its children: other work on the machine counts little.
The two take turns: specinn, TSFitPy's settings, specinn; the mean of the first and the last is compared with
the one between. Flux is compared at R = 20 000. ``--parts`` also takes each default alone, for the Sun.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
from collections.abc import Sequence

import attrs
import numpy as np
from specinn_turbospectrum import abundances
from specinn_turbospectrum.installation import HYDROGEN
from specinn_turbospectrum.linelists import cut
from specinn_turbospectrum.synthesizer import Settings, Turbospectrum

from specinn.spectra.resample import resampling_operator

STARS = {  # Teff, log g, [Fe/H], microturbulence
    "Sun": (5777.0, 4.44, 0.0, 1.0),
    "giant": (4500.0, 2.0, 0.0, 1.5),
    "turn-off": (6300.0, 4.0, -2.0, 1.5),
}
STEP = 0.005  # Angstrom
EDGE = 5.0
PARTS = ("step", "depth points", "hydrogen lines", "molecular lines")
RESOLVING_POWER = 20_000.0


def configured(settings: Settings, parts: Sequence[str]) -> Turbospectrum:
    """The synthesizer with TSFitPy's defaults for ``parts``, of :data:`PARTS`, and its own for the others."""
    if "step" in parts:
        settings = attrs.evolve(settings, step=STEP)
    if "depth points" in parts:
        settings = attrs.evolve(settings, all_depths=True)
    code = Turbospectrum(settings, abundances.PARAMETERS)
    windows = []
    for window in code._windows:
        lists = list(window.line_lists)
        folder = lists[0].parent
        if "molecular lines" in parts:
            files = [code._installation.line_lists[name] for name in settings.lists_for(window.low)]
            lists[0] = folder / f"all-{window.low:g}.list"
            cut(files, window.low - EDGE, window.high + EDGE, lists[0], weakest=np.inf)
        if "hydrogen lines" in parts:
            every = folder / f"all-{window.low:g}.hydrogen"
            shutil.copyfile(code._installation.data / HYDROGEN, every)
            lists[1:] = [every]
        windows.append(attrs.evolve(window, line_lists=tuple(lists)))
    code._windows = windows
    return code


def timed(code: Turbospectrum, star: Sequence[float]) -> tuple[float, np.ndarray]:
    """Processor seconds and flux ``(n_pix,)``."""
    start = processor()
    flux = code(np.array([star]))[0]
    return processor() - start, flux


def processor() -> float:
    """Seconds of the processor so far, in this process and those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def observed(code: Turbospectrum, flux: np.ndarray) -> np.ndarray:
    """At R = 20 000, in pixels of 0.1 Angstrom that lie 3 Angstrom or more within the windows."""
    pixels = [np.arange(window.low + 3.0, window.high - 3.0, 0.1) for window in code._windows]
    ends = np.cumsum([0, *(one.size for one in pixels)])
    arms = {name: slice(ends[i], ends[i + 1]) for i, name in enumerate(code.arms)}
    operator = resampling_operator(
        code.wavelength, code.arms, np.inf, np.concatenate(pixels), arms, RESOLVING_POWER
    )
    return np.asarray((operator @ flux) / (operator @ np.ones(flux.size)))


def compare(own: Turbospectrum, other: Turbospectrum, star: Sequence[float]) -> dict[str, float]:
    """Seconds of both, their ratio, and how their fluxes differ at R = 20 000."""
    before, flux = timed(own, star)
    theirs, other_flux = timed(other, star)
    after, _ = timed(own, star)
    ours = 0.5 * (before + after)
    difference = np.abs(observed(other, other_flux) - observed(own, flux))
    return {
        "seconds": ours,
        "seconds_defaults_of_tsfitpy": theirs,
        "ratio": theirs / ours,
        "spectra_a_minute_and_core": 60.0 / ours,
        "median_difference": float(np.median(difference)),
        "p99_difference": float(np.percentile(difference, 99)),
        "largest_difference": float(difference.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--prefix", default="")
    parser.add_argument("--segment", nargs=2, type=float, action="append", metavar=("FROM", "TO"))
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    settings = Settings(prefix=options.prefix)
    if options.segment:
        settings = attrs.evolve(settings, segments={f"{low:g}": [low, high] for low, high in options.segment})
    own, theirs = configured(settings, ()), configured(settings, PARTS)
    rows = [{"star": name, "default": "all", **compare(own, theirs, star)} for name, star in STARS.items()]
    if options.parts:
        name, star = next(iter(STARS.items()))
        rows += [
            {"star": name, "default": part, **compare(own, configured(settings, (part,)), star)}
            for part in PARTS
        ]
    if options.json:
        ranges = [[window.low, window.high] for window in own._windows]
        machine = {"machine": platform.machine(), "cores": os.cpu_count()}
        print(json.dumps({"ranges": ranges, **machine, "stars": STARS, "rows": rows}, indent=2))
        return
    for row in rows:
        print(
            f"{row['star']:9s} {row['default']:16s} {row['seconds']:6.1f} s, with TSFitPy's "
            f"{row['seconds_defaults_of_tsfitpy']:6.1f} s, ratio {row['ratio']:5.1f}; "
            f"{row['spectra_a_minute_and_core']:.1f} spectra a minute and core; difference median "
            f"{row['median_difference']:.1e}, 99 % below {row['p99_difference']:.1e}, "
            f"largest {row['largest_difference']:.1e}"
        )


if __name__ == "__main__":
    main()
