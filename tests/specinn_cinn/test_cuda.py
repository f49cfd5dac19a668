"""What a GPU does by other means must be what the processor does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from specinn_cinn.cuda import CapturedSampler, summaries
from specinn_cinn.estimator import CINN
from specinn_cinn.network import make_flow
from specinn_cinn.recipe import PRESETS
from specinn_cinn.sampler import Sampler

from specinn import models
from specinn.labels import LabelSet, make_label
from specinn.plugins import Plugins
from specinn.posterior import Posterior, Summary

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
LABELS = LabelSet(
    (make_label("teff", (4000.0, 7000.0)), make_label("fe_h", (-2.5, 0.5)), make_label("a_li", (-1.0, 4.0)))
)


def equal(one: Summary, other: Summary, rtol: float) -> None:
    assert one.labels == other.labels
    for name in ("map", "std", "quantiles", "rejected_fraction"):
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), rtol=rtol, atol=rtol, err_msg=name
        )


@pytest.mark.parametrize("n", [1, 2, 777])
def test_summaries_of_many_stars_are_those_of_each(n: int) -> None:
    rng = np.random.default_rng(n)
    centre = np.array([[5000.0, 0.0, 2.0], [6900.0, 0.4, 3.0], [9000.0, 0.0, 0.0], [4500.0, -2.0, 1.0]])
    samples = (centre[:, None] + rng.normal(size=(4, n, 3)) * [100.0, 0.2, 1.0]).astype(np.float32)
    density = rng.normal(size=(4, n)).astype(np.float32)
    if n > 1:
        samples[3, 0], density[0, n - 1] = np.nan, np.nan
    expected = Posterior(LABELS, samples, density).summary()
    assert n < 777 or np.isfinite(expected.map).any(axis=1).tolist() == [True, True, False, True]
    assert np.isnan(expected.map[2]).all()  # no sample of a star beyond the bounds is accepted
    result = summaries(LABELS, torch.as_tensor(samples).transpose(1, 2), torch.as_tensor(density))
    equal(result, expected, 1e-6)


@needs_gpu
@pytest.mark.parametrize("name", PRESETS)
def test_a_captured_sampler_is_the_sampler(name: str) -> None:
    sizes = PRESETS[name]
    flow = make_flow(13, sizes.features[-1], sizes).requires_grad_(False).eval().cuda()
    z, condition = torch.randn(2, 5, 13, 600).cuda(), torch.randn(2, 5, sizes.features[-1]).cuda()
    sampler = Sampler(flow)
    captured = CapturedSampler(sampler, z[0], sizes.features[-1])
    for one, context in zip(z, condition, strict=True):
        y, jacobian = (result.clone() for result in captured(one, context))
        expected, other = sampler(one, sampler.hoist(context), sampler.workspace())
        assert torch.allclose(y, expected, rtol=1e-4, atol=1e-5)
        assert torch.allclose(jacobian, other, rtol=1e-4, atol=1e-4)


@needs_gpu
def test_a_gpu_gives_the_posteriors_of_the_processor() -> None:
    from specinn.inference.run import example_files, file_sources, prepare

    plugins = Plugins()
    path = Path(models.find(plugins, "4most-hr").path)
    spectra = []
    for device in ("cpu", "cuda"):
        job = prepare(plugins, model=CINN.load(path, device), samples=4096)
        spectra.append(job.catalogue(file_sources(example_files(), plugins)))
    one, other = spectra
    for label in ("teff", "logg", "fe_h", "mg_fe"):
        width = one[f"{label}_p84"] - one[f"{label}_p16"]
        assert (abs(one[f"{label}_median"] - other[f"{label}_median"]) < 0.1 * width).all()
