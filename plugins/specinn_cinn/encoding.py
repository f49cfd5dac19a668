"""What the network sees of a spectrum; the same for simulated and observed ones."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import attrs
import numpy as np
import torch

COVERAGE_BLOCKS = 24  # per arm: the network is told which parts of the spectrum are missing
SNR_RANGE = (10.0, 1000.0)


@attrs.define(eq=False)
class Encoding:
    """Standardises normalised spectra on the arms' pixels.

    ``pixels (n_used,)`` are the indices in use (inside the arms, and where models describe real stars);
    ``mean (n_used,)`` is the flux of an average model, ``scale`` the flux unit; ``width (n_pix,)`` the
    pixel widths in Angstrom.
    """

    pixels: torch.Tensor
    mean: torch.Tensor
    scale: float
    width: torch.Tensor
    arms: Mapping[str, slice]
    snr: tuple[float, float] = SNR_RANGE

    def __attrs_post_init__(self) -> None:
        starts = [arm.start for arm in self.arms.values()]
        which = np.searchsorted(starts, self.pixels.cpu().numpy(), side="right") - 1
        block, count = np.zeros(len(which), int), len(self.arms) * COVERAGE_BLOCKS
        for i in range(len(starts)):
            here = np.flatnonzero(which == i)
            block[here] = i * COVERAGE_BLOCKS + np.arange(len(here)) * COVERAGE_BLOCKS // max(len(here), 1)
        # arms hold contiguous runs of used pixels, so sums over blocks are differences of a running sum
        self._edges = torch.as_tensor(np.searchsorted(block, np.arange(count + 1)), device=self.pixels.device)
        ends = [int(np.searchsorted(which, i)) for i in range(len(starts) + 1)]
        self._spans = [slice(i, j) for i, j in pairwise(ends)]

    _edges: torch.Tensor = attrs.field(init=False, default=None)
    _spans: list[slice] = attrs.field(init=False, factory=list)

    @property
    def n_context(self) -> int:
        return len(self.arms) * (1 + COVERAGE_BLOCKS) + 1

    def used(self, values: torch.Tensor) -> torch.Tensor:
        """The pixels in use ``(n, n_used)`` of ``values (n, n_pix)``; booleans as bytes, which is faster."""
        if values.dtype == torch.bool:
            return values.view(torch.uint8).index_select(1, self.pixels).view(torch.bool)
        return values.index_select(1, self.pixels)

    def __call__(
        self,
        flux: torch.Tensor,
        sigma: torch.Tensor,
        mask: torch.Tensor,
        synthetic: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``x (n, n_used)``, ``context (n, n_context)`` and the S/N per Angstrom of each arm ``(n, n_arms)``.

        ``x`` is 0 where a pixel is masked and limited to 20 units: one wild pixel must not decide. The
        S/N of an arm is the root mean square of 1 / (sigma sqrt(width)) of normalised flux over good pixels,
        0 where there are none. ``synthetic (n,)`` tells which spectra have the very physics of the models
        (none unless given).
        """
        good = ~self.used(mask)
        x = torch.where(good, (self.used(flux) - self.mean) / self.scale, 0.0).clamp(-20.0, 20.0)
        quality = torch.where(good, 1.0 / (self.used(sigma).square() * self.width[self.pixels]), 0.0)
        snr = torch.stack([
            (quality[:, span].sum(1) / good[:, span].sum(1).clamp(min=1)).sqrt() for span in self._spans
        ], dim=1)  # fmt: skip
        running = torch.nn.functional.pad(good.to(x.dtype).cumsum(1), (1, 0))
        blocks = running[:, self._edges].diff(dim=1) / self._edges.diff().clamp(min=1)
        level = torch.where(snr > 0, (snr.clamp(*self.snr).log10() - 2.0) / 0.6, -2.5)
        exact = x.new_zeros(len(x), 1) if synthetic is None else synthetic.to(x)[:, None]
        return x, torch.cat([level, 1.0 - blocks, exact], dim=1), snr
