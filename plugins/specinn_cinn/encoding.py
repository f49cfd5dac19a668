"""What the network sees of a spectrum; the same for simulated and observed ones."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import attrs
import numpy as np
import torch

COVERAGE_BLOCKS = 24  # per arm: the network sees which parts of the spectrum are missing
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
            in_arm = np.flatnonzero(which == i)
            n = len(in_arm)
            block[in_arm] = i * COVERAGE_BLOCKS + np.arange(n) * COVERAGE_BLOCKS // max(n, 1)
        # arms hold contiguous runs of used pixels, so sums over blocks are differences of a running sum
        self._edges = torch.as_tensor(np.searchsorted(block, np.arange(count + 1)), device=self.pixels.device)
        ends = [int(np.searchsorted(which, i)) for i in range(len(starts) + 1)]
        self._spans = [slice(i, j) for i, j in pairwise(ends)]
        self._ends = torch.as_tensor(ends, device=self.pixels.device)
        self._width = self.width[self.pixels]

    _edges: torch.Tensor = attrs.field(init=False, default=None)
    _ends: torch.Tensor = attrs.field(init=False, default=None)
    _width: torch.Tensor = attrs.field(init=False, default=None)
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

        ``x`` is 0 where a pixel is masked and limited to 20 units: one outlier must not dominate. The
        S/N of an arm is the root mean square of 1 / (sigma sqrt(width)) of normalised flux over good pixels,
        0 where there are none. ``synthetic (n,)`` says which spectra have exactly the physics of the models
        (none unless given).
        """
        x, context, snr, _, _ = self.pixels_in_use(flux, sigma, mask, synthetic)
        return x, context, snr

    def pixels_in_use(
        self,
        flux: torch.Tensor,
        sigma: torch.Tensor,
        mask: torch.Tensor,
        synthetic: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """The same, and of the pixels in use sigma and which are bad, each ``(n, n_used)``."""
        bad = self.used(mask)
        x = self.used(flux).sub_(self.mean).div_(self.scale).masked_fill_(bad, 0.0).clamp_(-20.0, 20.0)
        noise = self.used(sigma)
        quality = noise.square().mul_(self._width).reciprocal_().masked_fill_(bad, 0.0)
        running = torch.nn.functional.pad((~bad).to(x.dtype).cumsum(1), (1, 0))
        count = running[:, self._ends].diff(dim=1).clamp(min=1)
        snr = torch.stack([quality[:, span].sum(1) for span in self._spans], dim=1).div(count).sqrt()
        blocks = running[:, self._edges].diff(dim=1) / self._edges.diff().clamp(min=1)
        level = torch.where(snr > 0, (snr.clamp(*self.snr).log10() - 2.0) / 0.6, -2.5)
        exact = x.new_zeros(len(x), 1) if synthetic is None else synthetic.to(x)[:, None]
        return x, torch.cat([level, 1.0 - blocks, exact], dim=1), snr, noise, bad


@attrs.frozen(eq=False)
class Encoded:
    """Spectra as the networks see them: what scores, samples and summaries share.

    Of every spectrum: its ``key (n,)``, from which its random numbers come; ``x``, ``noise`` (sigma) and
    ``bad (n, n_used)`` of the pixels in use; ``context (n, n_context)``, the S/N of the arms
    ``snr (n, n_arms)``, and the ``condition (n, n_features)`` of the flow.
    """

    key: np.ndarray
    x: torch.Tensor
    noise: torch.Tensor
    bad: torch.Tensor
    context: torch.Tensor
    snr: torch.Tensor
    condition: torch.Tensor

    def __len__(self) -> int:
        return len(self.key)

    def __getitem__(self, rows: np.ndarray) -> Encoded:
        """The rows of a mask or of a list of numbers."""
        chosen = torch.as_tensor(np.arange(len(self))[rows], device=self.x.device)
        tensors = (self.x, self.noise, self.bad, self.context, self.snr, self.condition)
        return Encoded(self.key[rows], *(tensor[chosen] for tensor in tensors))
