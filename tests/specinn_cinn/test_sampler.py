"""Our sampler against FrEIA: the same weights and latent draws must give the same samples and densities."""

from __future__ import annotations

import attrs
import pytest
import torch
from specinn_cinn.network import make_flow
from specinn_cinn.recipe import PRESETS, Architecture
from specinn_cinn.sampler import Sampler

N_LABELS = 13


def flow_of(sizes: Architecture) -> torch.nn.Module:
    """A flow as after training: every weight away from its initial value."""
    torch.manual_seed(1)
    flow = make_flow(N_LABELS, sizes.features[-1], sizes)
    for weight in flow.parameters():
        if weight.is_floating_point():
            weight.data += 0.3 * torch.randn_like(weight) / max(weight.shape[-1], 16) ** 0.5
    return flow.requires_grad_(False).eval()


SIZES = {
    **PRESETS,
    "no Gaussian, SiLU": attrs.evolve(PRESETS["default"], gaussian=False, activation="silu"),
    "Gaussian alone": attrs.evolve(PRESETS["default"], blocks=0),
    "one layer": attrs.evolve(PRESETS["default"], depth=1, width=7, blocks=3),
    "wide, SiLU": attrs.evolve(PRESETS["default"], depth=2, width=256, blocks=2, activation="silu"),
    "no layer": attrs.evolve(PRESETS["default"], depth=0, blocks=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_the_sampler_is_the_flow_run_backwards(name: str) -> None:
    sizes = SIZES[name]
    flow = flow_of(sizes)
    n = 700  # no whole number of tiles
    z, condition = torch.randn(3, N_LABELS, n), torch.randn(3, sizes.features[-1])
    sampler = Sampler(flow)
    sampler.tile = 256
    y, log_determinant = sampler(z, sampler.hoist(condition), sampler.workspace())
    for star in range(3):
        every = condition[star].expand(n, -1)
        expected, jacobian = flow(z[star].T.contiguous(), c=[every], rev=True)
        scale = expected.abs().clamp(min=1.0)
        assert ((y[star].T - expected).abs() / scale).max() < 1e-4
        assert ((log_determinant[star] - jacobian).abs() / jacobian.abs().clamp(min=1.0)).max() < 1e-4


def test_memory_is_used_again_without_harm() -> None:
    flow = flow_of(PRESETS["default"])
    sampler = Sampler(flow)
    z, condition = torch.randn(2, 1, N_LABELS, 50), torch.randn(1, PRESETS["default"].features[-1])
    hoisted, work = sampler.hoist(condition), sampler.workspace()
    fresh = [sampler(one, hoisted, sampler.workspace())[0].clone() for one in z]
    again = [sampler(one, hoisted, work)[0].clone() for one in (z[0], z[1], z[0])]
    assert torch.equal(again[0], fresh[0]) and torch.equal(again[1], fresh[1])
    assert torch.equal(again[2], fresh[0])
    before = z.clone()
    sampler(z[0], hoisted, work)
    assert torch.equal(z, before)


def test_a_layer_that_is_not_known_is_named() -> None:
    import FrEIA.framework as ff
    import FrEIA.modules as fm

    flow = ff.SequenceINN(4)
    flow.append(fm.ActNorm)
    with pytest.raises(TypeError, match="ActNorm"):
        Sampler(flow)
