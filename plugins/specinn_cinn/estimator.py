"""The estimator: weights and header in one file, samples and densities for preprocessed batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch

from specinn.plugins import (
    Estimator,
    Instrument,
    LabelSet,
    ModelError,
    OODScore,
    Posterior,
    SpectrumBatch,
    Summary,
    Templates,
    open_model,
    save_model,
)

from .cuda import CapturedSampler, summaries
from .encoding import Encoded, Encoding
from .network import Features, make_flow
from .ood import OODSigns
from .recipe import Architecture
from .sampler import Hoisted, Sampler
from .shifts import Shifts, Wider

_STARS_ON_GPU = 64  # times 4096 samples pass the flow together
_MANY = 256  # samples, of which one that is not random changes hardly anything but the MAP
_OCTAVES = math.log2(10.0)  # of a factor of ten


@attrs.define(eq=False)
class CINN(Estimator):
    """A conditional invertible neural network (Ksoll et al. 2026) with its features and scaling.

    ``center`` and ``spread`` ``(n_labels,)`` standardise labels in network units.
    """

    labels: LabelSet
    instrument: Instrument
    preprocessing: tuple[tuple[str, dict[str, Any]], ...]
    templates: Templates
    header: dict[str, Any]
    architecture: Architecture
    encoding: Encoding
    features: Features
    flow: Any
    center: torch.Tensor
    spread: torch.Tensor
    device: str = "cpu"
    ood_signs: OODSigns | None = None
    _shifts: Shifts | None = attrs.field(default=None, init=False, repr=False)
    _graphs: dict[torch.Size, CapturedSampler | None] = attrs.field(factory=dict, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.labels = self.labels.with_spreads(self.spread.tolist())
        shifts = self.header.get("training", {}).get("physics", {}).get("shifts")
        if shifts:
            self._shifts = Shifts.of(self.labels, self.center, self.spread, shifts)

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> CINN:
        with open_model(path) as stored:
            tensors, header, instrument = stored.tensors, stored.header, stored.instrument
            sizes = Architecture(
                **{**header["architecture"], "features": tuple(header["architecture"]["features"])}
            )
            encoding = Encoding(
                pixels=tensors["encoding.pixels"].long().to(device),
                mean=tensors["encoding.mean"].float().to(device),
                scale=header["encoding"]["scale"],
                width=tensors["encoding.width"].float().to(device),
                arms=instrument.slices,
                snr=tuple(header["encoding"]["snr"]),
            )
            features = Features(len(encoding.pixels), encoding.n_context, sizes)
            flow = make_flow(len(stored.labels), sizes.features[-1], sizes)
            for name, module in (("features", features), ("flow", flow)):
                weights = {
                    k.removeprefix(f"{name}."): v.float()
                    for k, v in tensors.items()
                    if k.startswith(f"{name}.")
                }
                module.load_state_dict(_restore_dtypes(weights, module))
                module.requires_grad_(False).eval().to(device)
            return cls(
                stored.labels,
                instrument,
                stored.preprocessing,
                stored.templates,
                header,
                sizes,
                encoding,
                features,
                flow,
                tensors["center"].float().to(device),
                tensors["spread"].float().to(device),
                device,
                OODSigns.read(tensors, header, encoding),
            )

    def save(self, path: Path) -> None:
        """The projection and the templates are stored as float16, whose effect was below 1 % of a posterior
        width; everything else as float32."""
        tensors = {
            "encoding.pixels": self.encoding.pixels.int(),
            "encoding.mean": self.encoding.mean,
            "encoding.width": self.encoding.width,
            "templates.flux": torch.as_tensor(self.templates.flux).half(),
            "center": self.center,
            "spread": self.spread,
        }
        for name, module in (("features", self.features), ("flow", self.flow)):
            tensors |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
        if self.features.projection is not None:
            tensors["features.projection.weight"] = self.features.projection.weight.half()
        if self.ood_signs is not None:
            tensors |= self.ood_signs.tensors()
        encoding = {"scale": self.encoding.scale, "snr": list(self.encoding.snr)}
        save_model(
            path, self, "cinn", tensors, architecture=attrs.asdict(self.architecture), encoding=encoding
        )

    @property
    def used_pixels(self) -> np.ndarray:
        used = np.zeros(len(self.encoding.width), bool)
        used[self.encoding.pixels.cpu().numpy()] = True
        return used

    def encode(self, batch: SpectrumBatch | Encoded) -> Encoded:
        """The features of a preprocessed batch, which scoring and sampling share."""
        if isinstance(batch, Encoded):
            return batch
        with torch.no_grad():
            x, context, snr, noise, bad = self.encoding.pixels_in_use(*self._inputs(batch))
            return Encoded(self._keys(batch), x, noise, bad, context, snr, self.features(x, context))

    def ood_score(self, batch: SpectrumBatch | Encoded) -> OODScore | None:
        if self.ood_signs is None:
            return None
        encoded = self.encode(batch)
        with torch.no_grad():
            x, good = encoded.x, (~encoded.bad).to(encoded.x.dtype)
            y = self.centre(encoded.condition)
            signal = encoded.snr.amax(1) / self.encoding.snr[0]
            return self.ood_signs(x, encoded.noise / self.encoding.scale, good, encoded.context, y, signal)

    def centre(self, condition: torch.Tensor) -> torch.Tensor:
        """Standardised labels ``(n, n_labels)`` at latent variables 0, by the conditions of the flow."""
        y: torch.Tensor = self.flow(
            condition.new_zeros(len(condition), len(self.labels)), c=[condition], rev=True, jac=False
        )[0]
        return y

    def _inputs(self, batch: SpectrumBatch) -> tuple[torch.Tensor, ...]:
        """Flux, sigma, mask and which are synthetic, on the device; masked flux and sigma are 1."""
        if batch.flux.shape[1] != len(self.encoding.width):
            raise ModelError(
                f"the batch has {batch.flux.shape[1]} pixels, the model {len(self.encoding.width)}: pass it "
                "through the model's preprocessing first"
            )
        flux, sigma = (torch.as_tensor(np.where(batch.mask, fill, v), dtype=torch.float32, device=self.device)
                       for v, fill in ((batch.flux, 1.0), (batch.sigma, 1.0)))  # fmt: skip
        declared = "synthetic" in batch.meta.colnames
        synthetic = np.asarray(batch.meta["synthetic"], bool) if declared else np.zeros(len(batch), bool)
        return flux, sigma, *(torch.as_tensor(v, device=self.device) for v in (batch.mask, synthetic))

    def _wider(self, encoded: Encoded, sampler: Sampler, hoisted: Hoisted) -> Wider | None:
        """How the posteriors of spectra that were not declared synthetic get wider than the flow's."""
        real = encoded.context[:, -1] == 0.0
        if self._shifts is None or not bool(real.any()):
            return None
        points = self._shifts.points.expand(len(encoded), -1, -1)
        return self._shifts.wider(sampler(points, hoisted, sampler.workspace())[0], real)

    def sample(self, batch: SpectrumBatch | Encoded, n_samples: int, seed: int) -> Posterior:
        posterior = Posterior.empty(self.labels, len(batch), n_samples)
        for star, values, log_prob in self._draws(batch, n_samples, seed):
            posterior.samples[star], posterior.log_prob[star] = values.T, log_prob
            posterior.inside[star] = self._inside(values, log_prob)
        return posterior

    def summarise(self, batch: SpectrumBatch | Encoded, n_samples: int, seed: int) -> Summary:
        summary = Summary.empty(self.labels, len(batch))
        if self.device != "cpu":  # samples stay where they are made
            for stars, y, density in self.blocks(batch, n_samples, seed):
                summary.put(np.array(stars), summaries(self.labels, y, density))
            return summary
        for star, values, log_prob in self._draws(batch, n_samples, seed):
            summary.put_star(star, values, log_prob, self._inside(values, log_prob))
        return summary

    def gradients(self, batch: SpectrumBatch, n_samples: int, seed: int) -> np.ndarray:
        flux, *others = self._inputs(batch)
        flux.requires_grad_()
        keys = self._keys(batch)
        z = torch.stack([self.latent(seed, int(key), n_samples).T for key in keys])
        with torch.enable_grad():
            x, context, _ = self.encoding(flux, *others)
            condition = self.features(x, context)

            def standardised(z: torch.Tensor) -> torch.Tensor:
                of_each = condition.repeat_interleave(z.shape[1], 0)
                return self.flow(z.flatten(0, 1), c=[of_each], rev=True, jac=False)[0].view(z.shape)

            y, real = standardised(z), context[:, -1] == 0.0
            if self._shifts is not None and bool(real.any()):
                points = standardised(self._shifts.points.T.expand(len(z), -1, -1))
                y = self._shifts.wider(points.mT, real)(y.mT).mT
            values = self.labels.from_network(y * self.spread + self.center)
            sums = values.mean(1).sum(0)  # no star depends on another
            parts = [torch.autograd.grad(one, flux, retain_graph=True)[0] for one in sums]
        return torch.stack(parts, dim=1).cpu().numpy()

    def _inside(self, values: np.ndarray, log_prob: np.ndarray) -> np.ndarray:
        """``(n,)`` whether ``values (n_labels, n)`` are within the bounds and their density a number."""
        low, high = self.labels.bounds.T.astype(
            values.dtype
        )  # samples of flat posteriors reach the very bound
        inside: np.ndarray = np.isfinite(log_prob)
        for i in np.flatnonzero(~((values.min(axis=1) >= low) & (values.max(axis=1) <= high))):
            inside &= (values[i] >= low[i]) & (values[i] <= high[i])
        return inside

    def _draws(
        self, batch: SpectrumBatch | Encoded, n_samples: int, seed: int
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For every star its number in the batch, physical samples ``(n_labels, n_samples)`` and their log
        density in label space ``(n_samples,)``; valid until the next one is asked for."""
        for stars, y, log_prob in self.blocks(batch, n_samples, seed):
            yield from zip(stars, y.cpu().numpy(), log_prob.cpu().numpy(), strict=True)

    def blocks(
        self, batch: SpectrumBatch | Encoded, n_samples: int, seed: int
    ) -> Iterator[tuple[range, torch.Tensor, torch.Tensor]]:
        """Indices of some stars at a time, their physical samples ``(n_stars, n_labels, n)`` and log
        densities in label space ``(n_stars, n)``, on the device; valid until the next ones are asked for."""
        encoded = self.encode(batch)
        with torch.no_grad():
            sampler = Sampler(self.flow)
            physical, work = _Physical(self.labels, self.center, self.spread), sampler.workspace()
            conditions = encoded.condition.split(self.at_once)
            hoisted = sampler.hoist(encoded.condition)
            wider = self._wider(encoded, sampler, hoisted)
            of_some = zip(*(of_all.split(self.at_once) for of_all in hoisted), strict=True)
            first = 0
            for condition, weights in zip(conditions, of_some, strict=True):
                stars = range(first, first + len(condition))
                z = torch.stack(
                    [self.latent(seed, int(key), n_samples) for key in encoded.key[first : stars.stop]]
                )
                captured = self._captured(z) if self.device != "cpu" else None
                y, log_determinant = captured(z, condition) if captured else sampler(z, weights, work)
                if wider is not None:
                    these = wider[stars.start : stars.stop]
                    y, log_determinant = these(y), log_determinant + these.log_determinant[:, None]
                log_prob = _normal_log_density(z, 1).sub_(log_determinant).sub_(physical.log_volume)
                yield stars, physical(y), log_prob
                first = stars.stop

    def _captured(self, z: torch.Tensor) -> CapturedSampler | None:
        """The sampler as a graph for latent draws of that shape, recorded when it is asked for again: most
        batches of a run have one size, and the last does not pay."""
        if z.shape not in self._graphs:
            self._graphs[z.shape] = None
        elif self._graphs[z.shape] is None:
            self._graphs[z.shape] = CapturedSampler(Sampler(self.flow), z, self.architecture.features[-1])
        return self._graphs[z.shape]

    @staticmethod
    def _keys(batch: SpectrumBatch) -> np.ndarray:
        return np.asarray(batch.meta["key"]) if "key" in batch.meta.colnames else np.arange(len(batch))

    @property
    def at_once(self) -> int:
        """Stars in one call of the sampler: one fills the cache of a core, many a GPU."""
        return 1 if self.device == "cpu" else _STARS_ON_GPU

    def latent(self, seed: int, key: int, n: int) -> torch.Tensor:
        """Normal draws ``(n_labels, n)`` of one star: they depend on the seed, the star's key and the
        kind of device only (a GPU draws its own: those of a CPU would take longer than everything else).

        The last of many is 0, where the density is highest or nearly so: of 4096 draws in 13 dimensions
        the best is still off by a third of a standard deviation in each, which is avoidable for the MAP.
        """
        generator = torch.Generator(self.device).manual_seed((seed * 1_000_003 + key) % 2**63)
        z = torch.randn(len(self.labels), n, generator=generator, device=self.device)
        if n >= _MANY:
            z[:, -1] = 0.0
        return z

    def log_prob(self, batch: SpectrumBatch, labels: np.ndarray) -> np.ndarray:
        return self._latent_and_density(batch, labels)[1]

    def to_latent(self, batch: SpectrumBatch, labels: np.ndarray) -> np.ndarray:
        """Latent variables ``(n_spec, n, n_labels)`` of physical values of that shape."""
        return self._latent_and_density(batch, labels)[0]

    def _latent_and_density(self, batch: SpectrumBatch, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = torch.as_tensor(np.asarray(labels), dtype=torch.float32, device=self.device)
        encoded = self.encode(batch)
        with torch.no_grad():
            y = (self.labels.to_network(values) - self.center) / self.spread
            log_volume = self.spread.log().sum().expand(len(encoded))
            sampler = Sampler(self.flow)
            if (wider := self._wider(encoded, sampler, sampler.hoist(encoded.condition))) is not None:
                y, log_volume = wider.undo(y), log_volume + wider.log_determinant
            condition = encoded.condition.repeat_interleave(values.shape[1], 0)
            z, log_determinant = self.flow(y.flatten(0, 1), c=[condition], rev=False)
            density = _normal_log_density(z, 1) + log_determinant
            density = density.view(values.shape[:2]) - log_volume[:, None]
        return z.view(values.shape).cpu().numpy(), density.cpu().numpy()


class _Physical:
    """Standardised samples to physical values: :meth:`LabelSet.from_network`, in place and a few passes.

    A label learnt as its log10 is 10**centre times a power of 2 of what is left: the power of so small a
    number is more exact than that of the sum. ``log_volume`` is log |d network / d standardised|.
    """

    def __init__(self, labels: LabelSet, center: torch.Tensor, spread: torch.Tensor) -> None:
        kinds = [label.transform for label in labels]
        if not set(kinds) <= {"linear", "log10", "probit"}:
            raise ModelError(f"labels are learnt as {', '.join(sorted(set(kinds)))}, which is not supported")
        self.logs = [i for i, kind in enumerate(kinds) if kind == "log10"]
        self.probits = [i for i, kind in enumerate(kinds) if kind == "probit"]
        self.log_volume = spread.log().sum()
        self.slope, self.shift = spread.clone(), center.clone()
        self.slope[self.logs] *= _OCTAVES
        self.shift[self.logs] = 0.0
        self.factor, self.offset = torch.ones_like(spread), torch.zeros_like(spread)
        self.factor[self.logs] = 10.0 ** center[self.logs]
        low, high = labels.bounds.T
        self.factor[self.probits] = torch.as_tensor(high - low).to(spread)[self.probits]
        self.offset[self.probits] = torch.as_tensor(low.copy()).to(spread)[self.probits]

    def __call__(self, y: torch.Tensor) -> torch.Tensor:
        """``y (n_stars, n_labels, n)``, changed in place."""
        torch.addcmul(self.shift[:, None], y, self.slope[:, None], out=y)
        if not self.logs and not self.probits:
            return y
        for i in self.logs:
            y[:, i].exp2_()
        for i in self.probits:
            row = y[:, i]
            torch.special.ndtr(row, out=row)
        return torch.addcmul(self.offset[:, None], y, self.factor[:, None], out=y)


def _normal_log_density(z: torch.Tensor, axis: int) -> torch.Tensor:
    return z.square().sum(axis).mul_(-0.5).sub_(0.5 * z.shape[axis] * math.log(2.0 * math.pi))


def _restore_dtypes(tensors: dict[str, torch.Tensor], module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights in the types of the module (permutations are whole numbers)."""
    types = {key: value.dtype for key, value in module.state_dict().items()}
    return {key: value.to(types.get(key, value.dtype)) for key, value in tensors.items()}
