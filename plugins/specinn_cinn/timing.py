"""What ``specinn timing`` compares: the flow as FrEIA runs it, and as our sampler does."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import attrs
import torch

from specinn.spectra import SpectrumBatch
from specinn.timing import Way

from .cuda import CapturedSampler
from .estimator import CINN
from .network import Features, make_flow
from .recipe import BACKWARD, PRESETS, Architecture, Schedule
from .sampler import Sampler
from .training import loss_terms

_BATCH = 512  # spectra of a training step


def ways(estimator: CINN, batch: SpectrumBatch, n_samples: int, paper: bool) -> list[Way]:
    """For every preset the flow by FrEIA and by our sampler, with the same weights and latent draws, and a
    training step; and the stages of inference with ``estimator`` on the prepared spectra ``batch``.

    The weights of the presets are random: their values do not affect the time.
    """
    presets = {name: sizes for name, sizes in PRESETS.items() if paper or name != "paper"}
    presets = dict(sorted(presets.items(), reverse=True))  # the paper's first
    if estimator.architecture not in presets.values() and (
        paper or estimator.architecture != PRESETS["paper"]
    ):
        presets["model"] = estimator.architecture
    measured = []
    for name, sizes in presets.items():
        measured += _sampling(name, sizes, estimator, n_samples)
    measured += [_training(name, sizes, estimator) for name, sizes in presets.items()]
    return measured + _inference(estimator, batch, n_samples)


def _sampling(name: str, sizes: Architecture, estimator: CINN, n_samples: int) -> list[Way]:
    """Latent draws of stars to standardised labels and log determinants. On a processor a star at a time, as
    its cache likes it best for both; on a GPU many together."""
    n, n_labels, device = estimator.at_once, len(estimator.labels), estimator.device
    generator = torch.Generator().manual_seed(0)
    flow = make_flow(n_labels, sizes.features[-1], sizes).requires_grad_(False).eval().to(device)
    condition = torch.randn(n, sizes.features[-1], generator=generator).to(device)
    z = torch.randn(n, n_labels, n_samples, generator=generator).to(device)
    rows = z.transpose(1, 2).reshape(n * n_samples, n_labels).contiguous()
    sample = _sampler(flow, z, condition)

    def freia() -> Any:
        with torch.no_grad():
            return flow(rows, c=[condition.repeat_interleave(n_samples, 0)], rev=True)

    def ours() -> Any:
        with torch.no_grad():
            return sample(z, condition)

    return [Way("sampling", f"FrEIA, {name}", freia, n), Way("sampling", f"specinn, {name}", ours, n)]


def _sampler(flow: Any, z: torch.Tensor, condition: torch.Tensor) -> Callable[..., Any]:
    """Our sampler for draws of that shape under conditions of that shape, as the estimator uses it."""
    sampler = Sampler(flow)
    if z.is_cuda:
        return CapturedSampler(sampler, z, condition.shape[1])
    work = sampler.workspace()
    return lambda z, condition: sampler(z, sampler.hoist(condition), work)


def _training(name: str, sizes: Architecture, estimator: CINN) -> Way:
    """Loss, gradients and one step of the optimiser on spectra that need no simulation."""
    return Way("training", f"FrEIA, {name}", _Step(sizes, BACKWARD.get(name, 0.0), estimator), _BATCH)


class _Step:
    """A step of the training of a network of some size, which is made when the first step is taken."""

    def __init__(self, sizes: Architecture, backward: float, estimator: CINN) -> None:
        self.sizes, self.estimator = sizes, estimator
        self.schedule = Schedule(backward=backward)

    @cached_property
    def model(self) -> CINN:
        old, sizes = self.estimator, self.sizes
        features = Features(len(old.encoding.pixels), old.encoding.n_context, sizes)
        flow = make_flow(len(old.labels), sizes.features[-1], sizes)
        features, flow = features.to(old.device), flow.to(old.device)
        return attrs.evolve(old, architecture=sizes, features=features, flow=flow)

    @cached_property
    def optimiser(self) -> torch.optim.Optimizer:
        weights = [*self.model.features.parameters(), *self.model.flow.parameters()]
        return torch.optim.AdamW([weight for weight in weights if weight.requires_grad])

    @cached_property
    def batch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Generator]:
        """What the encoding sees of spectra, its context, and physical labels; and the jitter's generator."""
        old, device = self.estimator, self.estimator.device
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(_BATCH, len(old.encoding.pixels), generator=generator)
        context = torch.zeros(_BATCH, old.encoding.n_context)
        low, high = torch.as_tensor(old.labels.bounds.T.copy(), dtype=torch.float32)
        labels = low + (high - low) * (0.1 + 0.8 * torch.rand(_BATCH, len(low), generator=generator))
        jitter = torch.Generator(device).manual_seed(0)
        return x.to(device), context.to(device), labels.to(device), jitter

    def __call__(self) -> None:
        x, context, labels, jitter = self.batch
        nll, backward = loss_terms(self.model, x, context, labels, self.schedule, jitter)
        loss: Any = nll.mean() + (self.schedule.backward or 0.0) * backward
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()


def _inference(estimator: CINN, batch: SpectrumBatch, n_samples: int) -> list[Way]:
    """Features and samples of prepared spectra, as :meth:`CINN.summarise` makes them; what it does beyond
    are the summaries."""
    n, encoded = len(batch), estimator.encode(batch)

    def features() -> Any:
        return estimator.encode(batch)

    def samples() -> None:
        for _ in estimator.blocks(encoded, n_samples, 0):
            pass

    return [Way("inference", "features", features, n), Way("inference", "samples", samples, n)]
