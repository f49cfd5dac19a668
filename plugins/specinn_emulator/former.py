"""Spectra of a grid before its physics changed, brought up to the new physics.

Better line data change all spectra, and a grid takes days. What changes is smaller than the spectra and
smoother in the labels: a part of the models, computed anew, tells it well enough (Kennedy & O'Hagan 2000,
Biometrika 87, 1). An emulator of the former grid gives the spectra of its training stars nearly exactly, and
with the change they serve the new one, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch

from specinn.errors import ConfigError

from .emulator import Emulator
from .process import ProcessEmulator, Window, flux_of, inputs, root_of, with_products

__all__ = ["Former"]

# Of what no smooth function explains of the change, relative to the variance of spectra: the best is taken.
_NUGGETS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_SAME = 1e-3  # in units of the spread of inputs; those of stars are rounded to float32


@attrs.frozen(eq=False)
class Former:
    """``emulator`` of the former grid; ``added (n_stars,)``, which of its training stars serve the new one;
    ``computed (n_models, n_inputs)``, the models that were computed anew, as its processes take them."""

    emulator: ProcessEmulator
    added: torch.Tensor
    computed: torch.Tensor

    @classmethod
    def of(cls, path: str, grid: Any, rows: Any) -> Former:
        """For the models ``rows`` of ``grid``, of which no other is added: tests must not know them.

        Raises ``ConfigError`` where ``path`` is not of windows or not of such a grid, ``ModelError`` where it
        is no emulator.
        """
        former = Emulator.load(Path(path))
        if not isinstance(former, ProcessEmulator):
            raise ConfigError(f"$.process.former: {path} is a network, expected an emulator of windows")
        for name, theirs, ours in (
            ("labels", former.labels, grid.labels),
            ("resolving power", former.resolving_power, grid.resolving_power),
            ("arms", former.arms, dict(grid.arms)),
        ):
            if theirs != ours:
                raise ConfigError(
                    f"$.process.former: {name} of {path}: {theirs}, of the grid: {ours}; expected the same "
                    "recipe, degraded alike"
                )
        if not np.allclose(former.wavelength, grid.wavelength, rtol=0, atol=1e-6):
            raise ConfigError(f"$.process.former: {path} has other pixels than the grid: degrade them alike")
        models = (inputs(torch.as_tensor(grid.values), grid.labels) - former.center) / former.spread
        distance = torch.cdist(former.stars, models).amin(1)
        return cls(former, distance > _SAME, with_products(models[torch.as_tensor(rows)], grid.labels))

    @property
    def inputs(self) -> torch.Tensor:
        """``(n_added, n_inputs)`` of the stars that are added, not standardised."""
        return self.emulator.stars[self.added] * self.emulator.spread + self.emulator.center

    def spectra(self, pixels: slice, flux: torch.Tensor) -> torch.Tensor:
        """Flux ``(n_added, n_pix)`` of the stars that are added, from the ``flux (n_models, n_pix)`` of the
        models that were computed anew, in one window."""
        window = next((window for window in self.emulator.windows if window.pixels == pixels), None)
        if window is None:
            raise ConfigError(
                "$.process.former has windows of another width: expected that of $.process.window"
            )
        stars = with_products(self.emulator.stars[self.added], self.emulator.labels)
        change = root_of(flux) - _root(window, self.computed)
        return flux_of(_root(window, stars) + _predicted(window, self.computed, change, stars))


def _root(window: Window, x: torch.Tensor) -> torch.Tensor:
    """``z (n, n_pix)`` of a window, without the rounding that keeps flux at most 1."""
    likeness = window.process.likeness(window.process.placed(x), window.anchors)
    return (
        window.mean + window.process.scale(x)[:, None] * (likeness @ window.weights) @ window.basis.double()
    )


def _predicted(window: Window, x: torch.Tensor, change: torch.Tensor, stars: torch.Tensor) -> torch.Tensor:
    """The ``change (n, n_pix)`` at other ``stars``: those are alike of which the window's process says so."""
    mean = change.mean(0)
    covariance, variance = window.process.covariance(x, x), window.process.scale(x).square()
    best, least = torch.empty(0), float("inf")
    for nugget in _NUGGETS:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance + torch.diag(nugget * variance)))
        solved = inverse @ (change - mean)
        error = (
            (solved / inverse.diagonal()[:, None]).square().mean(1).log().mean().item()
        )  # each from the others
        if error < least:
            best, least = solved, error
    return mean + window.process.covariance(stars, x) @ best
