"""Where the projection of spectra starts: filters that estimate labels, and principal components."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from .encoding import Encoding
from .recipe import Filters

if TYPE_CHECKING:
    from .setup import Setup

_BATCH = 64  # stars
_RIDGE = 0.15  # of the mean square of spectra
_ROUNDS = 30  # of k-means


def start_projection(
    setup: Setup, encoding: Encoding, n: int, center: torch.Tensor, spread: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights ``(n, n_used)`` and biases ``(n,)`` with which a projection starts.

    For each of some kinds of stars (in Teff, logg, [Fe/H] and vbroad) and each label one row estimates that
    label, less its ``center (n_labels,)`` and in units of its ``spread``, by ridge regression on simulated
    observations; the other rows are their principal components. In a narrow range of stars labels are nearly
    linear in flux, so the network begins with what it would else have to find out: what a tenth of a dex of
    nickel changes, beside all that Teff does.
    """
    plan = setup.config.filters
    spectra, labels, kinds = _observations(setup, encoding, plan)
    labels = (labels - center) / spread
    weights, biases = [], []
    n_kinds = min(plan.kinds, n // labels.shape[1])
    for rows in _clusters(kinds, n_kinds, setup.config.schedule.seed) if n_kinds else ():
        weight, bias = _ridge(spectra[rows].float(), labels[rows])
        weights.append(weight)
        biases.append(bias)
    if left := n - sum(map(len, biases)):
        some = spectra[: max(n, 4096)].float()
        mean = some.mean(0)
        some = some - mean
        components = principal_components(some, min(left, len(some) - 1))
        components /= (some @ components.T).std(0).clamp(min=0.3)[:, None]
        weights.append(components)
        biases.append(-components @ mean)
    return torch.cat(weights), torch.cat(biases)


def _observations(
    setup: Setup, encoding: Encoding, plan: Filters
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Encoded spectra ``(n, n_used)`` in half precision, labels as the network learns them ``(n, n_labels)``,
    and what tells kinds of stars ``(n, 4)``."""
    simulator = setup.simulator
    low, high = torch.tensor(plan.snr).log().tolist()

    @torch.no_grad()
    def make(i: int) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator(setup.config.device).manual_seed(
            (1 << 40) + setup.config.schedule.seed * 1_000_003 + i
        )
        flux, values, vbroad = simulator.noiseless(_BATCH, generator)
        flux, synthetic = simulator.errors.disturb(flux, values, generator)
        level = torch.rand(len(flux), 1, generator=generator, device=flux.device)
        snr = (low + (high - low) * level).exp().expand(-1, len(setup.instrument.arms))
        spectra = simulator.degrade(simulator.observe(flux, vbroad, generator), generator, snr)
        kind = [*simulator.errors.stellar(values), vbroad.log()]
        labels = setup.labels.to_network(simulator.targets(values, vbroad))
        return encoding(*spectra, synthetic)[0].half(), labels, torch.stack(kind, dim=1)

    with ThreadPoolExecutor(setup.config.schedule.workers) as pool:
        parts = list(pool.map(make, range(-(-plan.spectra // _BATCH))))
    spectra, labels, kinds = (torch.cat(part) for part in zip(*parts, strict=True))
    return spectra, labels, kinds


def _clusters(values: torch.Tensor, n: int, seed: int) -> list[torch.Tensor]:
    """Rows of ``n`` clusters of ``values (n_stars, n_values)``, by k-means in units of their scatter."""
    values = (values - values.mean(0)) / values.std(0)
    generator = torch.Generator(values.device).manual_seed(seed)
    centers = values[torch.randperm(len(values), generator=generator, device=values.device)[:n]]
    nearest = torch.cdist(values, centers).argmin(1)
    for _ in range(_ROUNDS):
        means = [values[nearest == k].mean(0) for k in nearest.unique().tolist()]
        nearest = torch.cdist(values, torch.stack(means)).argmin(1)
    return [(nearest == k).nonzero()[:, 0] for k in nearest.unique().tolist()]


def _ridge(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights ``(n_labels, n_pix)`` and biases ``(n_labels,)`` of the regression of ``y (n, n_labels)`` on
    ``x (n, n_pix)``; of the two systems of equations that give them the smaller one is solved."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    few = len(x) < x.shape[1]
    products = (x @ x.T if few else x.T @ x).double()
    products.diagonal().add_(_RIDGE * x.square().sum() / len(x))
    solved = torch.linalg.solve(products, (y if few else x.T @ y).double()).float()
    weight = solved.T @ x if few else solved.T
    return weight, mean_y - weight @ mean_x


def principal_components(x: torch.Tensor, n: int) -> torch.Tensor:
    """The first ``n`` of ``x (n_spectra, n_pix)``, which has mean 0: ``(n, n_pix)``, each of length 1.

    Of the two matrices that give them, the smaller one is decomposed.
    """
    if x.shape[1] < len(x):
        return torch.linalg.eigh((x.T @ x).double())[1].flip(1)[:, :n].float().T
    values, vectors = torch.linalg.eigh((x @ x.T).double())
    values, vectors = values.flip(0), vectors.flip(1)
    return (vectors / values.sqrt())[:, :n].float().T @ x
