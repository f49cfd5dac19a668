"""Fitting the signs of :mod:`specinn_cinn.ood` on simulated spectra, once the model is trained."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import attrs
import torch

from specinn.simulation.disturbances import Noise

from .ood import ALTERATIONS, FREEDOM, OODSigns, Sizes
from .ood_examples import Alterations
from .recipe import BLOCK, OODOptions
from .simulator import TrainingSimulator

if TYPE_CHECKING:
    from .estimator import CINN
    from .setup import Setup

_BATCH = 256
_LOST = 0.33  # of the spectra miss many pixels
_RIPPLE, _RIPPLE_PERIODS = 0.02, (10.0, 100.0)  # of the continuum (standard deviation); Angstrom
_SHARES = (1.0, 1.0, 1.0, 5.0)  # of the false alarms, for misfit, stretch, distance and likeness


@attrs.define(eq=False)
class _Spectra:
    """Encoded: ``x``, ``sigma``, ``good (n, n_used)``, in half precision; ``context``, ``y`` of each."""

    x: torch.Tensor
    sigma: torch.Tensor
    good: torch.Tensor
    context: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.x)

    def blocks(self, size: int = _BATCH) -> Iterator[tuple[torch.Tensor, ...]]:
        for start in range(0, len(self), size):
            yield tuple(v[start : start + size].float() for v in attrs.astuple(self, recurse=False))

    @classmethod
    def join(cls, parts: list[_Spectra]) -> _Spectra:
        columns = zip(*(attrs.astuple(part, recurse=False) for part in parts), strict=True)
        return cls(*map(torch.cat, columns))


def fit_ood_signs(
    model: CINN,
    setup: Setup,
    options: OODOptions | None = None,
    progress: Callable[[dict[str, Any]], None] = lambda state: None,
) -> CINN:
    """Give a trained ``model`` its signs of spectra out of distribution, learnt on spectra from the simulator
    of ``setup``.

    Replaces existing ones. The header states how often spectra of each alteration were found.
    """
    options = options or OODOptions()
    generator = torch.Generator(setup.config.device).manual_seed(options.seed * 1_000_003 + 4711)
    torch.manual_seed(options.seed)
    simulate = _Simulation(model, setup, options, generator, progress)
    signs = _untrained(model, simulate)
    with torch.enable_grad():
        _fit_decoder(signs, model, simulate, options)
        usual, odd, family = simulate.signs()
        _fit_depth_error(signs, usual)
        _fit_signs(signs, usual, odd, family, options)
    signs.requires_grad_(False).eval()
    held, altered, family = simulate.thresholds()
    detected = _fit_thresholds(signs, held, altered, family, options)
    model.ood_signs = signs
    model.header["ood"] = {
        "options": attrs.asdict(options),
        "found": dict(zip(ALTERATIONS, detected, strict=True)),
        **signs.header(),
    }
    return model


class _Simulation:
    """Draws the spectra that the fit needs."""

    def __init__(
        self, model: CINN, setup: Setup, options: OODOptions, generator: torch.Generator, progress: Any
    ) -> None:
        self.model, self.options, self.generator, self.progress = model, options, generator, progress
        self.simulator = setup.simulator
        often = attrs.evolve(self.simulator.disturbances, lost=_LOST)
        self.noise = Noise(self.simulator.observer.instrument, often, self.simulator.device)
        self.wider = copy.copy(setup.simulator)
        usual = setup.simulator.errors
        physics = usual.options
        wide = attrs.evolve(
            physics, amplitude=options.wider * physics.amplitude, line=options.wider * physics.line
        )
        self.wider.errors = attrs.evolve(usual, options=wide)
        wave = torch.as_tensor(setup.model_grid.wavelength, dtype=torch.float32, device=setup.config.device)
        self.alterations = Alterations(setup.simulator, wave, generator)
        self.done, self.total = 0, options.decoder + options.signs + options.thresholds

    @torch.no_grad()
    def noiseless(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoded spectra ``(n, n_used)`` without noise or gaps, in half precision; standardised labels."""
        model, simulator, out = self.model, self.simulator, []
        for n in self._blocks(self.options.decoder):
            flux, values, vbroad, _ = self._stars(simulator, n)
            spectra = simulator.observe(flux, vbroad, self.generator)
            mask, sigma = simulator.outside.expand_as(spectra), torch.full_like(spectra, 1e-3)
            x = model.encoding(spectra / simulator.continuum(spectra, sigma, mask)[0], sigma, mask)[0]
            labels = model.labels.to_network(simulator.targets(values, vbroad))
            out.append((x.half(), (labels - model.center) / model.spread))
        return torch.cat([x for x, _ in out]), torch.cat([y for _, y in out])

    def signs(self) -> tuple[_Spectra, _Spectra, torch.Tensor]:
        return self._observed(self.options.signs, self.options.alterations, widen=True)

    def thresholds(self) -> tuple[_Spectra, _Spectra, torch.Tensor]:
        return self._observed(self.options.thresholds, 1, widen=False)

    @torch.no_grad()
    def _observed(self, n_stars: int, n_ways: int, *, widen: bool) -> tuple[_Spectra, _Spectra, torch.Tensor]:
        """Spectra as in training, the same stars altered, and the number of the alteration."""
        simulator, generator, device = self.simulator, self.generator, self.simulator.device
        usual, odd, family = [], [], []
        for i, n in enumerate(self._blocks(n_stars)):
            wide = widen and i % 2 == 1
            flux, _, vbroad, synthetic = self._stars(self.wider if wide else simulator, n)
            spectra = simulator.observe(flux, vbroad, generator)
            if wide:  # blaze functions are not always removed as well as in training
                height = _RIPPLE * torch.randn(n, generator=generator, device=device)
                spectra = spectra * self.alterations.sine(height, _RIPPLE_PERIODS)
            usual.append(self._encode(spectra, synthetic))
            share = max(2, n * n_ways // len(ALTERATIONS))
            for number, alter in enumerate(self.alterations.families.values()):
                chosen = torch.randperm(n, generator=generator, device=device)[:share]
                odd.append(self._encode(alter(flux[chosen], vbroad[chosen]), synthetic[chosen]))
                family.append(torch.full((len(chosen),), number, device=device))
        return _Spectra.join(usual), _Spectra.join(odd), torch.cat(family)

    def _stars(self, simulator: TrainingSimulator, n: int) -> tuple[torch.Tensor, ...]:
        """Flux on the model grid, grid labels, vbroad, and which are without errors of the physics."""
        flux, values, vbroad = simulator.noiseless(n, self.generator)
        flux, synthetic = simulator.errors.disturb(flux, values, self.generator)
        return flux, values, vbroad, synthetic

    def _encode(self, spectra: torch.Tensor, synthetic: torch.Tensor) -> _Spectra:
        """Observed as in training, but more often with many pixels lost."""
        simulator = self.simulator
        flux, sigma, mask, _ = self.noise(spectra, self.generator)
        mask = mask | simulator.outside
        continuum = simulator.continuum(flux, sigma, mask)[0]
        flux, sigma = flux / continuum, sigma / continuum
        encoding = self.model.encoding
        x, context, _ = encoding(flux, sigma, mask, synthetic)
        y = self.model.centre(self.model.features(x, context))
        noise = encoding.used(sigma) / encoding.scale
        return _Spectra(x.half(), noise.half(), (~encoding.used(mask)).half(), context, y)

    def _blocks(self, n: int) -> Iterator[int]:
        for start in range(0, n, BLOCK):
            size = min(BLOCK, n - start)
            yield max(size, 2)
            self.done += size
            self.progress({"stage": "ood", "step": self.done, "steps": self.total})


def _untrained(model: CINN, simulate: _Simulation) -> OODSigns:
    encoding = model.encoding
    sizes = Sizes(
        components=min(Sizes().components, len(encoding.pixels) // 4, simulate.options.decoder // 2)
    )
    out = OODSigns(encoding, len(model.labels), sizes).to(model.device)
    bounds = torch.as_tensor(model.labels.to_network(model.labels.bounds.T), dtype=torch.float32)
    out.low, out.high = (bounds.to(model.device) - model.center) / model.spread
    out.level = (1.0 - encoding.mean) / encoding.scale
    return out


def _fit_decoder(signs: OODSigns, model: CINN, simulate: _Simulation, options: OODOptions) -> None:
    """Principal components of noiseless spectra, and their coefficients as a function of the labels."""
    x, y = simulate.noiseless()
    signs.mean = x.float().mean(0)
    some = x[:2048].float() - signs.mean
    values, vectors = torch.linalg.eigh((some @ some.T).double())
    k = signs.sizes.components
    vectors, values = vectors.flip(1)[:, :k], values.flip(0)[:k].clamp(min=1e-12)
    signs.basis = ((vectors / values.sqrt()).float().T @ some).half().float()
    del some
    target = torch.cat([(part.float() - signs.mean) @ signs.basis.T for part in x.split(_BATCH)])
    signs.coefficient_scale = target.std(0).clamp(min=1e-6)
    y = torch.minimum(torch.maximum(y, signs.low), signs.high)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        error = signs.decoder(y[rows]) * signs.coefficient_scale - target[rows]
        return error.square().sum(1).add(1.0).log().mean()  # a star with strong lines counts as one

    _minimise(signs.decoder.parameters(), loss, len(y), options)


@torch.no_grad()
def _fit_depth_error(signs: OODSigns, usual: _Spectra) -> None:
    """Errors of models, relative to squared depth, pixel by pixel: the excess over the noise."""
    total, weights = torch.zeros_like(signs.mean), torch.zeros_like(signs.mean)
    for x, sigma, good, _, y in usual.blocks():
        residual, depth = signs.residual(x, good, y)
        noise = sigma.square()
        weight = good / (noise / depth + 0.02).square()
        total += (weight * ((residual.square() - noise) / depth).clamp(-4.0, 4.0)).nan_to_num().sum(0)
        weights += weight.nan_to_num().sum(0)
    error = (total / weights.clamp(min=1e-12)).clamp(min=1e-4)
    seen = weights > 1e-6 * weights.max()
    signs.depth_error = torch.where(seen, error, error[seen].median())


def _fit_signs(
    signs: OODSigns, usual: _Spectra, odd: _Spectra, family: torch.Tensor, options: OODOptions
) -> None:
    """The usual values for a claimed star, and the likeness to alterations."""
    with torch.no_grad():
        signs.rotation = torch.eye(signs.sizes.components, device=signs.mean.device)
        logs, projected = _observables(signs, usual)
        raw = signs.raw_claim(usual.y, usual.context)
        signs.claim_mean, signs.claim_spread = raw.mean(0), raw.std(0).clamp(min=1e-3)
        claim = signs.claim(usual.y, usual.context)
        size = projected.square().mean(1, keepdim=True).sqrt() + 1e-3
        covariance = (projected / size).T @ (projected / size) / len(projected)
        signs.rotation = torch.linalg.eigh(covariance.double())[1].float()
        projected = projected @ signs.rotation
        last: Any = signs.spread[-1]  # starts near the answer
        last.bias[projected.shape[1] :] = projected.std(0).clamp(min=1e-6).log()

    def spread_loss(rows: torch.Tensor) -> torch.Tensor:
        shift, log_scale = signs.spread(claim[rows]).chunk(2, dim=1)
        white = projected[rows] * (-log_scale).exp() - shift
        return (0.5 * (1.0 + FREEDOM) * torch.log1p(white.square() / FREEDOM) + log_scale).mean()

    _minimise(signs.spread.parameters(), spread_loss, len(claim), options)
    with torch.no_grad():
        shift, log_scale = signs.spread(claim).chunk(2, dim=1)
        white = projected * (-log_scale).exp() - shift
        three = torch.cat([logs, torch.log1p(white.square() / FREEDOM).mean(1, keepdim=True)], dim=1)
        last = signs.usual[-1]
        last.bias[:3], last.bias[3:] = three.mean(0), three.std(0).log()

    def usual_loss(rows: torch.Tensor) -> torch.Tensor:
        middle, log_spread = signs.usual(claim[rows]).chunk(2, dim=1)
        z = (three[rows] - middle) * (-log_spread).exp()
        return (0.5 * (1.0 + FREEDOM) * torch.log1p(z.square() / FREEDOM) + log_spread).mean()

    _minimise(signs.usual.parameters(), usual_loss, len(claim), options)
    with torch.no_grad():
        odd_claim = signs.claim(odd.y, odd.context)
        logs_odd, projected_odd = _observables(signs, odd)
        pieces = [(claim, *signs.standardised(logs, projected, claim)),
                 (odd_claim, *signs.standardised(logs_odd, projected_odd, odd_claim))]  # fmt: skip
        claim, three, white = (torch.cat(v) for v in zip(*pieces, strict=True))
        which = torch.cat([torch.zeros(len(usual), dtype=torch.long, device=family.device), 1 + family])

    def likeness_loss(rows: torch.Tensor) -> torch.Tensor:
        odds = signs.odds(three[rows], white[rows], claim[rows])
        return torch.nn.functional.cross_entropy(odds, which[rows])

    signs.likeness.train()
    _minimise(signs.likeness.parameters(), likeness_loss, len(which), options, decay=0.3)
    signs.likeness.eval()


def _observables(signs: OODSigns, spectra: _Spectra) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [signs.observables(x, sigma, good, y) for x, sigma, good, _, y in spectra.blocks()]
    return torch.cat([logs for logs, _ in parts]), torch.cat([p for _, p in parts])


@torch.no_grad()
def _fit_thresholds(
    signs: OODSigns, held: _Spectra, altered: _Spectra, family: torch.Tensor, options: OODOptions
) -> list[float]:
    """All signs together raise ``options.false_alarms``; likeness, which finds most, raises most of them.
    Gives the fraction of each alteration that is found."""
    values = torch.cat([signs.signs(x, s, g, context, y)[0] for x, s, g, context, y in held.blocks()])
    signs.median = values.median(0).values
    low, high = options.false_alarms / 50.0, options.false_alarms
    for _ in range(30):
        share = math.sqrt(low * high)
        limits = [torch.quantile(v, 1.0 - share * s) for v, s in zip(values.T, _SHARES, strict=True)]
        signs.threshold = torch.stack(limits)
        alarms = float((signs.scaled(values) > 1.0).any(1).float().mean())
        low, high = (share, high) if alarms < options.false_alarms else (low, share)
    values = torch.cat([signs.signs(x, s, g, context, y)[0] for x, s, g, context, y in altered.blocks()])
    flagged = (signs.scaled(values) > 1.0).any(1).float()
    return [round(float(flagged[family == i].mean()), 3) for i in range(len(ALTERATIONS))]


def _minimise(
    parameters: Any,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    n: int,
    options: OODOptions,
    decay: float = 1e-3,
) -> None:
    """AdamW over random rows, with a learning rate that falls to 0 along half a cosine."""
    optimiser = torch.optim.AdamW(list(parameters), lr=options.learning_rate, weight_decay=decay)
    generator = torch.Generator().manual_seed(options.seed)
    for step in range(options.steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.5 * options.learning_rate * (1.0 + math.cos(math.pi * step / options.steps))
        loss = loss_of(torch.randint(n, (min(_BATCH, n),), generator=generator))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()


def __getattr__(name: str) -> Any:
    """``fit_strangers``, the former name of :func:`fit_ood_signs`."""
    if name == "fit_strangers":
        warnings.warn("fit_strangers is now called fit_ood_signs", DeprecationWarning, stacklevel=2)
        return fit_ood_signs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
