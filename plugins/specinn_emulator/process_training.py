"""Training of the emulator of windows: how stars are alike in each, and then a linear system."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch

from specinn.errors import ConfigError
from specinn.training.checkpoint import fingerprint, load_checkpoint, save_checkpoint

from .former import Former
from .process import Process, Window, elements_of, flux_of, root_of, windows_of, with_products

__all__ = ["ProcessConfig", "fit_windows", "standardised"]

_FLOOR = 1e-7  # mean squared flux error below which a star needs no more attention: (3e-4)^2
_LEAST_NUGGET = 3e-6  # below which the weights are so large that float32 would show its rounding
_PIXELS = 400  # of a window, at most, by whose errors the covariance is chosen
_PENALTY = 2.0  # of squared mixing and amplitudes, thousands of numbers, lest they follow single stars
_LEARNING_RATE = 0.1  # of Adam, for the logarithms of scales; a cosine down to zero


@attrs.frozen
class ProcessConfig:
    """``components`` of each window, by arm; windows of ``window`` Angstrom; the covariance of each is found
    in ``steps`` steps from ``stars`` training spectra. ``former``: an emulator of the grid before its physics
    changed (see :class:`.Former`)."""

    components: dict[str, int]
    former: str = ""
    window: float = 50.0
    stars: int = 600
    steps: int = 80
    seed: int = 0


def standardised(raw: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Inputs of stars ``(n, n_inputs)`` with mean 0 and spread 1, that mean, and that spread."""
    center, spread = raw.mean(0), raw.std(0)
    spread = torch.where(spread > 0, spread, 1.0)  # of a label with one value throughout
    return (raw - center) / spread, center, spread


def fit_windows(
    grid: Any,
    rows: Any,
    x: torch.Tensor,
    plan: ProcessConfig,
    folder: Path,
    progress: Callable[[dict[str, Any]], None],
    former: Former | None = None,
) -> tuple[Window, ...]:
    """The windows of all arms of ``grid`` from its spectra ``rows``, of the standardised inputs ``x``.

    Those of the stars that ``former`` adds are at the end of ``x``. Each window that is done is a
    checkpoint in ``folder``, where an interrupted training resumes.
    """
    _check(plan, grid, len(x))
    elements = elements_of(grid.labels, x.shape[1])
    x = with_products(x, grid.labels)
    parts = windows_of(grid.wavelength, grid.arms, plan.window)
    of = fingerprint([attrs.asdict(plan), grid.hash, former and former.emulator.header])
    windows, flux, held = [], torch.empty(0), ""
    for i, (arm, pixels) in enumerate(parts):
        checkpoint = folder / f"emulator-window-{i:03d}.safetensors"
        state = load_checkpoint(checkpoint, of)
        if state is None:
            if held != arm:
                first = grid.arms[arm].start
                blocks = [part[:, grid.arms[arm]] for _, part in grid.blocks(rows)]
                flux, held = torch.cat([torch.as_tensor(block) for block in blocks]), arm
            here = flux[:, pixels.start - first : pixels.stop - first].double()
            if former is not None:
                here = torch.cat([here, former.spectra(pixels, here)])
            try:
                state = _fit(x, elements, here, plan, min(plan.components[arm], here.shape[1]), i)
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
                raise ConfigError(
                    f"window {i} has no covariance ({error}): are there models twice, or labels that are not "
                    "finite? Otherwise give $.process fewer steps"
                ) from None
            save_checkpoint(checkpoint, state, of)
        progress({"step": i + 1, "steps": len(parts), "loss": state["loss"]})
        windows.append(Window.of(state, x, pixels))
    return tuple(windows)


def _check(plan: ProcessConfig, grid: Any, n: int) -> None:
    if set(plan.components) != set(grid.arms):
        raise ConfigError(
            f"$.process.components has {', '.join(plan.components) or 'no arm'}: the arms of the grid are "
            f"{', '.join(grid.arms)}"
        )
    for name, value in plan.components.items():
        if not 0 < value < n:
            raise ConfigError(
                f"$.process.components.{name} is {value}: the grid has only {n} training spectra, choose "
                "fewer, at least 1"
            )
    for key, least in (("window", 1.0), ("stars", 10), ("steps", 1)):
        if not getattr(plan, key) >= least:
            raise ConfigError(f"$.process.{key} is {getattr(plan, key)}: expected {least} or more")


class _Covariance:
    """What is found of a window: logarithms of scales and slopes, mixing, amplitudes, and the nugget."""

    def __init__(self, elements: torch.Tensor) -> None:
        n = elements.numel() - int(elements.sum()) // 2  # without the squares
        scale = torch.full((2, n), 6.0, dtype=torch.float64)
        scale[:, :4] = torch.tensor([2.0, 3.0, 3.0, 10.0])[:n]  # of the atmosphere: 5040 K / Teff, ...
        scale[0, 4:] = 25.0  # what is linear in an abundance is smooth in it, too
        zeros = torch.zeros(n, dtype=torch.float64)
        self.elements = elements
        self.scale = scale.log()
        self.mixing = torch.zeros(2, n, n, dtype=torch.float64)
        self.amplitude = zeros.clone()
        self.slopes = torch.full_like(elements, math.log(0.17))
        self.rest = torch.tensor(math.log(0.3), dtype=torch.float64)
        self.nugget = torch.tensor(math.log(1e-4), dtype=torch.float64)
        self.nugget_slope = zeros.clone()
        self.parameters = [self.scale, self.mixing, self.amplitude, self.slopes, self.rest, self.nugget,
                           self.nugget_slope]  # fmt: skip
        for parameter in self.parameters:
            parameter.requires_grad_()

    def process(self) -> Process:
        unit = torch.eye(self.scale.shape[1], dtype=torch.float64)
        mixing = torch.exp(-self.scale)[:, :, None] * (unit + 0.3 * self.mixing)
        return Process(mixing, 0.3 * self.amplitude, self.elements * self.slopes.exp(), self.rest.exp())

    def penalty(self) -> torch.Tensor:
        many = (self.mixing, self.amplitude, self.nugget_slope)
        return _PENALTY * torch.stack([each.square().sum() for each in many]).sum()

    def matrix(self, x: torch.Tensor) -> torch.Tensor:
        """Covariance of training stars ``(n, n)``, with what no smooth function explains on its diagonal."""
        slope = 0.3 * (self.nugget_slope + 2 * self.amplitude)
        nugget = torch.exp(self.nugget + x[:, : slope.numel()] @ slope).clamp(min=_LEAST_NUGGET)
        return self.process().covariance(x, x) + torch.diag(nugget)


def _fit(
    x: torch.Tensor,
    elements: torch.Tensor,
    flux: torch.Tensor,
    plan: ProcessConfig,
    n_components: int,
    number: int,
) -> dict[str, Any]:
    """Choose the covariance by the flux of each star as predicted from the others, then solve for all.

    Minimises the mean over stars of the log of the mean squared error, so that all have the same weight.
    """
    shuffle = torch.Generator().manual_seed(plan.seed * 1_000_003 + number)
    chosen = torch.randperm(len(x), generator=shuffle)[: plan.stars]
    thin = slice(None, None, -(-flux.shape[1] // _PIXELS))
    z = root_of(flux)
    mean = z.mean(0)
    some_x, some_z, some_flux = x[chosen], (z - mean)[chosen][:, thin], flux[chosen][:, thin]
    covariance = _Covariance(elements)
    optimiser = torch.optim.Adam(covariance.parameters, lr=_LEARNING_RATE, betas=(0.9, 0.95))
    loss = math.inf
    for step in range(plan.steps):
        for group in optimiser.param_groups:
            group["lr"] = _LEARNING_RATE * (0.02 + 0.5 * (1 + math.cos(math.pi * step / plan.steps)))
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance.matrix(some_x)))
        left_out = some_z - (inverse @ some_z) / inverse.diagonal()[:, None]  # predicted from the others
        error = (flux_of(mean[thin] + left_out) - some_flux).square().mean(1)
        objective = torch.log(error + _FLOOR).mean()
        optimiser.zero_grad(set_to_none=True)
        (objective + covariance.penalty() / len(chosen)).backward()
        optimiser.step()
        loss = float(objective.detach())
    with torch.no_grad():
        basis, coefficients = _components(z - mean, n_components)
        weights = torch.cholesky_solve(coefficients, torch.linalg.cholesky(covariance.matrix(x)))
        process = covariance.process()
        weights *= process.scale(x)[:, None]
    parts = {"mixing": process.mixing, "amplitude": process.amplitude, "slopes": process.slopes,
             "rest": process.rest, "weights": weights, "mean": mean, "basis": basis}  # fmt: skip
    return {name: part.detach().float().contiguous() for name, part in parts.items()} | {"loss": loss}


def _components(z: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Leading principal components ``(n, n_pix)`` and coefficients ``(n_stars, n)`` of ``z``."""
    _, vectors = torch.linalg.eigh(z.T @ z)
    basis = vectors.flip(1)[:, :n].T.contiguous()
    return basis, z @ basis.T
