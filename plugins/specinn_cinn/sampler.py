"""The flow run backwards, from latent draws to samples: FrEIA's weights and numbers without its cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import FrEIA.framework as ff
import FrEIA.modules as fm
import torch
from torch import nn

from .network import AmortisedGaussian

_ATAN = 0.636  # FrEIA's constant for 2 / pi
_CACHED = 1 << 18  # numbers of one layer that stay in the cache of a core (1 MB)
_ROWS = 1 << 10  # samples that a product wants at least, be they beyond the cache
_WIDE = (
    256  # from this width on oneDNN's product beats that of MKL on AMD (by a tenth), below MKL's is faster
)
_IN_PLACE: dict[type[nn.Module], Callable[[torch.Tensor], torch.Tensor]] = {
    nn.ReLU: torch.relu_,
    nn.SiLU: lambda x: nn.functional.silu(x, inplace=True),
}
_FUSED = {nn.ReLU: "relu", nn.SiLU: "swish"}  # oneDNN's names of what it applies to a product
Hoisted = tuple[torch.Tensor, ...]


class Sampler:
    """Draws from a flow of :func:`~specinn_cinn.network.make_flow`; the weights are those of the flow.

    Two facts make it fast. All samples of a star have the same condition, so whatever depends on the
    condition alone is computed once a star (:meth:`hoist`). And samples lie along the last axis, so that the
    halves of a coupling are views, a layer is one matrix product, and what it leaves is still in the cache
    for the next.
    """

    def __init__(self, flow: ff.SequenceINN) -> None:
        self.steps = [_step(module) for module in flow.module_list][::-1]
        widest = max((len(weight) for weight in flow.parameters() if weight.dim() == 2), default=1)
        self.tile = max(_CACHED // widest, _ROWS)

    def hoist(self, condition: torch.Tensor) -> list[Hoisted]:
        """What each step needs of the conditions ``(n_stars, n_features)``; tensors ``(n_stars, ...)``."""
        return [step.hoist(condition) for step in self.steps]

    def workspace(self) -> dict[Any, torch.Tensor]:
        """Memory for intermediate results, to be handed to every call of one thread."""
        return {}

    def __call__(
        self, z: torch.Tensor, hoisted: Sequence[Hoisted], work: dict[Any, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Latent ``z (n_stars, n_labels, n)`` to ``y`` of that shape and log |dy/dz| ``(n_stars, n)``.

        ``hoisted`` is what :meth:`hoist` gave for these stars. ``y`` lies in ``work`` and lasts until the
        next call.
        """
        out = _memory(work, "out", z.shape, z)
        log_determinant = z.new_zeros(len(z), z.shape[-1])
        tile = self.tile if z.device.type == "cpu" else z.shape[-1]
        for start in range(0, z.shape[-1], tile):
            here = slice(start, min(start + tile, z.shape[-1]))
            part = z[..., here]
            y = _memory(work, "y", part.shape, z)
            y.copy_(part)
            for step, given in zip(self.steps, hoisted, strict=True):
                y = step.invert(y, given, log_determinant[..., here], work)
            out[..., here] = y
        return out, log_determinant


def _memory(
    work: dict[Any, torch.Tensor], name: Any, shape: Sequence[int], like: torch.Tensor
) -> torch.Tensor:
    if name not in work or work[name].shape != tuple(shape):
        work[name] = torch.empty(*shape, dtype=like.dtype, device=like.device)
    return work[name]


@attrs.frozen(eq=False)
class _Network:
    """A sub-network, its first layer split into what meets the labels and what meets the condition."""

    first: torch.Tensor
    condition: torch.Tensor
    bias: torch.Tensor
    rest: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    activate: Callable[[torch.Tensor], torch.Tensor]
    fused: str = ""
    packed: tuple[torch.Tensor, ...] = ()

    @classmethod
    def of(cls, layers: nn.Sequential, n_in: int) -> _Network:
        linear: list[Any] = [layer for layer in layers if isinstance(layer, nn.Linear)]
        kinds = {type(layer) for layer in layers if not isinstance(layer, nn.Linear)}
        (kind,) = kinds or {nn.ReLU}
        first = linear[0].weight.detach()
        rest = tuple((layer.weight.detach(), layer.bias.detach()[:, None]) for layer in linear[1:])
        packed = _packed([weight for weight, _ in rest])
        return cls(
            first[:, :n_in].contiguous(),
            first[:, n_in:].contiguous(),
            linear[0].bias.detach(),
            rest,
            _IN_PLACE[kind],
            _FUSED[kind],
            packed,
        )

    def hoist(self, condition: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, condition, self.condition.T)[..., None]

    def __call__(self, x: torch.Tensor, shift: torch.Tensor, work: dict[Any, torch.Tensor]) -> torch.Tensor:
        if self.packed:
            return self._along_rows(x, shift, work)
        n_stars, _, n = x.shape
        layers = ((self.first, shift), *self.rest)
        for i, (weight, bias) in enumerate(layers):
            out = _memory(work, (i, len(weight)), (n_stars, len(weight), n), x)
            every = weight.expand(n_stars, -1, -1)
            x = torch.baddbmm(bias, every, x if i == 0 else self.activate(x), out=out)
        return x

    def _along_rows(
        self, x: torch.Tensor, shift: torch.Tensor, work: dict[Any, torch.Tensor]
    ) -> torch.Tensor:
        """The same with a sample in a row, as oneDNN has it; its kernel applies the activation, too."""
        n_stars, _, n = x.shape
        out = _memory(work, "rows", (n_stars, n, len(self.first)), x)
        every = self.first.T.expand(n_stars, -1, -1)
        torch.baddbmm(shift.transpose(1, 2), x.transpose(1, 2), every, out=out)
        rows = self.activate(out).view(n_stars * n, -1)
        for i, (weight, (_, bias)) in enumerate(zip(self.packed, self.rest, strict=True), 1):
            fused = self.fused if i < len(self.packed) else "none"
            rows = torch.ops.mkldnn._linear_pointwise(rows, weight, bias[:, 0], fused, [], "")
        return rows.view(n_stars, n, -1).transpose(1, 2)


def _packed(weights: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Weights of wide layers as oneDNN wants them; none where it is slower or not at hand."""
    wide = [weight for weight in weights if min(weight.shape) >= _WIDE]
    if not wide or wide[0].is_cuda or not torch.backends.mkldnn.is_available():
        return ()
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return ()
    return tuple(torch.ops.mkldnn._reorder_linear_weight(weight) for weight in weights)


@attrs.frozen(eq=False)
class _Coupling:
    """A GLOW coupling block, inverted: the second half from the first, then the first from the second."""

    n_first: int
    clamp: float
    one: _Network
    two: _Network

    def hoist(self, condition: torch.Tensor) -> Hoisted:
        return self.one.hoist(condition), self.two.hoist(condition)

    def invert(
        self, y: torch.Tensor, given: Hoisted, log_determinant: torch.Tensor, work: dict[Any, torch.Tensor]
    ) -> torch.Tensor:
        first, second = y[:, : self.n_first], y[:, self.n_first :]
        for network, shift, known, moved in (
            (self.one, given[0], first, second),
            (self.two, given[1], second, first),
        ):
            out = network(known, shift, work)
            n = moved.shape[1]
            scale = out[:, :n].atan_().mul_(-_ATAN * self.clamp)
            log_determinant += scale.sum(1)
            moved.sub_(out[:, n:]).mul_(scale.exp_())
        return y


@attrs.frozen(eq=False)
class _Permutation:
    inverse: torch.Tensor

    def hoist(self, condition: torch.Tensor) -> Hoisted:
        return ()

    def invert(
        self, y: torch.Tensor, given: Hoisted, log_determinant: torch.Tensor, work: dict[Any, torch.Tensor]
    ) -> torch.Tensor:
        # two places in turn, so that nothing is copied back
        free = _memory(work, "permuted", y.shape, y)
        torch.index_select(y, 1, self.inverse, out=free)
        work["permuted"], work["y"] = y, free
        return free


@attrs.frozen(eq=False)
class _Gaussian:
    head: AmortisedGaussian

    def hoist(self, condition: torch.Tensor) -> Hoisted:
        mean, scale, log_diagonal = self.head.mean_and_scale(condition)
        return mean[..., None], scale, log_diagonal.sum(1)

    def invert(
        self, y: torch.Tensor, given: Hoisted, log_determinant: torch.Tensor, work: dict[Any, torch.Tensor]
    ) -> torch.Tensor:
        mean, scale, log_scale = given
        log_determinant += log_scale[:, None]
        out = _memory(work, "permuted", y.shape, y)
        torch.baddbmm(mean, scale, y, out=out)
        work["permuted"], work["y"] = y, out
        return out


def _step(module: nn.Module) -> Any:
    if isinstance(module, fm.PermuteRandom):
        return _Permutation(module.perm_inv.detach())
    if isinstance(module, AmortisedGaussian):
        return _Gaussian(module)
    if isinstance(module, fm.GLOWCouplingBlock):
        n_first, n_second = module.split_len1, module.split_len2
        return _Coupling(
            n_first, module.clamp, _Network.of(module.subnet1, n_first), _Network.of(module.subnet2, n_second)
        )
    raise TypeError(f"the sampler knows no {type(module).__name__}")
