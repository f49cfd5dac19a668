"""How far a spectrum is out of distribution: signs learnt from simulated spectra once a model is trained.

The centre of the posterior (latent variables 0) says which star the spectrum claims to be; a decoder gives
the average spectrum of such a star. The residual is compared with the residuals of training spectra of such
stars: as a whole, in its worst stretches, and in the directions in which spectra differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import nn

from specinn.plugins import OODScore

from .encoding import Encoding

STRETCH = 24  # pixels, about eight resolution elements
_WORST = 5  # stretches that count
_DEPTH_FLOOR = 0.03  # as that of the simulated errors of the physics
_CLIP = 5.0  # sigma of one pixel: cosmic rays must not decide
FREEDOM = 4.0  # of the Student distribution of residuals, whose tails are heavy
_SIGNAL = 0.2  # of the lowest S/N of the training; a spectrum below it has nothing to compare
_PREFIX = "ood."  # of the names of tensors in a weights file
_FORMER_PREFIX = "strangers."
_DECIMALS = 2  # of a score: sums in single precision depend a little on how many spectra there are

SIGNS = {
    "misfit": "the model spectrum does not fit it",
    "stretch": "the model spectrum does not fit parts of it",
    "distance": "the residual of the model spectrum has another pattern than in training spectra",
    "likeness": "it looks like {}",
    "signal": "there is no signal above the noise",
}
ALTERATIONS = {
    "velocity": "one with a wrong velocity or wavelength scale",
    "two": "two spectra added",
    "blur": "one with a wrong resolving power (state --instrument or --resolving-power)",
    "arms": "arms that do not belong together",
    "weak": "one whose lines are all too weak",
    "bumps": "one with emission or other broad features that stars of the grid do not have",
    "waves": "one with waves in its continuum",
    "few": "a continuum with hardly any lines",
}


@attrs.frozen
class Sizes:
    """Of the networks: ``components`` of the decoder, widths of the hidden layers."""

    components: int = 128
    decoder: int = 256
    spread: int = 64
    likeness: int = 128


class OODSigns(nn.Module):
    """Signs for spectra encoded by ``encoding``, for a model with ``n_labels`` labels.

    ``low`` and ``high (n_labels,)`` are the bounds in the network's standardised label space, ``level
    (n_used,)`` is the continuum in units of ``x``.
    """

    basis: torch.Tensor
    rotation: torch.Tensor
    mean: torch.Tensor
    coefficient_scale: torch.Tensor
    depth_error: torch.Tensor
    level: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    claim_mean: torch.Tensor
    claim_spread: torch.Tensor
    median: torch.Tensor
    threshold: torch.Tensor

    def __init__(self, encoding: Encoding, n_labels: int, sizes: Sizes) -> None:
        super().__init__()
        self.sizes, self.n_arms, n_used = sizes, len(encoding.arms), len(encoding.pixels)
        self.floor = _DEPTH_FLOOR / encoding.scale
        n_arms = self.n_arms
        n_claim, k = n_labels + 2 * n_arms + 1, sizes.components
        for name, shape in (
            ("basis", (k, n_used)), ("rotation", (k, k)), ("mean", (n_used,)), ("coefficient_scale", (k,)),
            ("depth_error", (n_used,)), ("level", (n_used,)), ("low", (n_labels,)), ("high", (n_labels,)),
            ("claim_mean", (n_claim,)), ("claim_spread", (n_claim,)), ("median", (4,)), ("threshold", (4,)),
        ):  # fmt: skip
            self.register_buffer(name, torch.zeros(shape))
        self.decoder = perceptron(n_labels, sizes.decoder, k)
        self.spread = perceptron(n_claim, sizes.spread, 2 * k)
        self.usual = perceptron(n_claim, sizes.spread, 6)
        self.likeness = perceptron(n_claim + k + 3, sizes.likeness, 1 + len(ALTERATIONS), dropout=0.3)

    def model(self, y: torch.Tensor) -> torch.Tensor:
        """Average encoded spectra ``(n, n_used)`` of stars with standardised labels ``y (n, n_labels)``."""
        inside = torch.minimum(torch.maximum(y, self.low), self.high)
        return torch.addmm(self.mean, self.decoder(inside) * self.coefficient_scale, self.basis)

    def raw_claim(self, y: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """What the spectrum claims to be ``(n, n_claim)``: labels, S/N of the arms, their missing pixels, and
        whether it is synthetic."""
        n = self.n_arms
        missing = context[:, n:-1].reshape(len(y), n, -1).mean(2)
        return torch.cat([y.clamp(-6.0, 6.0), context[:, :n], missing, context[:, -1:]], dim=1)

    def claim(self, y: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """:meth:`raw_claim` in standard deviations of the training."""
        return ((self.raw_claim(y, context) - self.claim_mean) / self.claim_spread).clamp(-4.0, 4.0)

    def residual(
        self, x: torch.Tensor, good: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Observed minus model, and the squared depth (plus a floor) with which errors of models grow; each
        ``(n, n_used)``, in units of ``x``. In place where possible: new arrays cost more than the numbers."""
        model = self.model(y)
        depth = (self.level - model).clamp_(min=0.0).add_(self.floor).square_()
        return torch.sub(x, model, out=model).mul_(good), depth

    def observables(
        self, x: torch.Tensor, sigma: torch.Tensor, good: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logarithms of the two misfits ``(n, 2)``, and residuals in the directions ``(n, components)``."""
        residual, depth = self.residual(x, good, y)
        variance = depth.mul_(self.depth_error).addcmul_(sigma, sigma)
        z = residual.mul_(variance.rsqrt_()).clamp_(-_CLIP, _CLIP)
        misfit = torch.linalg.vector_norm(z, dim=1).square() / good.sum(1).clamp(min=1.0)
        n = z.shape[1] // STRETCH * STRETCH
        sums = z[:, :n].reshape(len(z), -1, STRETCH).sum(2)
        counts = good[:, :n].reshape(len(z), -1, STRETCH).sum(2)
        worst = sums.square_().div_(counts.clamp_(min=STRETCH / 4)).topk(min(_WORST, sums.shape[1]), dim=1)[0]
        logs = torch.stack([misfit, worst.mean(1)], dim=1).clamp(min=1e-3).log()
        return logs, z @ self.basis.T @ self.rotation

    def standardised(
        self, logs: torch.Tensor, projected: torch.Tensor, claim: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Misfit, stretch and distance ``(n, 3)`` in standard deviations from what is usual for the claim,
        and the projected residuals in theirs ``(n, components)``."""
        shift, log_scale = self.spread(claim).chunk(2, dim=1)
        white = projected * (-log_scale).exp() - shift
        distance = torch.log1p(white.square() / FREEDOM).mean(1, keepdim=True)
        usual, log_spread = self.usual(claim).chunk(2, dim=1)
        return (torch.cat([logs, distance], dim=1) - usual) * (-log_spread).exp(), white

    def odds(self, three: torch.Tensor, white: torch.Tensor, claim: torch.Tensor) -> torch.Tensor:
        """Log probabilities, not normalised, of training spectra and of each alteration ``(n, 9)``."""
        tamed = white.sign() * torch.log1p(white.abs())
        out: torch.Tensor = self.likeness(torch.cat([tamed, claim, three.clamp(-8.0, 12.0) / 3.0], dim=1))
        return out

    def signs(
        self, x: torch.Tensor, sigma: torch.Tensor, good: torch.Tensor, context: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The four learnt signs ``(n, 4)`` before they are scaled, and the alteration that each resembles."""
        claim = self.claim(y, context)
        three, white = self.standardised(*self.observables(x, sigma, good, y), claim)
        odds = self.odds(three, white, claim)
        likeness = odds[:, 1:].logsumexp(1) - odds[:, 0]
        return torch.cat([three, likeness[:, None]], dim=1), odds[:, 1:].argmax(1)

    def scaled(self, signs: torch.Tensor) -> torch.Tensor:
        """Signs ``(n, 4)`` so that 0 is the median and 1 the threshold."""
        return (signs - self.median) / (self.threshold - self.median)

    @torch.no_grad()
    def forward(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        good: torch.Tensor,
        context: torch.Tensor,
        y: torch.Tensor,
        signal: torch.Tensor,
    ) -> OODScore:
        """Score and reasons of encoded spectra: ``x``, ``sigma`` in its units, and ``good`` (1 or 0), each
        ``(n, n_used)``; ``context (n, n_context)``; ``y (n, n_labels)`` the centre of the posterior; ``signal
        (n,)`` the highest S/N of an arm over the lowest of the training."""
        signs, alteration = self.signs(x, sigma, good, context, y)
        weak = (_SIGNAL / signal.clamp(min=1e-3))[:, None]
        scores = torch.cat([self.scaled(signs), weak], dim=1).nan_to_num(nan=100.0).clamp(-100.0, 100.0)
        rounded = scores.double().cpu().numpy().round(_DECIMALS)
        kinds = [list(ALTERATIONS.values())[i] for i in alteration.tolist()]
        reasons = [_reason(row > 1.0, kind) for row, kind in zip(rounded, kinds, strict=True)]
        return OODScore(rounded.max(axis=1), reasons)

    def tensors(self) -> dict[str, torch.Tensor]:
        """For the weights file; the basis as float16, to which the fit rounded it."""
        whole = self.state_dict() | {"basis": self.basis.half()}
        return {f"{_PREFIX}{name}": value for name, value in whole.items()}

    def header(self) -> dict[str, Any]:
        """What :meth:`read` needs besides the tensors."""
        return {"sizes": attrs.asdict(self.sizes)}

    @classmethod
    def read(
        cls, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any], encoding: Encoding
    ) -> OODSigns | None:
        """From the tensors and the header of a weights file; None for a file without signs."""
        weights = {
            name.removeprefix(prefix): values.float()
            for name, values in tensors.items()
            for prefix in (_PREFIX, _FORMER_PREFIX)
            if name.startswith(prefix)
        }
        if not weights:
            return None
        sizes = Sizes(**header["ood"]["sizes"])
        out = cls(encoding, len(weights["low"]), sizes)
        out.load_state_dict(weights)
        return out.requires_grad_(False).eval().to(encoding.pixels.device)


def perceptron(n_in: int, width: int, n_out: int, dropout: float = 0.0) -> nn.Sequential:
    """Two hidden layers."""
    layers: list[nn.Module] = []
    for n in (n_in, width):
        layers += [nn.Linear(n, width), nn.SiLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(width, n_out))


def _reason(fired: Sequence[bool], kind: str) -> str:
    words = [text for text, yes in zip(SIGNS.values(), fired, strict=True) if yes]
    return "; ".join(words).format(kind)
