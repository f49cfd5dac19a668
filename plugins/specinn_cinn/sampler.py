"""The flow run backwards, from latent draws to samples: the weights and results of FrEIA without its cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
_FEW = 256  # samples of a star, of which calls cost more than products: all stars together
_APART = 16  # numbers between rows in memory: rows a power of 2 apart share a few places of the cache
_WIDE = (
    256  # from this width on oneDNN's product beats that of MKL on AMD (by a tenth), below MKL's is faster
)
_IN_PLACE: dict[type[nn.Module], Callable[[torch.Tensor], torch.Tensor]] = {
    nn.ReLU: torch.relu_,
    nn.SiLU: torch.ops.aten.silu_,
}
_FUSED = {nn.ReLU: "relu", nn.SiLU: "swish"}  # oneDNN's names of what it applies to a product
Hoisted = tuple[torch.Tensor, ...]
Workspace = dict[Any, Any]
BoundStep = Callable[[Iterator[torch.Tensor]], object]


class Sampler:
    """Draws from a flow of :func:`~specinn_cinn.network.make_flow`; the weights are those of the flow.

    All samples of a star have the same condition, so whatever depends on the condition alone is computed
    once per star, for all sub-networks in one product (:meth:`hoist`). Samples lie along the last axis: a
    layer is one matrix product, and the halves of a coupling are views that change in place. Between the
    halves is a row of ones, which meets what the condition adds to the first layers and to the Gaussian,
    so that no bias has to be expanded for every sample. On a CPU one star is sampled at a time, as
    many samples as the cache holds; on a GPU, and where they are few, all together.
    """

    def __init__(self, flow: ff.SequenceINN) -> None:
        modules = list(flow.module_list)[::-1]
        self.gaussian = modules.pop() if modules and isinstance(modules[-1], AmortisedGaussian) else None
        couplings = [module for module in modules if isinstance(module, fm.GLOWCouplingBlock)]
        self.n_first = couplings[0].split_len1 if couplings else 0
        self.steps = [step for module in modules for step in _steps(module, self.n_first)]
        self._halves = [step for step in self.steps if isinstance(step, _Half)]
        if self._halves:
            self._condition = torch.cat([half.condition for half in self._halves]).T
            self._bias = torch.cat([half.bias for half in self._halves])
        widest = max((len(half.bias) for half in self._halves), default=1)
        self.tile = max(_CACHED // widest, _ROWS)

    def hoist(self, condition: torch.Tensor) -> Hoisted:
        """Weights that depend on the conditions ``(n_stars, n_features)``: those of the first layer of each
        sub-network ``(n_stars, n_out, n_in + 1)``, in order, then those of the Gaussian and the log of its
        determinant ``(n_stars, 1)``."""
        weights: list[torch.Tensor] = []
        if self._halves:
            shifts = torch.addmm(self._bias, condition, self._condition)[..., None]
            of_each = shifts.split([len(half.bias) for half in self._halves], dim=1)
            weights = [half.with_shift(shift) for half, shift in zip(self._halves, of_each, strict=True)]
        if self.gaussian is not None:
            mean, scale, log_diagonal = self.gaussian.mean_and_scale(condition)
            left, right = scale[..., : self.n_first], scale[..., self.n_first :]
            weights += [torch.cat([left, mean[..., None], right], dim=2), log_diagonal.sum(1, keepdim=True)]
        return tuple(weights)

    def workspace(self) -> Workspace:
        """Memory for intermediate results, to be handed to every call of one thread."""
        return {}

    def __call__(
        self, z: torch.Tensor, hoisted: Hoisted, work: Workspace
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Latent ``z (n_stars, n_labels, n)`` to ``y`` of that shape and log |dy/dz| ``(n_stars, n)``.

        ``hoisted`` is what :meth:`hoist` gave for these stars. ``y`` lies in ``work`` and lasts until the
        next call.
        """
        if z.shape not in work:
            work[z.shape] = torch.empty_like(z)
        y, log_determinant = work[z.shape], z.new_empty(len(z), z.shape[-1])
        few = z.shape[-1] < _FEW and not any(half.packed for half in self._halves)
        if z.device.type != "cpu" or few:
            self._invert(z, hoisted, y, log_determinant, work)
            return y, log_determinant
        for star, of_star in enumerate(zip(*(tensor.unbind() for tensor in hoisted), strict=True)):
            for start in range(0, z.shape[-1], self.tile):
                part = slice(start, start + self.tile)
                self._invert(z[star, :, part], of_star, y[star, :, part], log_determinant[star, part], work)
        return y, log_determinant

    def _invert(
        self, z: torch.Tensor, hoisted: Hoisted, out: torch.Tensor, log_det: torch.Tensor, work: Workspace
    ) -> None:
        """The same for ``z (n_labels, n)`` of one star or ``(n_stars, n_labels, n)`` of many, into ``out``
        and ``log_det``."""
        key = ("tile", z.shape)
        if key not in work:
            work[key] = _Tile(self.steps, z, self.n_first)
        tile: _Tile = work[key]
        tile.first.copy_(z[..., : self.n_first, :])
        tile.second.copy_(z[..., self.n_first :, :])
        tile.octaves.zero_()
        weights = iter(hoisted)
        for step in tile.steps:
            step(weights)
        torch.sum(tile.octaves, dim=-2, out=log_det).mul_(math.log(2.0))
        if self.gaussian is not None:
            torch.matmul(next(weights), tile.last, out=out)
            log_det += next(weights)
        else:
            out[..., : self.n_first, :] = tile.last[..., : self.n_first, :]
            out[..., self.n_first :, :] = tile.last[..., self.n_first + 1 :, :]


class _Tile:
    """Memory for samples of one star, or of each of many, and the steps bound to it: a view costs as much as
    a hundredth of a product, and there would be ten for each.

    The halves of the latent variables go to ``first`` and ``second``; ``last (..., n_labels + 1, n)`` has the
    result, with a row of ones after the first half, and ``octaves (..., n_labels, n)`` the sums of the
    log2 of the factors.
    """

    def __init__(self, steps: Sequence[_Half | _Permutation], z: torch.Tensor, n_first: int) -> None:
        *stars, n_labels, n = z.shape
        y, free = (_memory((*stars, n_labels + 1, n), z).fill_(1.0) for _ in range(2))
        self.first, self.second = y[..., :n_first, :], y[..., n_first + 1 :, :]
        self.octaves = _memory((*stars, n_labels, n), z)
        self.steps: list[BoundStep] = []
        layers: dict[Any, torch.Tensor] = {}  # used by one network after the other
        for step in steps:
            if isinstance(step, _Permutation):  # to and fro, so that nothing is copied back
                self.steps.append(step.bound(y, free))
                y, free = free, y
            else:
                self.steps.append(step.bound(y, self.octaves, layers))
        self.last = y


def _memory(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Of that shape; on a processor the rows are not a power of 2 apart."""
    *others, n = shape
    apart = _APART if like.device.type == "cpu" else 0
    return torch.empty(*others, n + apart, dtype=like.dtype, device=like.device)[..., :n]


@attrs.frozen(eq=False)
class _Half:
    """Half of a GLOW coupling block, inverted: one half of the labels moves as a sub-network makes of the
    other half and the condition.

    ``first (width, n_in)``, ``condition (width, n_features)`` and ``bias (width,)`` are the first layer,
    ``rest`` the weights and biases ``(n_out, 1)`` of the others, ``packed`` the same weights as oneDNN wants
    them, where that is faster. ``octave`` turns the arc tangent of FrEIA's clamp into the log2 of a label's
    factor: powers of 2 are cheaper than those of e. It is a tensor, by which torch multiplies faster than
    by a number.
    """

    n_first: int
    moves_second: bool
    octave: torch.Tensor
    first: torch.Tensor
    condition: torch.Tensor
    bias: torch.Tensor
    rest: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    activate: Callable[[torch.Tensor], torch.Tensor]
    fused: str
    packed: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, block: fm.GLOWCouplingBlock, moves_second: bool) -> _Half:
        layers = block.subnet1 if moves_second else block.subnet2
        n_in = block.split_len1 if moves_second else block.split_len2
        linear: list[Any] = [layer for layer in layers if isinstance(layer, nn.Linear)]
        kinds = {type(layer) for layer in layers if not isinstance(layer, nn.Linear)}
        (kind,) = kinds or {nn.ReLU}
        first, bias = linear[0].weight.detach(), linear[0].bias.detach()
        rest = tuple((layer.weight.detach(), layer.bias.detach()[:, None]) for layer in linear[1:])
        return cls(
            block.split_len1,
            moves_second,
            bias.new_tensor(-_ATAN * block.clamp / math.log(2.0)),
            first[:, :n_in],
            first[:, n_in:],
            bias,
            rest,
            _IN_PLACE[kind],
            _FUSED[kind],
            _packed([weight for weight, _ in rest]),
        )

    def with_shift(self, shift: torch.Tensor) -> torch.Tensor:
        """Weights ``(n_stars, width, n_in + 1)`` of the first layer, where the ones meet the ``shift``
        ``(n_stars, width, 1)``."""
        every = self.first.expand(len(shift), -1, -1)
        return torch.cat([every, shift] if self.moves_second else [shift, every], dim=2)

    def bound(self, y: torch.Tensor, octaves: torch.Tensor, layers: dict[Any, torch.Tensor]) -> BoundStep:
        *stars, _, n = y.shape
        first, second = y[..., : self.n_first, :], y[..., self.n_first + 1 :, :]
        if self.moves_second:
            x, moved = y[..., : self.n_first + 1, :], second
        else:
            x, moved = y[..., self.n_first :, :], first
        n_moved = moved.shape[-2]
        octaves, activate, octave = octaves[..., :n_moved, :], self.activate, self.octave

        def move(scale: torch.Tensor, offset: torch.Tensor) -> None:
            scale.atan_().mul_(octave)
            octaves.add_(scale)
            moved.sub_(offset).mul_(scale.exp2_())

        if self.packed:
            return lambda weights: move(*self._along_rows(x, next(weights)).split(n_moved, dim=0))
        outs = []
        for number, n_out in enumerate([len(self.first), *(len(weight) for weight, _ in self.rest)]):
            if (number, n_out) not in layers:
                layers[number, n_out] = _memory((*stars, n_out, n), y)
            outs.append(layers[number, n_out])
        scale, offset = outs[-1].split(n_moved, dim=-2)
        product, affine = (torch.bmm, torch.baddbmm) if stars else (torch.mm, torch.addmm)
        rest = [
            (bias, weight.expand(*stars, -1, -1), before, out)
            for (weight, bias), before, out in zip(self.rest, outs, outs[1:], strict=False)
        ]

        def step(weights: Iterator[torch.Tensor]) -> None:
            product(next(weights), x, out=outs[0])
            for bias, weight, before, out in rest:
                affine(bias, weight, activate(before), out=out)
            move(scale, offset)

        return step

    def _along_rows(self, x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """The sub-network for one star with a sample in a row; oneDNN applies the activation, too."""
        rows = self.activate(torch.mm(x.T, first.T))
        for i, (weight, (_, bias)) in enumerate(zip(self.packed, self.rest, strict=True), 1):
            fused = self.fused if i < len(self.packed) else "none"
            rows = torch.ops.mkldnn._linear_pointwise(rows, weight, bias[:, 0], fused, [], "")
        return rows.T


def _packed(weights: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Weights of wide layers as oneDNN wants them; none where it is slower or not at hand."""
    wide = [weight for weight in weights if min(weight.shape) >= _WIDE]
    if not wide or wide[0].is_cuda or not torch.backends.mkldnn.is_available():
        return ()
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return ()
    return tuple(torch.ops.mkldnn._reorder_linear_weight(weight) for weight in weights)


@attrs.frozen(eq=False)
class _Permutation:
    """``inverse (n_labels + 1,)`` leaves the row of ones where it is."""

    inverse: torch.Tensor

    @classmethod
    def of(cls, module: fm.PermuteRandom, n_first: int) -> _Permutation:
        inverse = module.perm_inv.detach()
        inverse = inverse + (inverse >= n_first).to(inverse.dtype)
        ones = inverse.new_tensor([n_first])
        return cls(torch.cat([inverse[:n_first], ones, inverse[n_first:]]))

    def bound(self, y: torch.Tensor, out: torch.Tensor) -> BoundStep:
        return lambda weights: torch.index_select(y, -2, self.inverse, out=out)


def _steps(module: nn.Module, n_first: int) -> list[_Half | _Permutation]:
    if isinstance(module, fm.PermuteRandom):
        return [_Permutation.of(module, n_first)]
    if isinstance(module, fm.GLOWCouplingBlock) and module.split_len1 == n_first:
        return [_Half.of(module, moves_second=True), _Half.of(module, moves_second=False)]
    raise TypeError(f"the sampler does not support {type(module).__name__}")
