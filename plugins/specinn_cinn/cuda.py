"""What only a GPU needs: the sampler as a captured graph, and summaries where the samples are."""

from __future__ import annotations

import numpy as np
import torch

from specinn.labels import LabelSet, derived
from specinn.posterior import QUANTILES, Summary

from .sampler import Sampler

_WARM_UP = 3  # calls before a graph is recorded, as the documentation of CUDA graphs in torch asks for


class CapturedSampler:
    """A sampler recorded for latent draws of one shape: one launch instead of one per operation.

    ``z (n_stars, n_labels, n)`` on a CUDA device; the recording keeps the current weights of the flow.
    """

    def __init__(self, sampler: Sampler, z: torch.Tensor, n_features: int) -> None:
        self.z = z.clone()
        self.condition = z.new_zeros(len(z), n_features)
        work = sampler.workspace()

        def sample() -> tuple[torch.Tensor, torch.Tensor]:
            return sampler(self.z, sampler.hoist(self.condition), work)

        with torch.cuda.device(z.device), torch.no_grad():
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    sample()
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.output = sample()

    def __call__(self, z: torch.Tensor, condition: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As :class:`Sampler` for conditions ``(n_stars, n_features)``; lasts until the next call."""
        self.z.copy_(z)
        self.condition.copy_(condition)
        self.graph.replay()
        return self.output


def summaries(labels: LabelSet, values: torch.Tensor, log_prob: torch.Tensor) -> Summary:
    """:meth:`specinn.posterior.Summary.put_star` for many stars at once, on any device.

    ``values (n_stars, n_labels, n)`` of the model's labels in physical units, ``log_prob (n_stars, n)``.
    """
    inside = labels.inside(values.transpose(1, 2)) & log_prob.isfinite()
    own = values
    more = [one[:, None] for one in derived(labels, lambda name: own[:, labels.index(name)])]
    values = torch.cat([own, *more], dim=1)
    accepted = inside.sum(1)
    best = log_prob.masked_fill(~inside, -torch.inf).argmax(1)
    rows = torch.arange(len(values), device=values.device)
    kept = values.double().masked_fill(~inside[:, None], 0.0)
    mean = kept.sum(2) / accepted[:, None]
    std = ((kept - mean[..., None]).square() * inside[:, None]).sum(2).div(accepted[:, None]).sqrt()

    ordered = values.masked_fill(~inside[:, None], torch.inf).sort(2).values
    last = (accepted - 1).clamp(min=0)
    fractions = torch.tensor(list(QUANTILES.values()), dtype=torch.float64, device=values.device)
    position = fractions[:, None] * last
    below = position.long()
    every = (-1, values.shape[1], -1)
    lower, upper = (ordered.gather(2, at.T[:, None].expand(every)).double().movedim(2, 0)
                    for at in (below, torch.minimum(below + 1, last)))  # fmt: skip
    quantiles = lower + (upper - lower) * (position - below)[..., None]

    out = Summary.empty(labels, len(values))
    n = accepted.cpu().numpy()
    out.rejected_fraction[:] = 1.0 - n / values.shape[2]
    some = np.flatnonzero(n)
    for target, values_of in ((out.map, values[rows, :, best]), (out.std, std)):
        target[some] = values_of.cpu().numpy()[some]
    out.quantiles[:, some] = quantiles.cpu().numpy()[:, some]
    return out
