"""One observed spectrum and its model spectrum: how well they agree, and where to look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from specinn.instruments import Instrument
from specinn.lines import Line, read_lines
from specinn.wavelengths import C_KMS, air_to_vacuum

__all__ = ["LEVELS", "NUMBERS", "Resimulation", "Unsimulated", "Window", "overall", "windows"]

LEVELS = (0.025, 0.16, 0.84, 0.975)  # of the bands, 95 and 68 %
_HALF_WIDTH = 1.5  # Angstrom of a window, at least
_ANSWER = 0.002  # of the continuum for 0.1 dex: lines that respond less are not shown
_MOLECULES = {"C2": "C", "CN": "N", "MgH": "Mg"}  # the element for which their windows are shown
NUMBERS = {
    "mean": ("percent", "Mean of observed minus model flux, of the continuum"),
    "mean_abs": ("percent", "Mean absolute difference of observed and model flux, of the continuum"),
    "std": ("percent", "Standard deviation of observed minus model flux, of the continuum"),
    "noise": ("percent", "Mean absolute difference that the noise alone would make"),
    "chi2": ("", "Chi-square per pixel"),
    "n_pixels": ("", "Number of pixels"),
}


@attrs.frozen(eq=False)
class Resimulation:
    """One star: its spectrum as the trained model received it, and the model spectrum of its labels.

    Arrays have the pixels of ``instrument`` (``wavelength`` in Angstrom, its arms in ``slices``), fluxes are
    over the pseudo-continuum, and masked pixels are NaN. ``flux``, ``sigma (n_pix,)``: observed; ``model
    (n_pix,)``: at the MAP; ``bands (4, n_pix)``: quantiles :data:`LEVELS` of the model flux over posterior
    samples (NaN without any). ``used (n_pix,)``: the good pixels that the trained model uses.
    ``labels``: the MAP by name, of what is not determined the middle of its posterior. ``response``: by
    element, the change ``(n_pix,)`` of the model flux for 0.1 dex more of it. ``samples (n, n_labels)``: all
    accepted posterior samples, with corrections as the catalogue has them; none without bands. ``row`` is
    that of the catalogue table; ``note`` is a remark for the user, or "".
    """

    id: str
    path: str
    row: int
    instrument: Instrument
    labels: Mapping[str, float]
    flux: np.ndarray
    sigma: np.ndarray
    model: np.ndarray
    bands: np.ndarray
    used: np.ndarray
    response: Mapping[str, np.ndarray]
    samples: np.ndarray
    note: str = ""

    @property
    def wavelength(self) -> np.ndarray:
        """``(n_pix,)`` Angstrom, in the medium of the instrument."""
        return self.instrument.wavelength

    @property
    def residual(self) -> np.ndarray:
        """``(n_pix,)`` observed minus model, in units of the continuum."""
        return self.flux - self.model

    @property
    def good(self) -> np.ndarray:
        """``(n_pix,)`` whether there are both an observed and a model flux."""
        return np.isfinite(self.residual) & np.isfinite(self.sigma)

    def numbers(self) -> dict[str, float | None]:
        """The values of :data:`NUMBERS` over all good pixels, and with ``_used`` after their names over those
        that the trained model uses; None without pixels."""
        out: dict[str, float | None] = {}
        for end, where in (("", self.good), ("_used", self.used)):
            off, sigma = self.residual[where], self.sigma[where]
            out |= {f"{name}{end}": None for name in NUMBERS}
            out[f"n_pixels{end}"] = off.size
            if off.size:
                out[f"mean{end}"] = 100 * float(off.mean())
                out[f"mean_abs{end}"] = 100 * float(np.abs(off).mean())
                out[f"std{end}"] = 100 * float(off.std())
                out[f"noise{end}"] = 100 * float(np.sqrt(2 / np.pi) * sigma.mean())
                out[f"chi2{end}"] = float(((off / sigma) ** 2).mean())
        return out


@attrs.frozen
class Unsimulated:
    """A star without a model spectrum, and why; ``row`` is -1 where the catalogue has none for it."""

    id: str
    path: str
    row: int
    message: str


@attrs.frozen
class Window:
    """The surroundings of a spectral line, from ``low`` to ``high`` Angstrom in the instrument's medium."""

    element: str
    line: Line
    low: float
    high: float


def overall(stars: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """:meth:`Resimulation.numbers` of all pixels of many stars, from those of each."""
    out: dict[str, float | None] = {}
    for end in ("", "_used"):
        with_pixels = [star for star in stars if star[f"n_pixels{end}"]]
        column = {name: np.array([star[f"{name}{end}"] for star in with_pixels], float) for name in NUMBERS}
        weight = column["n_pixels"]
        out |= {f"{name}{end}": None for name in NUMBERS}
        out[f"n_pixels{end}"] = int(weight.sum())
        if not with_pixels:
            continue
        for name in ("mean", "mean_abs", "noise", "chi2"):
            out[name + end] = float(np.average(column[name], weights=weight))
        squares = column["std"] ** 2 + (column["mean"] - out[f"mean{end}"]) ** 2
        out[f"std{end}"] = float(np.sqrt(np.average(squares, weights=weight)))
    return out


def windows(star: Resimulation, each: int = 4, lines: Sequence[Line] | None = None) -> list[Window]:
    """At most ``each`` windows per element that the model infers, and hydrogen before them if it infers Teff.

    A line has a good pixel within 0.2 Angstrom. Those by which Ksoll et al. 2026 measure abundances come
    first, then those whose pixels the model uses, then those that respond most to their element. Without
    :attr:`Resimulation.response` there are only the windows of hydrogen.
    """
    vacuum = star.instrument.medium == "vacuum"
    flat = np.full(star.wavelength.shape, np.inf)
    elements = {**({"H": flat} if "teff" in star.labels else {}), **star.response}
    chosen: list[Window] = []
    lines = read_lines() if lines is None else lines
    for element, response in elements.items():
        ranked = []
        for line in lines:
            if _MOLECULES.get(line.species, line.species.split()[0]) != element:
                continue
            centre = float(air_to_vacuum(np.array([line.wavelength]))[0]) if vacuum else line.wavelength
            nearby = np.abs(star.wavelength - centre) < 0.2
            answer = float(np.abs(response[nearby & star.good]).max(initial=0.0))
            if (nearby & star.good).any() and (line.diagnostic or answer > _ANSWER):
                ranked.append((not line.diagnostic, not (nearby & star.used).any(), -answer, centre, line))
        of_element: list[Window] = []
        for *_, centre, line in sorted(ranked, key=lambda item: item[:4]):
            half = max(_HALF_WIDTH, 1.6 * line.reach, 1.8 * star.labels.get("vbroad", 0.0) / C_KMS * centre)
            near = [w for w in of_element if abs(centre - 0.5 * (w.low + w.high)) < _HALF_WIDTH]
            if not near and len(of_element) < each:
                of_element.append(Window(element, line, centre - half, centre + half))
        chosen += sorted(of_element, key=lambda window: window.low)
    return chosen
