"""Presets of the network at the same budget: ``python benchmarks/presets.py RECIPE.toml --seconds 600``.

Every preset is trained from scratch for the same processor time, simulation included, on the same stream of
simulated spectra, and judged on spectra that neither has seen. Paths start from the working folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from specinn_cinn.estimator import CINN
from specinn_cinn.recipe import PRESETS, Schedule
from specinn_cinn.sampler import Sampler
from specinn_cinn.setup import Setup, prepare
from specinn_cinn.training import build, loss_terms

from specinn.config import read_toml
from specinn.errors import SpecinnError
from specinn.training.checkpoint import one_cycle

_TEST, _DRAWS = 1024, 256  # held-out spectra, and posterior samples of each for the intervals
_KEPT = 100.0  # a spectrum counts at most so much in the mean of -log p


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help="training file of specinn train")
    parser.add_argument("--seconds", type=float, default=600.0, help="of processor time each (default 600)")
    parser.add_argument("--batch", type=int, default=256, help="spectra per step (default 256)")
    parser.add_argument("--presets", nargs="*", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--threads", type=int, default=1, help="processor cores (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        setup = prepare({k: v for k, v in read_toml(options.recipe)["estimator"].items() if k != "kind"})
    except SpecinnError as error:
        sys.exit(f"presets: {error}")
    row = "{:>8} {:>6} {:>8} {:>8} {:>8} {:>8} {:>8}".format
    print(row("preset", "steps", "seconds", "-log p", "median", "in 68 %", "in 95 %"), flush=True)
    for name in options.presets:
        model, steps, seconds = train(setup, name, options.seconds, options.batch)
        nll, within = judge(setup, model)
        figures = (nll.clip(max=_KEPT).mean(), np.median(nll), *(100 * fraction for fraction in within))
        print(row(name, steps, round(seconds), *(f"{figure:.2f}" for figure in figures)), flush=True)


def train(setup: Setup, preset: str, seconds: float, batch: int) -> tuple[CINN, int, float]:
    """A model of that preset, by likelihood alone; step ``i`` sees the same spectra whatever the preset."""
    model = build(attrs.evolve(setup, config=attrs.evolve(setup.config, preset=preset, architecture={})))
    plan = Schedule(backward=0.0)
    modules = torch.nn.ModuleList([model.features, model.flow])
    optimiser = torch.optim.AdamW(modules.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    generator = torch.Generator()
    start, steps = time.process_time(), 0  # of this process: the machine may have other work
    while (used := time.process_time() - start) < seconds:
        x, context, labels = observe(setup, model, batch, generator.manual_seed(1_000_000 + steps))
        for group in optimiser.param_groups:
            group["lr"] = one_cycle(used / seconds, plan.learning_rate, warm=0.05)
        loss: Any = loss_terms(model, x, context, labels, plan)[0].clamp(max=1e4).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(modules.parameters(), plan.clip)
        optimiser.step()
        steps += 1
    modules.requires_grad_(False).eval()
    return model, steps, time.process_time() - start


def observe(
    setup: Setup, model: CINN, n: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Encoded flux, context and physical labels of ``n`` simulated spectra."""
    repeats = setup.config.schedule.repeats
    *spectra, labels = (v[:n] for v in setup.simulator(-(-n // repeats), repeats, generator))
    x, context, _ = model.encoding(*spectra)
    return x, context, labels


@torch.no_grad()
def judge(setup: Setup, model: CINN) -> tuple[np.ndarray, tuple[float, float]]:
    """-log p of true standardised labels ``(n_test,)``; fractions of them within the central 68 and 95 %."""
    generator = torch.Generator()
    nll, ranks = [], []
    sampler = Sampler(model.flow)
    for i in range(0, _TEST, 256):
        x, context, labels = observe(setup, model, 256, generator.manual_seed(i))
        nll.append(loss_terms(model, x, context, labels, Schedule(backward=0.0))[0])
        y = (model.labels.to_network(labels) - model.center) / model.spread
        z = torch.randn(len(y), y.shape[1], _DRAWS, generator=generator)
        samples, _ = sampler(z, sampler.hoist(model.features(x, context)), sampler.workspace())
        ranks.append((samples < y[..., None]).float().mean(2))
    rank = torch.cat(ranks)
    normal = 0.5 * rank.shape[1] * float(np.log(2.0 * np.pi))
    inside = [float((((rank - 0.5).abs()) < half).float().mean()) for half in (0.34134, 0.475)]
    return torch.cat(nll).numpy() + normal, (inside[0], inside[1])


if __name__ == "__main__":
    main()
