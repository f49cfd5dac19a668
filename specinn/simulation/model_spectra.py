"""Model spectra of inferred labels as an instrument observes them, by any synthesizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from specinn.errors import ConfigError
from specinn.labels import ALPHA, li_fe
from specinn.wavelengths import to_medium

if TYPE_CHECKING:
    from specinn.instruments import Instrument
    from specinn.plugins.interfaces import Synthesizer

__all__ = ["Models"]

_BEYOND = 6.0  # Angstrom on either side of an arm, for the broadening and the motion of its pixels
_ROUNDING = 1e-4  # of a label's range: catalogues hold float32


class Models:
    """Model spectra by ``synthesizer`` as ``instrument`` observes them: rotation, resolving power, pixels.

    ``synthesise`` takes the synthesizer's labels ``(n, n_labels)`` to noiseless flux on the model grid, and
    ``observer`` that to the pixels of the instrument.
    """

    def __init__(self, synthesizer: Synthesizer, instrument: Instrument) -> None:
        from specinn.simulation.observer import ModelGrid, Observer

        synthesizer = synthesizer.covering(_needed(instrument, synthesizer.medium))
        self.labels, self.bounds = tuple(synthesizer.labels), np.asarray(synthesizer.bounds, float)
        wavelength = to_medium(
            np.asarray(synthesizer.wavelength, float), synthesizer.medium, instrument.medium
        )
        arms = synthesizer.arms
        grid = ModelGrid.of(instrument, wavelength, arms)
        operator = grid.operator(wavelength, arms, synthesizer.resolving_power)
        self.synthesise: Any = synthesizer.resampled(grid.wavelength, dict(grid.arms), operator)
        self.observer = Observer(instrument, grid)

    def complete(self, values: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """The synthesizer's labels ``(n, n_labels)`` for values ``(n, n_names)``, and the names of those
        beyond its bounds, which were set to the bound.

        Labels that were not inferred have the average values of the grid for such a star: [O/Fe] the mean of
        the alpha elements, all other [X/Fe] 0. A(Li) and [Li/Fe] come from each other. Raises ``ConfigError``
        for a label that none of these provides.
        """
        by_name = dict(zip(names, np.asarray(values, float).T, strict=True))
        if {"a_li", "fe_h"} <= set(by_name):
            by_name.setdefault("li_fe", li_fe(by_name["a_li"], by_name["fe_h"]))
        elif {"li_fe", "fe_h"} <= set(by_name):
            by_name["a_li"] = by_name["li_fe"] - li_fe(0.0, by_name["fe_h"])
        alpha = [by_name[name] for name in ALPHA if name in by_name]
        out = np.zeros((len(values), len(self.labels)))
        for column, name in zip(out.T, self.labels, strict=True):
            if name in by_name:
                column[:] = by_name[name]
            elif name == "o_fe" and alpha:
                column[:] = np.mean(alpha, axis=0)
            elif not name.endswith("_fe"):
                raise ConfigError(
                    f"the synthesizer needs {name}, but the model infers {', '.join(names)}: use another one"
                )
        low, high = self.bounds.T
        margin = _ROUNDING * (high - low)
        beyond = ((out < low - margin) | (out > high + margin)).any(axis=0)
        return out.clip(low, high), [
            n for n, b in zip(self.labels, beyond, strict=True) if b and n in by_name
        ]

    def __call__(self, values: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Noiseless flux ``(n, n_pix)`` over the true continuum for values ``(n, n_names)``."""
        import torch

        completed = self.complete(values, names)[0]
        vbroad = values[:, list(names).index("vbroad")] if "vbroad" in names else np.zeros(len(values))
        if "vbroad" in self.labels:  # the synthesizer has then already broadened
            vbroad = np.zeros(len(values))
        flux = torch.as_tensor(np.ascontiguousarray(self.synthesise(completed)), dtype=torch.float32)
        with torch.no_grad():
            return self.observer(flux, torch.as_tensor(vbroad, dtype=torch.float32)).double().numpy()


def _needed(instrument: Instrument, medium: str) -> dict[str, tuple[float, float]]:
    """The wavelengths of each arm that model spectra must cover, in the medium of the synthesizer."""
    out = {}
    for arm in instrument.arms:
        ends = to_medium(np.array(arm.range, float), instrument.medium, medium)
        out[arm.name] = (float(ends[0]) - _BEYOND, float(ends[1]) + _BEYOND)
    return out
