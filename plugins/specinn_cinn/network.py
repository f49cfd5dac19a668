"""The networks: features of a spectrum, and the flow from labels to a normal distribution."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .recipe import Architecture

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import FrEIA.framework as ff
    import FrEIA.modules as fm

CLAMP = 1.9  # alpha of the soft clamp (2 alpha / pi) atan(s / alpha), Ksoll et al. (2026)


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}


class Features(nn.Module):
    """Scaled flux ``x (n, n_pix)`` and ``context (n, n_context)`` to the condition ``(n, n_features)``."""

    def __init__(self, n_pix: int, n_context: int, sizes: Architecture) -> None:
        super().__init__()
        self.projection = nn.Linear(n_pix, sizes.projection) if sizes.projection else None
        n = (sizes.projection or n_pix) + n_context
        layers: list[nn.Module] = []
        for i, width in enumerate(sizes.features):
            layers.append(nn.Linear(n, width))
            if i < len(sizes.features) - 1:
                layers.append(_ACTIVATIONS[sizes.activation]())
            n = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        if self.projection is not None:
            x = self.projection(x)
        return self.layers(torch.cat([x, context], dim=1))


class AmortisedGaussian(fm.InvertibleModule):
    """``z = T(c)^-1 (y - m(c))`` with ``m`` and the lower triangular ``T`` linear in the condition ``c``.

    The diagonal of T is exp(6 tanh(d / 6)) of an output d of the network, so no scale over- or underflows;
    the rows below it are in units of the diagonal.
    """

    def __init__(self, dims_in: Sequence[tuple[int]], dims_c: Sequence[tuple[int]] = ()) -> None:
        super().__init__(dims_in, dims_c)
        self.n = dims_in[0][0]
        self.below = torch.tril_indices(self.n, self.n, -1)
        self.head = nn.Linear(dims_c[0][0], 2 * self.n + self.below.shape[1])
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)

    def mean_and_scale(self, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean ``(b, n)``, ``T (b, n, n)`` and log of its diagonal ``(b, n)``."""
        out = self.head(c)
        mean, log_diagonal, rest = out.split([self.n, self.n, self.below.shape[1]], dim=1)
        log_diagonal = 6.0 * torch.tanh(log_diagonal / 6.0)
        scale = torch.diag_embed(log_diagonal.exp())
        row, column = self.below
        stars = torch.arange(len(c), device=c.device)[:, None]
        scale = scale.index_put((stars, row, column), rest * log_diagonal.exp()[:, row])
        return mean, scale, log_diagonal

    def forward(self, x_or_z: Any, c: Any = None, rev: bool = False, jac: bool = True) -> Any:
        mean, scale, log_diagonal = self.mean_and_scale(c[0])
        log_determinant = -log_diagonal.sum(1)
        if rev:
            y = mean + torch.einsum("bij,bj->bi", scale, x_or_z[0])
            return (y,), -log_determinant
        z = torch.linalg.solve_triangular(scale, (x_or_z[0] - mean)[..., None], upper=False)[..., 0]
        return (z,), log_determinant

    def output_dims(self, input_dims: Any) -> Any:
        return input_dims


def make_flow(n_labels: int, n_features: int, sizes: Architecture, seed: int = 0) -> ff.SequenceINN:
    """The flow from network labels ``(n, n_labels)`` to latent variables, conditional on features."""

    activation = _ACTIVATIONS[sizes.flow_activation or sizes.activation]

    def subnet(n_in: int, n_out: int) -> nn.Module:
        layers: list[nn.Module] = []
        for _ in range(sizes.depth):
            layers += [nn.Linear(n_in, sizes.width), activation()]
            n_in = sizes.width
        last = nn.Linear(n_in, n_out)
        nn.init.normal_(last.weight, std=1e-3)
        nn.init.zeros_(last.bias)
        return nn.Sequential(*layers, last)

    flow = ff.SequenceINN(n_labels)
    condition = {"cond": 0, "cond_shape": (n_features,)}
    if sizes.gaussian:
        flow.append(AmortisedGaussian, **condition)
    for block in range(sizes.blocks):
        flow.append(fm.PermuteRandom, seed=seed + block)
        flow.append(
            fm.GLOWCouplingBlock, subnet_constructor=subnet, clamp=CLAMP, clamp_activation="ATAN", **condition
        )
    return flow
