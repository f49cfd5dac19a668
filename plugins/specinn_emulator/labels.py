"""Labels as all emulators take them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from specinn.plugins import ModelError


def features(values: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
    """The variables in which spectra are smooth: 5040 K / Teff, and abundances as [X/H] = [X/Fe] + [Fe/H]."""
    columns = []
    fe_h = values[..., names.index("fe_h")]
    for i, name in enumerate(names):
        column = values[..., i]
        if name == "teff":
            column = 5040.0 / column
        elif name.endswith("_fe"):
            column = column + fe_h
        columns.append(column)
    return torch.stack(columns, dim=-1)


def refuse_beyond(bounds: np.ndarray, names: Sequence[str], labels: torch.Tensor) -> None:
    """Raises ``ModelError`` for labels ``(n, n_labels)`` beyond ``bounds`` by more than rounding."""
    if labels.device.type == "meta":
        return
    values = labels.detach().double()
    low, high = torch.as_tensor(bounds, dtype=torch.float64, device=labels.device).T
    rounding = 1e-6 * (high - low) + 1e-6 * high.abs()
    beyond = ~((values >= low - rounding) & (values <= high + rounding))  # NaN is beyond, too
    if bool(beyond.any()):
        star, k = beyond.nonzero()[0].tolist()
        raise ModelError(
            f"{names[k]} = {float(values[star, k]):g} of star {star} is beyond the emulator's bounds "
            f"{bounds[k][0]:g} to {bounds[k][1]:g}"
        )
