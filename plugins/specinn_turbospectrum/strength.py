"""How strong an atomic line can be: opacity at its centre over that of the continuum, layer by layer.

Good to a factor of two or three, for choosing lines and not for spectra: Saha and Boltzmann with the
partition functions of the code, Doppler widths, and a continuum of H- alone (Gray 2005, eq. 8.12), which
makes a line of a hot star look stronger than it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from specinn.errors import SynthesisError
from specinn_turbospectrum.atmospheres import Atmosphere
from specinn_turbospectrum.linelists import Species

_PARTITION = "IRWIN_atoms_v07.3.dat"
_K_EV = 8.617333e-5  # eV / K
_K_ERG = 1.380649e-16
_SAHA = 2.41469e15  # (2 pi m k / h^2)^1.5, cm-3 K-1.5
_CLASSICAL = 0.026540  # pi e^2 / m c, cm2 Hz
_H_MINUS = 3.0e-17  # cm2, per H- ion, near 5000 Angstrom
_MASS = 1.660539e-24
_LEAST = (
    1e-4  # of the opacity of the continuum: half of it in depth, and the ratio is good to a factor of two
)
_LG_TAU = (-3.0, -2.0, -1.0, -0.4, 0.0)


def opacity_ratio(
    atomic_number: np.ndarray,
    ion: np.ndarray,
    wavelength: np.ndarray,
    chi: np.ndarray,
    log_gf: np.ndarray,
    atmosphere: Atmosphere,
    log_eps: Mapping[int, float],
    vmic: float,
    data: Path,
) -> np.ndarray:
    """The greatest ratio in any layer, for lines ``(n,)`` of atoms (``ion`` 1 is neutral, ``wavelength`` in
    Angstrom, ``chi`` in eV, ``vmic`` in km/s); ``data`` is the folder DATA of the code. A weak line takes
    about 0.4 of it from the continuum. Elements that ``log_eps`` lacks count with log eps = 2."""
    potentials, partition = _atoms(data / _PARTITION)
    best = np.zeros(len(wavelength))
    for lg_tau in _LG_TAU:
        layer = int(np.argmin(np.abs(atmosphere.lg_tau_ross - lg_tau)))
        temperature, electron_pressure = 10.0 ** atmosphere.structure[1:3, layer]
        fraction = np.zeros(len(wavelength))
        width = np.empty(len(wavelength))
        for element in np.unique(atomic_number).tolist():
            rows = atomic_number == element
            stages = _stages(element, temperature, electron_pressure, potentials, partition)
            abundance = 10.0 ** (log_eps.get(element, 2.0) - 12.0)
            for stage, per_weight in enumerate(stages, start=1):
                fraction[rows & (ion == stage)] = abundance * per_weight
            thermal = 2.0 * _K_ERG * temperature / (_MASS * max(2.0 * element, 1.0))
            width[rows] = np.sqrt(thermal + (1e5 * vmic) ** 2)
        population = fraction * 10.0 ** (log_gf - chi * 5040.0 / temperature)
        line = _CLASSICAL * population * (wavelength * 1e-8) / (np.sqrt(np.pi) * width)
        theta = 5040.0 / temperature
        h_minus = 4.158e-10 * _H_MINUS * electron_pressure * theta**2.5 * 10.0 ** (0.754 * theta)
        best = np.maximum(best, line / h_minus)
    return best


def worth_computing(
    species: Sequence[Species], stars: Sequence[tuple[Atmosphere, Mapping[int, float], float]], data: Path
) -> list[Species]:
    """``species`` without the lines of atoms that take less than 1e-4 of the continuum in every one of
    ``stars`` (atmosphere, abundances, microturbulence), which are those where lines are strongest."""
    out = []
    for one in species:
        if one.is_molecule:
            out.append(one)
            continue
        chi, log_gf = one.chi_and_log_gf
        n = len(one.lines)
        number, ion = np.full(n, one.number), np.full(n, one.ion)
        ratios = [
            opacity_ratio(number, ion, one.wavelength, chi, log_gf, atmosphere, log_eps, vmic, data)
            for atmosphere, log_eps, vmic in stars
        ]
        if (seen := np.max(ratios, axis=0) > _LEAST).any():
            out.append(one.keep(seen))
    return out


def _stages(
    element: int,
    temperature: float,
    electron_pressure: float,
    potentials: Mapping[tuple[int, int], float],
    partition: Mapping[tuple[int, int], np.ndarray],
) -> list[float]:
    """The fraction of an element that is neutral, ionized once and twice, each over its partition
    function."""
    powers = np.log(temperature) ** np.arange(6)
    weights = []
    for stage in (1, 2, 3):
        log_u = partition.get((element, stage))
        weights.append(float(np.exp(log_u @ powers)) if log_u is not None else 2.0)
    density = electron_pressure / (_K_ERG * temperature)
    ratio = [1.0]
    for stage in (1, 2):
        potential = potentials.get((element, stage), 10.0 * stage)
        saha = 2.0 * _SAHA * temperature**1.5 / density * np.exp(-potential / (_K_EV * temperature))
        ratio.append(ratio[-1] * saha * weights[stage] / weights[stage - 1])
    return [part / sum(ratio) / weight for part, weight in zip(ratio, weights, strict=True)]


@lru_cache(maxsize=2)
def _atoms(path: Path) -> tuple[dict[tuple[int, int], float], dict[tuple[int, int], np.ndarray]]:
    """Ionization potentials in eV of (element, 1 for the neutral atom), and the coefficients of the logarithm
    of the partition function in powers of the logarithm of the temperature, of (element, stage)."""
    potentials, partition = {}, {}
    try:
        for line in path.read_text(encoding="latin-1").splitlines():
            if line.startswith("#") or not line.strip():
                continue
            head, _, tail = line.split("'")
            element, stage = head.split()[1].split(".")
            at = (int(element), int(stage) + 1)
            fields = tail.upper().replace("D", "E").split()
            if at[1] > 1:
                potentials[at[0], at[1] - 1] = float(fields[0])
            coefficients = [float(x) for x in fields[2:8]]
            partition[at] = np.array(coefficients + [0.0] * (6 - len(coefficients)))
    except (OSError, ValueError) as error:
        raise SynthesisError(f"{path}, partition functions of the code, cannot be read: {error}") from None
    return potentials, partition
