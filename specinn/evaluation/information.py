"""The information limit: how well any method could know the labels of a star from its spectrum.

The Cramer-Rao bound follows from the derivatives of the noiseless spectrum, which an emulator of the grid
gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from specinn import models
from specinn.errors import ConfigError, GridError
from specinn.labels import ALPHA, LabelSet
from specinn.simulation.model_spectra import Models

if TYPE_CHECKING:
    from specinn.evaluation.simulation import Simulation
    from specinn.plugins import Plugins

__all__ = ["cramer_rao"]

_STARS = 8  # at once: their derivatives of 26 labels are 10 MB in float32
# Step of the central difference in vbroad: 0.5 km/s, below which float32 would show its rounding, and 3 % of
# a fast rotation, which errs by 1 % at most at the frequencies where lines have power. Far below the
# instrument's width spectra are quadratic in vbroad, and the difference exact.
_STEP_KMS, _STEP = 0.5, 0.03


def cramer_rao(
    simulation: Simulation,
    rows: np.ndarray,
    snr: Sequence[float],
    plugins: Plugins,
    labels: LabelSet | None = None,
    synthesizer: str = "emulator",
) -> np.ndarray:
    """Cramer-Rao bounds ``(n_rows, n_snr, n_labels)``, one sigma in the labels' physical units.

    No unbiased estimate from the spectra of ``simulation`` has a smaller standard deviation. ``rows`` are
    models of the simulation's grid, ``snr`` values per Angstrom; ``labels`` are those of the estimator, or
    these and the ones derived from them. All labels of the grid are free, those that the estimator does not
    infer as well, and vbroad where the simulation draws it; continuum, velocity and resolving power are
    known. The bound counts the pixels that the estimator uses and the noise that the simulation adds. With J
    the derivatives of the observed flux, sigma its noise and w the widths of the training ranges, the bounds
    are the square roots of the diagonal of

        (J^T diag(sigma^-2) J + diag(12 / w^2))^-1.

    The second term is the inverse variance of a uniform distribution over the range, a weak prior: it keeps
    the matrix well-conditioned, and the bound of a label without lines at 0.29 w, which is what the range
    alone says. A prior that knows more, such as abundances that are correlated in the grid, can beat it.

    Derivatives are those of ``synthesizer``, exact by automatic differentiation, except for vbroad, where
    they are central differences. Raises ``GridError`` where it is not differentiable or does not suit the
    grid, or a label is not in it, and ``ConfigError`` for S/N that are not positive.
    """
    levels = np.asarray(snr, dtype=float)
    if not (np.isfinite(levels).all() and (levels > 0).all()):
        raise ConfigError(f"snr {list(snr)}: expected positive numbers, S/N per Angstrom")
    labels = simulation.estimator.labels if labels is None else labels
    observed = _Derivatives(simulation, plugins, synthesizer)
    combine = _combinations(labels.names, observed.names) * observed.width
    prior = 12.0 * np.eye(len(observed.names))  # of labels in units of their ranges
    out = np.empty((len(rows), levels.size, len(labels)))
    start = 0
    for jacobian in observed.blocks(np.asarray(rows)):
        fisher = jacobian @ jacobian.swapaxes(1, 2)
        covariance = np.linalg.inv(levels[:, None, None] ** 2 * fisher[:, None] + prior)
        variance = np.einsum("li,nsij,lj->nsl", combine, covariance, combine)
        out[start : start + len(jacobian)] = np.sqrt(variance)
        start += len(jacobian)
    return out


class _Derivatives:
    """Derivatives of observed spectra, in units of the noise at S/N 1 and of the labels' ranges.

    ``names`` are the labels that are free, ``width (n_free,)`` their ranges in physical units.
    """

    def __init__(self, simulation: Simulation, plugins: Plugins, synthesizer: str) -> None:
        import torch

        estimator, grid = simulation.estimator, simulation.grid
        emulator = models.synthesizer(plugins, estimator.header, synthesizer)
        if not emulator.differentiable:
            raise GridError(
                f"the synthesizer {synthesizer!r} does not declare that it is differentiable, and the "
                "information limit needs derivatives"
            )
        if set(emulator.labels) != set(grid.labels):
            raise GridError(
                f"the emulator has the labels {', '.join(emulator.labels)}, the grid "
                f"{', '.join(grid.labels)}: the information limit needs an emulator of the grid itself"
            )
        instrument = estimator.instrument
        spectra = Models(emulator, instrument)
        self.emulate, self.observe = spectra.synthesise, spectra.observer
        order = [grid.labels.index(name) for name in emulator.labels]
        bounds = np.asarray(emulator.bounds)
        values = np.clip(grid.values[:, order], *bounds.T)  # where it ends derivatives are those at the end
        self.values = torch.as_tensor(values, dtype=torch.float32)
        self.vbroad = torch.as_tensor(simulation.vbroad, dtype=torch.float32)
        rotates = "vbroad" in estimator.labels and "vbroad" not in emulator.labels
        self.names = (*emulator.labels, *(["vbroad"] if rotates else []))
        if rotates:
            bounds = np.vstack([bounds, estimator.labels["vbroad"].bounds])
        self.width = bounds[:, 1] - bounds[:, 0]
        flat = torch.ones(1, self.observe.wavelength.size)
        unit = torch.ones(1, len(instrument.arms))
        _, sigma, _, _ = simulation.noise(flat, torch.Generator().manual_seed(0), unit)
        used = torch.as_tensor(estimator.used_pixels & ~simulation.masked)
        self.weight = torch.where(used, 1.0 / sigma[0], 0.0)

    def blocks(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """``(n, n_free, n_pix)`` float64, a few stars at a time."""
        for start in range(0, len(rows), _STARS):
            yield self._of(rows[start : start + _STARS])

    def _of(self, rows: np.ndarray) -> np.ndarray:
        import torch

        values, vbroad = self.values[rows], self.vbroad[rows]
        n, n_emulated = values.shape
        # a copy of each star for each label, with a step in that label
        stars, turning = (each.repeat_interleave(n_emulated, 0) for each in (values, vbroad))
        steps = torch.diag(torch.as_tensor(self.width[:n_emulated], dtype=values.dtype)).repeat(n, 1)
        model = torch.autograd.functional.jvp(self.emulate, stars, steps)[1]
        with torch.no_grad():
            out = self.observe(1.0 + model, turning) - 1.0  # observing is linear in flux - 1
            out = out.view(n, n_emulated, -1)
            if len(self.names) > n_emulated:
                flux, h = self.emulate(values), torch.maximum(_STEP * vbroad, vbroad.clamp(max=_STEP_KMS))
                change = self.observe(flux, vbroad + h) - self.observe(flux, vbroad - h)
                slope = change * (self.width[-1] / (2.0 * h))[:, None]
                out = torch.cat([out, slope[:, None]], dim=1)
            return (out * self.weight).double().numpy()


def _combinations(names: Sequence[str], free: Sequence[str]) -> np.ndarray:
    """``(n_names, n_free)``: labels as sums of free ones; A(Li) and [Li/Fe] come from each
    other, [alpha/M] from its elements."""
    out = np.zeros((len(names), len(free)))
    for row, name in zip(out, names, strict=True):
        if name in free:
            terms = {name: 1.0}
        elif name == "a_li" and {"li_fe", "fe_h"} <= set(free):
            terms = {"li_fe": 1.0, "fe_h": 1.0}
        elif name == "li_fe" and {"a_li", "fe_h"} <= set(free):
            terms = {"a_li": 1.0, "fe_h": -1.0}
        elif name == "alpha_m" and set(ALPHA) <= set(free):
            terms = dict.fromkeys(ALPHA, 1.0 / len(ALPHA))
        else:
            raise GridError(
                f"the model infers {name}, which the grid does not have; it has {', '.join(free)}: evaluate "
                "on the grid that the model was trained on"
            )
        for term, factor in terms.items():
            row[free.index(term)] = factor
    return out
