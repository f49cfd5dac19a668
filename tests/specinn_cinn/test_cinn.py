"""The cINN: encoding, flow, training with exact resume, files, and docs/training.md."""

from __future__ import annotations

import copy
import json
import pickle
import re
import tomllib
from pathlib import Path

import attrs
import numpy as np
import pytest
import tiny_grid
import torch
from specinn_cinn.encoding import COVERAGE_BLOCKS, Encoding
from specinn_cinn.estimator import CINN
from specinn_cinn.network import AmortisedGaussian, Features, make_flow
from specinn_cinn.physics_errors import MeasuredErrors, PhysicsErrors
from specinn_cinn.projection import _ridge, principal_components
from specinn_cinn.recipe import FORMER, PRESETS, Architecture, Config, PhysicsError
from specinn_cinn.setup import _settings, prepare, usable_pixels, validation_set
from specinn_cinn.training import _header, build, fit, loss_terms, train
from specinn_emulator.training import Config as EmulatorConfig
from specinn_emulator.training import train as train_emulator
from typer.testing import CliRunner

from specinn.errors import ConfigError, GridError, ModelError, PluginError
from specinn.posterior import QUANTILES
from specinn.simulation.observer import STEP_KMS
from specinn.spectra import SpectrumBatch
from specinn.testing import check_estimator, check_invertible, check_log_density
from specinn.weights import load_weights, save_weights

LABELS = ["teff", "logg", "fe_h", "vbroad", "vmic", "mg_fe", "a_li"]
FILTERS = {"spectra": 640, "rate": 1.0}  # few pixels, in which full steps do no harm
SIZES = {
    "default": {"projection": 16, "features": [32, 16], "blocks": 2, "width": 12},
    "paper": {"features": [48, 16], "blocks": 3, "depth": 2, "width": 12},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A grid, its emulator, and the plugins that training looks up."""
    folder = tmp_path_factory.mktemp("cinn")
    tiny_grid.make_grid(300).save(folder / "grid.h5")
    network = {"components": 30, "width": 32, "depth": 2, "members": 1}
    config = {"grid": [str(folder / "grid.h5")], "network": network}
    train_emulator({**config, "training": {"epochs": 40, "learning_rate": 5e-3}}, folder / "e").save(
        folder / "emulator.safetensors"
    )
    return folder


@pytest.fixture(scope="module")
def plugins(folder):
    return tiny_grid.plugins(folder)


@pytest.fixture
def recipe(folder):
    def make(preset="default", **changes):
        schedule = {"steps": 36, "batch": 64, "repeats": 2, "validate_every": 12, "learning_rate": 4e-3}
        base = {
            "name": "tiny-model",
            "instrument": "tiny",
            "arms": ["green", "red"],
            "grid": [str(folder / "grid.h5")],
            "emulator": str(folder / "emulator.safetensors"),
            "labels": LABELS,
            "preset": preset,
            "architecture": SIZES[preset],
            "filters": FILTERS,
            "ood": {"signs": 0},
            "schedule": {**schedule, **changes.pop("schedule", {})},
        }
        return {**base, **changes}

    return make


@pytest.fixture(scope="module")
def trained(folder, plugins):
    """Models of both presets with the setup that they were trained with, and the batches to try them on."""
    out = {}
    for preset in PRESETS:
        schedule = {"steps": 36, "batch": 64, "repeats": 2, "validate_every": 12, "learning_rate": 4e-3}
        config = {"name": f"tiny-{preset}", "instrument": "tiny", "arms": ["green", "red"], "labels": LABELS,
                  "grid": [str(folder / "grid.h5")], "emulator": str(folder / "emulator.safetensors"),
                  "preset": preset, "architecture": SIZES[preset], "schedule": schedule,
                  "filters": FILTERS}  # fmt: skip
        setup = prepare(config, plugins)
        out[preset] = setup, fit(setup, fresh(setup), folder / preset, lambda state: None)
    return out


_UNTRAINED: dict[int, CINN] = {}


def fresh(setup):
    """A copy of the untrained model of a setup: principal components take time, so once must do."""
    if id(setup) not in _UNTRAINED:
        _UNTRAINED[id(setup)] = build(setup)
    return copy.deepcopy(_UNTRAINED[id(setup)])


@pytest.fixture(scope="module")
def setup(trained):
    return trained["default"][0]


@pytest.fixture(scope="module")
def model(trained):
    return trained["default"][1]


def observed(setup, n=6, seed=5):
    """A preprocessed batch: simulated spectra with gaps, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    flux, sigma, mask, synthetic, labels = setup.simulator(n, 1, generator)
    arrays = (v.double().numpy() for v in (flux, sigma))
    batch = SpectrumBatch(setup.instrument.wavelength, *arrays, mask.numpy(), arms=setup.instrument.slices,
                          resolving_power=20_000.0, meta=rows(n))  # fmt: skip
    batch.meta["synthetic"] = synthetic.numpy()
    return batch, labels.numpy()


def rows(n):
    from astropy.table import Table

    return Table({"id": [str(i) for i in range(n)], "path": ["x"] * n, "key": np.arange(n) + 3})


# Encoding ----------------------------------------------------------------------------------------

ARMS = {"green": slice(0, 200), "red": slice(200, 360)}


def encoding():
    pixels = torch.as_tensor(np.r_[10:190, 210:260, 280:350])
    mean = torch.linspace(0.5, 1.0, 360)
    return Encoding(pixels, mean[pixels], 0.1, torch.full((360,), 0.25), ARMS)


def spectra(n=3):
    generator = torch.Generator().manual_seed(0)
    flux = 1.0 - 0.5 * torch.rand(n, 360, generator=generator)
    return flux, torch.full((n, 360), 0.02), torch.zeros(n, 360, dtype=torch.bool)


def test_flux_is_standardised_and_limited():
    flux, sigma, mask = spectra()
    flux[0, 20] = 1e6
    x, context, snr = encoding()(flux, sigma, mask)
    used = encoding().pixels
    assert x.shape == (3, 300) and context.shape == (3, 2 * (1 + COVERAGE_BLOCKS) + 1) and snr.shape == (3, 2)
    expected = (flux - torch.linspace(0.5, 1.0, 360))[:, used] / 0.1
    assert torch.allclose(x, expected.clamp(-20, 20)) and float(x[0, 10]) == 20.0
    assert context.shape[1] == encoding().n_context


def test_snr_per_angstrom_of_each_arm():
    flux, sigma, mask = spectra()
    sigma[1, ARMS["red"]] = 0.002
    mask[2, ARMS["red"]] = True
    sigma[2, ARMS["red"]] = torch.inf
    _, context, snr = encoding()(flux, sigma, mask)
    assert snr.flatten().tolist() == pytest.approx([100, 100, 100, 1000, 100, 0])
    assert context[:, :2].flatten().tolist() == pytest.approx([0, 0, 0, 1 / 0.6, 0, -2.5], abs=1e-5)


def test_snr_beyond_the_training_counts_as_its_end():
    flux, sigma, mask = spectra()
    for value, expected in ((2e-5, 1000.0), (20.0, 10.0)):
        context = encoding()(flux, torch.full_like(sigma, value), mask)[1]
        assert context[0, 0] == pytest.approx((np.log10(expected) - 2) / 0.6, abs=1e-5)


def test_lost_pixels_change_no_other_pixel():
    flux, sigma, mask = spectra()
    before, context, _ = encoding()(flux, sigma, mask)
    mask[:, 50:90] = True
    flux[:, 50:90], sigma[:, 50:90] = torch.nan, torch.inf
    after, now, _ = encoding()(flux, sigma, mask)
    lost = torch.isin(encoding().pixels, torch.arange(50, 90))
    assert torch.equal(after[:, ~lost], before[:, ~lost]) and not after[:, lost].any()
    assert torch.isfinite(now).all()
    share = now[0, 2:-1].view(2, COVERAGE_BLOCKS)
    assert not context[0, 2:].any() and not share[1].any()
    assert float(share[0].sum()) * 180 / COVERAGE_BLOCKS == pytest.approx(40, abs=1.5)
    assert (share[0] > 0).sum() <= 7 and float(share.max()) == 1.0


def test_the_network_is_told_which_spectra_are_synthetic():
    first, usual, _ = encoding()(*spectra())
    again, with_flags, _ = encoding()(*spectra(), torch.tensor([False, True, False]))
    assert torch.equal(first, again) and torch.equal(usual[:, :-1], with_flags[:, :-1])
    assert not usual[:, -1].any() and with_flags[:, -1].tolist() == [0.0, 1.0, 0.0]


def test_an_arm_without_used_pixels_is_one_without_signal():
    pixels = torch.arange(10, 190)
    lone = Encoding(pixels, torch.ones(180), 0.1, torch.full((360,), 0.25), ARMS)
    x, context, snr = lone(*spectra())
    assert x.shape == (3, 180) and (snr[:, 1] == 0).all() and torch.isfinite(context).all()


# Networks and flow -------------------------------------------------------------------------------


def gaussian(n=5, features=7, seed=0):
    torch.manual_seed(seed)
    layer = AmortisedGaussian([(n,)], [(features,)]).double()
    torch.nn.init.normal_(layer.head.weight, std=0.4)
    torch.nn.init.normal_(layer.head.bias, std=0.4)
    return layer, torch.randn(4, n).double(), torch.randn(4, features).double()


def test_amortised_gaussian_is_invertible():
    layer, y, c = gaussian()
    (z,), forward = layer([y], c=[c])
    (back,), backward = layer([z], c=[c], rev=True)
    assert torch.allclose(back, y, atol=1e-10) and torch.allclose(forward, -backward)
    check_invertible(lambda v: layer([v], c=[c])[0][0], lambda v: layer([v], c=[c], rev=True)[0][0], y, 1e-9)


@pytest.mark.parametrize("rev", [False, True])
def test_amortised_gaussian_has_the_determinant_of_autograd(rev):
    layer, y, c = gaussian()
    result = layer([y], c=[c], rev=rev)[1].detach()
    for i in range(len(y)):
        one = c[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda v, one=one: layer([v[None]], c=[one], rev=rev)[0][0][0], y[i]
        )
        assert float(result[i]) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), abs=1e-9)


@pytest.mark.slow
def test_amortised_gaussian_is_a_gaussian():
    layer, y, c = gaussian(n=3)
    mean, scale, _ = layer.mean_and_scale(c)
    (z,), log_determinant = layer([y[:, :3]], c=[c])
    density = -0.5 * z.square().sum(1) - 1.5 * np.log(2 * np.pi) + log_determinant
    normal = torch.distributions.MultivariateNormal(mean, scale_tril=scale)
    assert torch.allclose(density, normal.log_prob(y[:, :3]))
    wild = layer.mean_and_scale(1e6 * c)[2]
    assert wild.abs().max() <= 6.0  # no scale over- or underflows


@pytest.mark.parametrize("sizes", [attrs.evolve(p, blocks=3, width=16) for p in PRESETS.values()])
def test_the_flow_is_invertible_and_has_the_density_of_its_jacobian(sizes):
    torch.manual_seed(1)
    flow = make_flow(4, 6, sizes).double()
    for parameter in flow.parameters():
        if parameter.dtype.is_floating_point and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    condition = torch.randn(1, 6).double()

    def to_latent(y, jacobian=False):
        y = torch.as_tensor(y)
        z, log_determinant = flow(y, c=[condition.expand(len(y), -1)])
        return log_determinant if jacobian else z.detach()

    def log_prob(y):
        z = to_latent(y)
        return (-0.5 * z.square().sum(1) - 2 * np.log(2 * np.pi) + to_latent(y, True)).detach()

    y = torch.randn(6, 4).double()
    check_log_density(to_latent, log_prob, y.numpy(), step=1e-4, atol=1e-5)
    inverse = lambda z: flow(z, c=[condition.expand(len(z), -1)], rev=True)[0].detach()  # noqa: E731
    check_invertible(to_latent, inverse, y, 1e-8)


def test_permutations_are_fixed_by_the_seed():
    def order(seed):
        torch.manual_seed(0)
        state = make_flow(8, 4, Architecture(blocks=3), seed).state_dict()
        return [value.tolist() for key, value in state.items() if key.endswith("perm")]

    assert len(order(0)) == 3 and order(0) == order(0) != order(1)
    assert all(sorted(permutation) == list(range(8)) for permutation in order(0))


def test_the_paper_preset_has_the_sizes_of_the_paper():
    paper = PRESETS["paper"]
    assert paper.features == (2048, 1024, 512, 256) and (paper.blocks, paper.depth, paper.width) == (
        8,
        3,
        512,
    )
    features = Features(100, 4, attrs.evolve(paper, features=(20, 10)))
    assert features.projection is None
    kinds = [type(layer).__name__ for layer in features.layers]
    assert kinds == ["Linear", "ReLU", "Linear"]


# Training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 25), (25, 40)])
def test_principal_components_of_many_and_of_few_spectra(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, 1, shape[1])
    x = x - x.mean(0)
    expected = np.linalg.svd(x.double().numpy())[2][:6]
    products = principal_components(x, 6).double().numpy() @ expected.T
    assert np.abs(products) == pytest.approx(np.eye(6), abs=1e-4)  # but for their signs


@pytest.mark.parametrize("shape", [(300, 20), (40, 60)])
def test_the_ridge_regression_is_that_of_the_textbook(shape):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator) + 2.0
    y = x[:, :3] @ torch.randn(3, 2, generator=generator) + 0.1 * torch.randn(
        shape[0], 2, generator=generator
    )
    weight, bias = _ridge(x, y)
    own, of_labels = (x - x.mean(0)).double().numpy(), (y - y.mean(0)).double().numpy()
    penalty = 0.15 * (own**2).sum() / len(own) * np.eye(shape[1])
    expected = np.linalg.solve(own.T @ own + penalty, own.T @ of_labels).T
    assert weight.numpy() == pytest.approx(expected, abs=1e-4)
    assert (x @ weight.T + bias).mean(0).numpy() == pytest.approx(y.mean(0).numpy(), abs=1e-4)


@pytest.mark.slow
def test_the_projection_starts_with_estimates_of_labels(setup):
    """Of stars of its kind each filter knows its label, before any training."""
    network = fresh(setup)
    batch, labels = observed(setup, 256)
    flux, sigma = (torch.as_tensor(v, dtype=torch.float32) for v in (batch.flux, batch.sigma))
    with torch.no_grad():
        x, _, _ = network.encoding(flux, sigma, torch.as_tensor(batch.mask))
        estimates = network.features.projection(x)[:, : 2 * len(LABELS)].numpy()
    truth = (setup.labels.to_network(torch.as_tensor(labels)) - network.center) / network.spread
    for name in ("teff", "fe_h", "vmic"):
        k = LABELS.index(name)
        both = [np.corrcoef(estimates[:, k + kind * len(LABELS)], truth[:, k])[0, 1] for kind in (0, 1)]
        assert max(both) > 0.6, name


@pytest.mark.slow
def test_training_learns_something(setup, model):
    result = model.header["training"]
    untrained = fresh(setup)
    batches = [(*untrained.encoding(*s[:4])[:2], s[4]) for s in validation_set(setup, 2)]
    with torch.no_grad():
        before = torch.cat([loss_terms(untrained, *b, setup.config.schedule)[0] for b in batches]).mean()
    assert result["validation_loss"] < float(before) - 1.0
    assert 0 < result["best_step"] <= 36 and result["pixels_used"] == int(setup.used.sum())


@pytest.mark.slow
def test_what_the_batch_says_of_synthetic_spectra_reaches_the_network(model, setup):
    deaf = copy.deepcopy(model)
    with torch.no_grad():
        deaf.features.layers[0].weight[:, -1] = 0.0
        model = copy.deepcopy(deaf)
        model.features.layers[0].weight[:, -1] = 1.0
    batch, labels = observed(setup, 4)

    def density(model, synthetic):
        batch.meta["synthetic"] = synthetic
        return model.log_prob(batch, labels[:, None])[:, 0]

    none, some = density(model, [False] * 4), density(model, [True, False, True, False])
    assert ((none != some) == [True, False, True, False]).all()
    assert np.array_equal(density(deaf, [True] * 4), density(deaf, [False] * 4))
    batch.meta.remove_column("synthetic")
    assert np.array_equal(model.log_prob(batch, labels[:, None])[:, 0], none)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_gradients_reach_every_weight(trained, preset):
    setup, _ = trained[preset]
    untrained = fresh(setup)
    for parameter in untrained.flow.parameters():  # the last layers start almost at nothing
        if parameter.dtype.is_floating_point and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    *spectra, labels = setup.simulator(32, 1, torch.Generator().manual_seed(0))
    x, context, _ = untrained.encoding(*spectra)
    for schedule in (setup.config.schedule, attrs.evolve(setup.config.schedule, backward=1.0, jitter=0.1)):
        untrained.features.zero_grad()
        untrained.flow.zero_grad()
        nll, backward = loss_terms(untrained, x, context, labels, schedule, torch.Generator().manual_seed(0))
        (nll.mean() + schedule.backward * backward).backward()
        for module in (untrained.features, untrained.flow):
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.slow
def test_the_backward_loss_is_the_distance_of_what_comes_back(setup, model):
    *spectra, labels = setup.simulator(8, 1, torch.Generator().manual_seed(0))
    x, context, _ = model.encoding(*spectra)

    def backward(**changes):
        schedule = attrs.evolve(setup.config.schedule, **changes)
        return float(loss_terms(model, x, context, labels, schedule, torch.Generator().manual_seed(0))[1])

    assert backward(backward=0.0) == 0.0
    assert 0 <= backward(backward=1.0, jitter=0.0) < 1e-6
    small, large = (backward(backward=1.0, jitter=jitter) for jitter in (0.01, 0.02))
    assert large / small == pytest.approx(4.0, rel=0.2)


class Stop(Exception):
    """An interruption."""


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_training_goes_on_exactly_where_it_was_interrupted(trained, preset, tmp_path):
    setup, undisturbed = trained[preset]

    def stop(state):
        if state["step"] == 30:  # the last checkpoint is of step 24
            raise Stop

    with pytest.raises(Stop):
        fit(setup, fresh(setup), tmp_path, stop)
    assert [p.name for p in tmp_path.iterdir()] == ["cinn-checkpoint.safetensors"]
    seen = []
    again = build(setup, filters=False)  # as another process would
    workers = attrs.evolve(setup.config.schedule, workers=3)  # which change nothing
    same = attrs.evolve(setup, config=attrs.evolve(setup.config, schedule=workers))
    resumed = fit(same, again, tmp_path, seen.append)
    assert [s["step"] for s in seen] == list(range(25, 37))
    for network, other in ((resumed.features, undisturbed.features), (resumed.flow, undisturbed.flow)):
        for name, value in network.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
    assert resumed.header["training"]["validation_loss"] == undisturbed.header["training"]["validation_loss"]
    finished = fit(setup, fresh(setup), tmp_path, seen.append)
    assert len(seen) == 12
    assert all(torch.equal(v, resumed.flow.state_dict()[k]) for k, v in finished.flow.state_dict().items())


@pytest.mark.slow
def test_the_checkpoint_of_another_configuration_is_an_error(trained, recipe, plugins, tmp_path):
    setup = prepare(recipe("paper", schedule={"steps": 1}), plugins)
    fit(setup, build(setup), tmp_path, lambda state: None)
    other = prepare(recipe("paper", schedule={"steps": 2}), plugins)
    with pytest.raises(ConfigError, match="another configuration"):
        fit(other, build(other), tmp_path, lambda state: None)


@pytest.mark.slow
def test_training_stops_early_and_keeps_the_best(recipe, plugins, tmp_path):
    plan = {"steps": 200, "validate_every": 2, "patience": 3, "learning_rate": 0.0}
    setup = prepare(recipe("paper", schedule=plan), plugins)
    seen = []
    model = fit(setup, build(setup), tmp_path, seen.append)
    validations = [s["validation"] for s in seen if "validation" in s]
    assert len(seen) == 8 and len(validations) == 4  # the first counts as a gain, three do not
    assert model.header["training"]["best_step"] == 2
    assert model.header["training"]["validation_loss"] == min(validations)


@pytest.mark.slow
def test_a_learning_rate_that_explodes_is_an_error(recipe, plugins, tmp_path):
    setup = prepare(recipe("paper", schedule={"learning_rate": 1e30}), plugins)
    with pytest.raises(ConfigError, match=r"not finite at step \d+: lower \$\.schedule\.learning_rate"):
        fit(setup, build(setup), tmp_path, lambda state: None)


@pytest.mark.slow
def test_training_does_not_change_its_random_numbers_with_the_global_state(trained, setup):
    first = setup.simulator(4, 2, torch.Generator().manual_seed(0))
    torch.manual_seed(77)
    again = setup.simulator(4, 2, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    synthetic, labels = first[3:]
    assert torch.equal(synthetic[0::2], synthetic[1::2])
    assert torch.equal(labels[0::2], labels[1::2]) and not torch.equal(first[0][0], first[0][1])


@pytest.mark.slow
def test_training_may_start_from_a_trained_model(trained, recipe, plugins, tmp_path, monkeypatch):
    monkeypatch.setattr("specinn_cinn.setup.Plugins", lambda: plugins)
    _, model = trained["paper"]
    model.save(tmp_path / "first.safetensors")
    plan = {"steps": 1, "learning_rate": 0.0}
    config = recipe("paper", start=str(tmp_path / "first.safetensors"), schedule=plan)
    result = train(config, tmp_path / "same")
    for network, other in ((result.features, model.features), (result.flow, model.flow)):
        for name, value in network.state_dict().items():
            assert torch.allclose(value, other.state_dict()[name], rtol=1e-6), name
    assert torch.equal(result.center, model.center) and torch.equal(result.encoding.mean, model.encoding.mean)
    assert result.header["training"]["pixels_used"] == int(result.used_pixels.sum())
    (stage,) = result.header["training"]["stages"]
    assert (
        stage == json.loads(json.dumps(model.header["training"]))
        and result.header["training"]["schedule"]["steps"] == 1
    )
    with pytest.raises(ConfigError, match=r"\$\.start: .* differs in labels .*, architecture or arms"):
        train({**config, "labels": LABELS[:-1]}, tmp_path / "other")
    with pytest.raises(ModelError, match="no such model file"):
        train({**config, "start": "none.safetensors"}, tmp_path / "none")


PRIOR = """
[grid]
n = 10
[[prior]]
labels = ["fe_h"]
uniform = [-2.0, 0.4]
[[prior]]
labels = ["mg_fe"]
normal = [0.0, 0.001]
bounds = [-0.3, 0.3]
trend = { label = "fe_h", points = [[-1.0, 0.25], [0.4, 0.0]] }
[[prior]]
labels = ["teff"]
uniform = [5000, 6000]
[[prior]]
labels = ["logg"]
uniform = [2.1, 4.9]
[[prior]]
labels = ["vmic"]
uniform = [0.9, 1.9]
[[prior]]
labels = ["a_li"]
uniform = [0.1, 2.9]
[synthesizer]
kind = "turbospectrum"
"""


@pytest.mark.slow
def test_labels_may_be_drawn_from_the_prior_of_a_recipe(recipe, plugins, tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(PRIOR)
    setup = prepare(recipe(prior={"recipe": str(path)}, real_fraction=0.0), plugins)
    values, _ = setup.simulator.labels(4000, torch.Generator().manual_seed(0))
    of = dict(zip(tiny_grid.LABELS, values.T.numpy(), strict=True))
    assert 5000 < of["teff"].min() < 5020 and 5980 < of["teff"].max() < 6000  # narrower than the grid
    assert of["fe_h"].min() > -1.0  # where the emulator ends
    assert of["mg_fe"] == pytest.approx(0.25 * (0.4 - of["fe_h"]) / 1.4, abs=0.006)  # drawn jointly
    assert setup.labels["teff"].bounds[0] == pytest.approx(5000, abs=2)
    assert len(setup.simulator(4, 1, torch.Generator().manual_seed(0))[0]) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cut", "changes", "words"),
    [("", {"real_fraction": 0.1}, r"\$\.real_fraction is 0\.1: expected 0 with"),
     ('[[prior]]\nlabels = ["vmic"]\nuniform = [0.9, 1.9]\n', {}, "draws no vmic, which the grid has")],
)  # fmt: skip
def test_a_recipe_that_does_not_suit_the_grid_is_refused(recipe, plugins, tmp_path, cut, changes, words):
    path = tmp_path / "grid.toml"
    path.write_text(PRIOR.replace(cut, ""))
    with pytest.raises(ConfigError, match=words):
        prepare(recipe(prior={"recipe": str(path)}, **{"real_fraction": 0.0, **changes}), plugins)


@pytest.mark.slow
def test_departures_grow_as_metals_get_rare(setup):
    errors = setup.simulator.errors
    iron, teff = tiny_grid.LABELS.index("fe_h"), tiny_grid.LABELS.index("teff")
    poor = errors.values[errors.values[:, iron].argmin()].repeat(
        200, 1
    )  # one of those that departures are of
    fe_h = float(poor[0, iron])
    generator = torch.Generator().manual_seed(0)

    def change(values, **physics):
        errors.options = PhysicsError(**{"excitation": 0.0, "overionisation": 0.0, **physics})
        with torch.no_grad():
            flux = errors.emulate(values)
            return errors.departures(flux, values, generator), flux

    physics = errors.options
    try:
        weak, flux = change(poor, overionisation=0.08)
        assert weak.shape == flux.shape and fe_h < -0.7
        assert (weak >= 0).all() and float(weak.max()) > 0.005  # lines are weaker
        strength = weak.sum(1) / weak.sum(1).max()  # uniform from nothing to the most
        assert float(strength.min()) < 0.05 and float(strength.mean()) == pytest.approx(0.5, abs=0.08)
        cool, flux = change(poor, excitation=60.0)
        colder = poor.clone()
        colder[:, teff] -= 100.0
        with torch.no_grad():
            expected = errors.metallic * (errors.emulate(colder) - flux)
        share = (cool * expected).sum(1) / expected.square().sum(
            1
        )  # as in a star cooler by 0 to 120 K per dex
        # but where the tiny emulator has no line
        assert (cool - share[:, None] * expected).abs().max() < 0.05 * expected.abs().max()
        assert float(share.min()) < 0.05 and 0.85 < float(share.max()) / (-1.2 * fe_h) <= 1.01
        rich = poor.clone()
        rich[:, iron] = 0.2
        assert not change(rich, excitation=60.0, overionisation=0.08)[0].any()
        assert not change(poor)[0].any()
    finally:
        errors.options = physics


@pytest.mark.slow
def test_departures_stay_within_the_bounds_of_the_emulator(setup):
    errors = setup.simulator.errors
    corners = torch.stack([errors.low, errors.high, torch.lerp(errors.low, errors.high, 0.01)])

    def watched(values):
        assert bool(((values >= errors.low) & (values <= errors.high)).all())
        return errors.emulate(values)

    options = PhysicsError(excitation=60.0, overionisation=0.08)
    own = PhysicsErrors(options, errors.grid_names, corners, watched, errors.model_grid)
    change = own.departures(errors.emulate(corners), corners, torch.Generator().manual_seed(0))
    assert change.isfinite().all() and change.any()


@pytest.mark.slow
def test_wings_of_hydrogen_tell_another_temperature(setup):
    """The change is that of the star's spectrum per K times a normal draw, and only near the lines."""
    errors = setup.simulator.errors
    star = errors.values[:1].repeat(400, 1)
    colder = star[:1].clone()
    colder[:, tiny_grid.LABELS.index("teff")] -= 100.0
    wave = torch.as_tensor(setup.model_grid.wavelength)
    away = (wave - wave.median()).abs()
    own = attrs.evolve(errors, options=PhysicsError(balmer=100.0))
    own.metallic = 1.0 - torch.exp(-0.5 * (away / 5.0) ** 2).float()  # a line of hydrogen
    with torch.no_grad():
        flux = errors.emulate(star)
        assert not errors.wings(flux, star, torch.Generator().manual_seed(0)).any()
        change = own.wings(flux, star, torch.Generator().manual_seed(0))
        expected = (1.0 - own.metallic) * (errors.emulate(colder) - flux[:1])
    near = away < 5.0
    assert not change[:, away > 30.0].any()
    share = (change * expected)[:, near].sum(1) / expected[:, near].square().sum()
    assert (change - share[:, None] * expected)[:, near].abs().max() < 0.02 * change.abs().max()
    assert float(share.mean()) == pytest.approx(0.0, abs=0.2)
    assert float(share.std()) == pytest.approx(1.0, abs=0.15)


# Errors that look like other labels -----------------------------------------------------------------------


@pytest.fixture
def shifted(model):
    """The model, told that real stars differ by 1000 K together with 1 dex, and by 0.1 km/s in vmic."""
    training = {
        **model.header["training"],
        "physics": {"shifts": [{"teff": 1000.0, "fe_h": 1.0}, {"vmic": 0.1}]},
    }
    return attrs.evolve(model, header={**model.header, "training": training})


@pytest.mark.slow
def test_posteriors_of_real_stars_are_folded_with_shifts(model, shifted, setup):
    batch, _ = observed(setup)
    batch.meta["synthetic"] = np.arange(len(batch)) % 2 == 0
    own, wide = (each.sample(batch, 4000, 1) for each in (model, shifted))
    told = np.asarray(batch.meta["synthetic"])
    assert np.array_equal(own.samples[told], wide.samples[told])
    assert np.array_equal(own.log_prob[told], wide.log_prob[told])
    names = model.labels.names
    moved = [names.index(name) for name in ("teff", "fe_h")]
    others = [i for i, name in enumerate(names) if name not in ("teff", "fe_h", "vmic")]
    for star in np.flatnonzero(~told):
        y, z = (model.labels.to_network(each.samples[star].astype(float)) for each in (own, wide))
        middle = float(np.median(own.samples[star, :, names.index("teff")]))
        shift = np.array([1000.0 / middle / np.log(10.0), 1.0])
        expected = np.cov(y[:, moved].T) + np.outer(shift, shift)
        assert np.cov(z[:, moved].T) == pytest.approx(expected, rel=0.2)
        assert z.std(axis=0)[others] == pytest.approx(y.std(axis=0)[others], rel=0.1)
        assert np.abs(z.mean(axis=0) - y.mean(axis=0))[moved] == pytest.approx(0.0, abs=0.1)


@pytest.mark.slow
def test_shifted_estimator_keeps_the_contract(shifted, setup):
    """Density and Jacobian are those of the samples, and the file keeps the shifts."""
    batch, _ = observed(setup)
    batch.meta["synthetic"] = np.zeros(len(batch), bool)
    check_estimator(shifted, batch)


@pytest.mark.slow
def test_shifts_of_labels_that_the_model_lacks(model):
    header = {**model.header, "training": {"physics": {"shifts": [{"ba_fe": 0.1}]}}}
    with pytest.raises(ModelError, match="errors of the physics shift ba_fe, which the model does not infer"):
        attrs.evolve(model, header=header)


@pytest.mark.slow
def test_errors_wander_along_the_spectrum(setup):
    """Standard normal everywhere, alike within the coherence and independent beyond it and between arms."""
    errors = setup.simulator.errors
    field = errors._field(4000, 100.0, torch.Generator().manual_seed(5))
    assert field.shape == (4000, setup.model_grid.wavelength.size)
    assert (field.std(0) - 1.0).abs().max() < 0.06 and field.mean(0).abs().max() < 0.08
    first = next(iter(setup.model_grid.arms.values()))
    steps = round(100.0 / STEP_KMS)

    def alike(i, j):
        return float((field[:, i] * field[:, j]).mean())

    assert alike(first.start + 1, first.start + 3) > 0.9
    assert abs(alike(first.start, first.start + 3 * steps)) < 0.08
    assert abs(alike(first.stop - 1, first.stop)) < 0.08


@pytest.mark.slow
def test_errors_where_no_line_is_go_with_the_mean_depth(setup):
    """What a reference star shows outside the models' lines is weaker in a star whose lines are weaker."""
    errors, n = setup.simulator.errors, setup.model_grid.wavelength.size
    values = torch.tensor((tiny_grid.LOW + tiny_grid.HIGH)[None] / 2, dtype=torch.float32)
    flux = torch.full((1, n), 0.9)
    flux[:, ::4] = 0.5
    weak = 1.0 - 0.25 * (1.0 - flux)
    flux[:, 1], weak[:, 1] = 1.0, 1.0
    parameters = values[:, [setup.grid.labels.index(k) for k in ("teff", "logg", "fe_h")]]
    before = errors.measured, errors.options
    errors.measured = MeasuredErrors(torch.full((1, n), 0.01), flux, parameters, {})
    errors.options = PhysicsError(amplitude=0.0, line=0.0)
    try:
        strong, weaker = (
            errors._residual(star, values, torch.Generator().manual_seed(2)) for star in (flux, weak)
        )
    finally:
        errors.measured, errors.options = before
    ratio = weaker / strong
    assert float(ratio[0, 1]) == pytest.approx(0.25**1.5, rel=0.01)
    assert 0.23 < float(ratio[0, 4]) < 0.25  # in a line nearly as its depth


@pytest.mark.slow
def test_errors_of_lines_alike_stars_show_are_taken_off(setup):
    """The star itself gets its own residual; a kept window errs with the blend, not with its line."""
    n = setup.model_grid.wavelength.size
    errors = setup.simulator.errors
    names = setup.grid.labels
    values = torch.tensor((tiny_grid.LOW + tiny_grid.HIGH)[None] / 2, dtype=torch.float32).repeat(3, 1)
    with torch.no_grad():
        flux = errors.emulate(values)
    residual = torch.stack([torch.full((n,), 0.01), torch.full((n,), -0.02)])
    parameters = values[:1, [names.index(k) for k in ("teff", "logg", "fe_h")]].repeat(2, 1)
    parameters[1] += torch.tensor([3000.0, 2.0, 2.0])  # another kind of star
    kept = {"fe_h": torch.zeros(n, dtype=torch.bool)}
    exact = PhysicsError(
        amplitude=0.0,
        line=0.0,
        reach=(300.0, 0.5, 0.5),
        excitation=0.0,
        overionisation=0.0,
        synthetic=0.0,
    )
    before = errors.measured, errors.options
    errors.measured = MeasuredErrors(residual, flux[:2], parameters, kept)
    errors.options = exact
    try:
        with torch.no_grad():
            error = flux - errors.disturb(flux, values, torch.Generator().manual_seed(2))[0]
            share = error[:, :1] / 0.01
            assert torch.allclose(error, share.expand(-1, n) * 0.01, atol=1e-5)
            assert (share > 0.5).all() and (share < 1.5).all() and share.std() > 0
            line = int((1.0 - flux[0]).argmax())
            kept["fe_h"][line] = True
            blend = flux - errors.disturb(flux, values, torch.Generator().manual_seed(2))[0]
        assert (blend[:, line] < error[:, line]).all()  # without iron the line is shallow
        assert torch.equal(blend[:, ~kept["fe_h"]], error[:, ~kept["fe_h"]])
    finally:
        errors.measured, errors.options = before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schedule": {"step": 3}}, r"step.*\$\.schedule"),
        ({"schedule": {"steps": "many"}}, r"expected an integer, found 'many' @ \$\.schedule\.steps"),
        ({"disturbances": {"snr": [10.0]}}, r"\$\.disturbances\.snr"),
        ({"disturbances": {"tilt": "steep"}}, r"expected a number, found 'steep' @ \$\.disturbances\.tilt"),
        ({"prior": {"vbroad": [1.0, "x"]}}, r"expected a number, found 'x' @ \$\.prior\.vbroad"),
        ({"physics": {"amplitud": 1.0}}, r"amplitud.*\$\.physics"),
        ({"masking": {"keep": {"a_li": [1.0]}}}, r"\$\.masking\.keep"),
        ({"continuum": {"degree": None}}, r"\$\.continuum\.degree"),
        ({"reference_stars": [{"name": "Sun"}]}, r"\$\.reference_stars\[0\]"),
        ({"labels": "teff"}, r"expected a list, found 'teff' @ \$\.labels"),
        ({"preset": "papr"}, r"\$\.preset is 'papr'; did you mean 'paper'\?"),
        ({"architecture": {"widht": 3}}, r"widht.*\$\.architecture"),
        ({"architecture": {"width": "x"}}, r"expected an integer, found 'x' @ \$\.architecture\.width"),
        (
            {"architecture": {"activation": "tanh"}},
            r"found 'tanh'; there are .*relu.* @ \$\.architecture\.activation",
        ),
        ({"kind": "cinn"}, "kind"),
    ],
)
def test_wrong_keys_are_named_with_their_path(recipe, plugins, change, words):
    with pytest.raises(ConfigError, match=words):
        prepare({**recipe(), **change}, plugins)


@pytest.mark.parametrize(("former", "name"), FORMER.items())
def test_former_names_of_tables_work_and_say_so(recipe, former, name):
    table = [{"name": "Sun", "path": "sun.fits", "resolving_power": 80000.0, "labels": SUN}]
    value = table if name == "reference_stars" else {"signs": 0, "seed": 3}
    old = {key: each for key, each in recipe().items() if key != name} | {former: value}
    with pytest.warns(FutureWarning, match=f"the table {former} of the recipe is now called {name}"):
        settings = _settings(old)
    assert settings == _settings(recipe(**{name: value}))
    with pytest.raises(ConfigError, match=rf"\$\.{former} is now called \$\.{name}: give only that"):
        _settings({**old, name: value})


@pytest.mark.slow
def test_things_that_are_not_there_are_errors(recipe, plugins, tmp_path):
    with pytest.raises(PluginError, match="no instrument is called 'tinny'; did you mean 'tiny'"):
        prepare(recipe(instrument="tinny"), plugins)
    with pytest.raises(ConfigError, match="tiny has no arm 'blue'; it has green, red"):
        prepare(recipe(arms=["blue"]), plugins)
    with pytest.raises(GridError, match="no label 'ba_fe'"):
        prepare(recipe(labels=["teff", "ba_fe"]), plugins)
    with pytest.raises(GridError, match="no such file or folder"):
        prepare(recipe(grid=[str(tmp_path / "none")]), plugins)
    with pytest.raises(ModelError, match="no such model file"):
        prepare(recipe(emulator=str(tmp_path / "none")), plugins)


@pytest.mark.slow
def test_an_emulator_of_other_labels_is_an_error(recipe, plugins, tmp_path):
    grid = tiny_grid.make_grid(60)
    attrs.evolve(grid, labels=(*grid.labels[:-1], "li_fe")).save(tmp_path / "other.h5")
    with pytest.raises(ConfigError, match="trained on a grid with other labels: train it again"):
        prepare(recipe(grid=[str(tmp_path / "other.h5")]), plugins)


# Reference stars ---------------------------------------------------------------------------------

SUN = {"teff": 5500.0, "logg": 4.0, "fe_h": 0.0, "vmic": 1.2}


def write_star(path, values=None, offset=0.0):
    """A text spectrum of a tiny star, with one line that no model has."""
    values = np.array([[5500.0, 4.0, 0.0, 1.2, 0.0, 1.05]]) if values is None else values
    flux = tiny_grid.flux_of(values)[0].astype(float)
    flux -= 0.5 * np.exp(-0.5 * ((tiny_grid.WAVELENGTH - 5200.0) / 0.15) ** 2) * (offset > 0)
    gap = np.arange(5241.0, 6469.0, 0.5)  # one text file has one axis
    wave = np.concatenate([tiny_grid.WAVELENGTH[:1600], gap, tiny_grid.WAVELENGTH[1600:]])
    flux = np.concatenate([flux[:1600], np.full(gap.size, np.nan), flux[1600:]])
    noise = np.random.default_rng(0).normal(0, 1e-3, flux.size)
    good = np.isfinite(flux)
    np.savetxt(path, np.column_stack([wave, flux + noise, np.full(flux.size, 1e-3)])[good], fmt="%.4f")


@pytest.fixture(scope="module")
def known_star(folder):
    import specinn_instruments

    write_star(folder / "star.txt", offset=1.0)
    star = {"name": "Sun", "path": str(folder / "star.txt"), "resolving_power": 60_000.0, "labels": SUN}
    return star, tiny_grid.plugins(folder, readers=specinn_instruments)


@pytest.mark.slow
def test_residuals_of_a_reference_star_mask_what_models_do_not_have(recipe, known_star):
    star, plugins = known_star
    setup = prepare(recipe(reference_stars=[star]), plugins)
    (residual,) = setup.residuals
    assert residual.name == "Sun" and abs(residual.velocity) < 0.5 and residual.vbroad < 6
    wave = setup.model_grid.wavelength
    at = np.abs(wave - 5200.0) < 0.15
    assert np.nanmedian(residual.residual[at]) > 0.1
    assert np.nanmedian(np.abs(residual.residual)) < 0.01
    masked = setup.instrument.wavelength[~setup.used & setup_inside(setup)]
    assert masked.size and (np.abs(masked - 5200.0) < 1.0).mean() > 0.3
    kept = prepare(recipe(reference_stars=[star], masking={"keep": {"mg_fe": [5195.0, 5205.0]}}), plugins)
    assert kept.used.sum() > setup.used.sum()
    header = _header(setup)["training"]["reference_stars"]
    assert header[0]["name"] == "Sun" and header[0]["rms"] > 0


@pytest.mark.slow
def test_lines_that_no_star_has_are_masked_with_their_wings(recipe, known_star):
    star, plugins = known_star
    setup = prepare(recipe(reference_stars=[star]), plugins)
    wave, model_wave = setup.instrument.wavelength, setup.model_grid.wavelength

    def lost(depth, **options):
        residual = np.where(np.abs(model_wave - 5200.0) < 0.2, depth, 0.0)
        fake = attrs.evolve(setup.residuals[0], residual=residual)
        inside = setup_inside(setup)
        masking = attrs.evolve(setup.config.masking, **options)
        return inside & ~usable_pixels(setup.instrument, inside, setup.model_grid, [fake], masking)

    reach = 30.0 / 299792.458 * 5200.0
    near = np.abs(wave - 5200.0)
    only_synthetic = lost(-0.5)
    assert only_synthetic[near < reach].all() and not only_synthetic[near > reach + 0.25].any()
    missing_from_the_list = lost(0.5)  # a line of the star: its wings are known to nobody, and stay
    assert 0 < missing_from_the_list.sum() < only_synthetic.sum() / 2
    assert lost(-0.1).sum() == lost(0.1).sum() > 0  # too deep by less than is wrong
    assert not lost(-0.5, keep={"fe_h": (5190.0, 5210.0)}).any()


def setup_inside(setup):
    return np.concatenate([arm.contains(arm.wavelength) for arm in setup.instrument.arms])


@pytest.mark.slow
def test_reference_stars_disturb_the_simulation(recipe, known_star, setup):
    star, plugins = known_star
    with_star = prepare(recipe(reference_stars=[star]), plugins)
    flux, values, _ = setup.simulator.noiseless(20, torch.Generator().manual_seed(0))
    wave = setup.model_grid.wavelength
    at, away = np.abs(wave - 5200.0) < 0.2, np.abs(wave - 5200.0) > 5
    disturbed, synthetic = with_star.simulator.errors.disturb(flux, values, torch.Generator().manual_seed(1))
    difference = (disturbed - flux).numpy()
    assert difference[:, at].std() > 3 * difference[:, away].std() > 0
    assert np.array_equal((difference == 0).all(axis=1), synthetic.numpy())
    assert 0 < synthetic.sum() < 14  # 30 % of them
    errors = setup.simulator.errors
    without = attrs.evolve(errors.options, excitation=0.0, overionisation=0.0)
    errors.options, before = without, errors.options
    try:
        assert torch.equal(errors.disturb(flux, values, torch.Generator().manual_seed(1))[0], flux)
    finally:
        errors.options = before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": "none.txt"}, "reference star Sun: none.txt is not a file"),
        ({"labels": {**SUN, "xx_fe": 0.0}}, "reference star Sun: the grid has no label xx_fe"),
        ({"labels": {"teff": 5500.0, "fe_h": 0.0}}, r"reference star Sun: \$\.labels lacks logg, vmic"),
    ],
)
def test_wrong_reference_stars_are_named(recipe, known_star, change, words):
    star, plugins = known_star
    with pytest.raises(ConfigError, match=words):
        prepare(recipe(reference_stars=[{**star, **change}]), plugins)


# Sampling ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_it_keeps_the_contract_of_estimators(trained, preset):
    setup, model = trained[preset]
    batch, _ = observed(setup)
    check_estimator(model, batch, n_samples=200)


@pytest.mark.slow
def test_samples_hang_on_spectrum_row_and_seed(setup, model):
    batch, _ = observed(setup, n=20)  # more stars than pass the flow at once
    whole = model.sample(batch, 50, seed=1)
    part = model.sample(batch[[17, 2]], 50, seed=1)
    assert part.samples == pytest.approx(whole.samples[[17, 2]], rel=1e-3, abs=1e-3)
    moved = attrs.evolve(batch[2], meta=rows(1))
    other = model.sample(moved, 50, seed=1)
    assert not np.allclose(other.samples[0], whole.samples[2], rtol=1e-4)
    assert not np.array_equal(model.sample(batch[2], 50, seed=2).samples, whole.samples[2:3])


@pytest.mark.slow
def test_the_map_of_many_samples_is_not_left_to_luck(setup, model):
    """One of them is at the centre of the latent space, where the density is as high as any draw's."""
    assert not model.latent(3, 5, 256)[:, -1].any()
    assert model.latent(3, 5, 256)[:, :-1].all() and model.latent(3, 5, 255).all()
    batch, _ = observed(setup)
    posterior = model.sample(batch, 1000, seed=3)
    best = np.where(posterior.inside, posterior.log_prob, -np.inf)
    higher = (best >= best[:, -1:]).sum(axis=1)[posterior.inside[:, -1]]
    assert higher.size and (higher < 60).all()


@pytest.mark.slow
def test_samples_have_the_density_and_the_latent_that_the_flow_gives_them(setup, model):
    batch, _ = observed(setup)
    result = model.sample(batch, 64, seed=3)
    values = result.samples.astype(float)
    assert model.log_prob(batch, values) == pytest.approx(result.log_prob, abs=0.05)
    z = np.stack([model.latent(3, int(key), 64).T.numpy() for key in batch.meta["key"]])
    assert model.to_latent(batch, values) == pytest.approx(z, abs=0.02)


@pytest.mark.slow
def test_the_summary_is_that_of_the_samples(setup, model):
    batch, _ = observed(setup)
    summary, samples = model.summarise(batch, 200, seed=3), model.sample(batch, 200, seed=3)
    expected = samples.summary()
    for name in ("map", "std", "quantiles", "rejected_fraction"):
        assert np.array_equal(getattr(summary, name), getattr(expected, name), equal_nan=True), name
    n = len(model.labels)
    assert expected.map[:, :n] == pytest.approx(samples.map, nan_ok=True)
    assert expected.std[:, :n] == pytest.approx(samples.std, nan_ok=True)
    levels = list(QUANTILES.values())
    assert expected.quantiles[..., :n] == pytest.approx(samples.quantiles(levels), rel=1e-6, nan_ok=True)


@pytest.mark.slow
def test_density_integrates_to_one_in_label_space(setup, model):
    """Importance sampling with a wide normal around the samples, in the variables of the network."""
    batch, _ = observed(setup, n=1)
    y = model.labels.to_network(model.sample(batch, 2000, seed=0).samples[0].astype(float))
    normal = torch.distributions.MultivariateNormal(torch.tensor(y.mean(0)), torch.tensor(1.5 * np.cov(y.T)))
    torch.manual_seed(0)
    drawn = normal.sample((20_000,))
    result = model.log_prob(batch, model.labels.from_network(drawn.numpy())[None])[0]
    weight = np.exp(result - normal.log_prob(drawn).numpy())
    assert weight.mean() == pytest.approx(1.0, abs=6 * weight.std() / np.sqrt(len(weight)))
    assert weight.std() / np.sqrt(len(weight)) < 0.1


@pytest.mark.slow
def test_what_masked_pixels_hold_is_never_seen(setup, model):
    batch, _ = observed(setup)
    batch.mask[:, 100:130] = True
    clean = model.sample(batch, 20, seed=0).samples
    batch.flux[batch.mask] = np.nan
    batch.sigma[batch.mask] = np.inf
    assert np.array_equal(model.sample(batch, 20, seed=0).samples, clean)


@pytest.mark.slow
def test_a_batch_that_was_not_preprocessed_is_an_error(model):
    batch = SpectrumBatch(np.arange(5000.0, 5010.0), np.ones((1, 10)), np.ones((1, 10)),
                          np.zeros((1, 10), bool), meta=rows(1))  # fmt: skip
    with pytest.raises(ModelError, match="the batch has 10 pixels, the model 1000: pass it through"):
        model.sample(batch, 10, seed=0)


# Files -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_header_tells_what_a_user_should_know(setup, model, tmp_path):
    model.save(tmp_path / "m.safetensors")
    _, header = load_weights(tmp_path / "m.safetensors", "specinn model")
    assert header["name"] == "tiny-default" and header["estimator"] == "cinn"
    assert header["grid"]["hash"] == setup.grid.hash
    assert header["grid"]["provenance"]["code"] == "straight lines"
    assert [label["name"] for label in header["labels"]] == LABELS
    bounds = {label["name"]: label["bounds"] for label in header["labels"]}
    train = setup.grid.split("train")
    assert bounds["teff"] == pytest.approx([setup.grid.column("teff")[train].min(),
                                            setup.grid.column("teff")[train].max()])  # fmt: skip
    assert bounds["vbroad"] == [0.5, 100.0]
    assert [name for name, _ in header["preprocessing"]] == ["mask", "rest-frame", "to-arms", "continuum"]
    assert set(header["training"]) >= {"schedule", "disturbances", "prior", "physics", "masking", "seconds"}


@pytest.mark.slow
def test_a_loaded_model_is_the_same(setup, model, tmp_path):
    path = tmp_path / "m.safetensors"
    model.save(path)
    loaded = CINN.load(path)
    batch, _ = observed(setup)
    one, two = model.sample(batch, 30, seed=3), loaded.sample(batch, 30, seed=3)
    assert np.array_equal(one.samples, two.samples) and np.array_equal(one.log_prob, two.log_prob)
    assert loaded.templates.arms == model.templates.arms
    assert loaded.templates.flux == pytest.approx(model.templates.flux, abs=1e-3)
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "key", ["labels", "instrument", "architecture", "encoding", "templates", "preprocessing"]
)
def test_an_incomplete_header_is_an_error(model, tmp_path, key):
    path = tmp_path / "m.safetensors"
    model.save(path)
    tensors, header = load_weights(path, "specinn model")
    save_weights(path, tensors, {k: v for k, v in header.items() if k != key})
    with pytest.raises(ModelError, match="weights do not fit its header"):
        CINN.load(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["center", "encoding.pixels", "templates.flux", "features.layers.0.weight"])
def test_missing_weights_are_an_error(model, tmp_path, name):
    path = tmp_path / "m.safetensors"
    model.save(path)
    tensors, header = load_weights(path, "specinn model")
    del tensors[name]
    save_weights(path, tensors, header)
    with pytest.raises(ModelError, match="weights do not fit its header"):
        CINN.load(path)


@pytest.mark.slow
def test_damaged_files_are_errors_and_pickles_are_not_read(model, tmp_path):
    path = tmp_path / "m.safetensors"
    model.save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ModelError, match="damaged"):
        CINN.load(path)

    class Trap:
        def __reduce__(self):
            return (exec, ("raise RuntimeError('unpickled')",))

    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match="not a safetensors file"):
        CINN.load(path)
    torch.save(Trap(), path)
    with pytest.raises(ModelError, match="safetensors"):
        CINN.load(path)


# The command -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_trains_one(folder, plugins, tmp_path, monkeypatch):
    from specinn.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("specinn_cinn.setup.Plugins", lambda: plugins)
    Path("m.toml").write_text(f"""
        [estimator]
        kind = "cinn"
        name = "tiny"
        instrument = "tiny"
        arms = ["green"]
        grid = ["{folder / "grid.h5"}"]
        emulator = "{folder / "emulator.safetensors"}"
        labels = ["teff", "vbroad"]
        [estimator.architecture]
        projection = 8
        features = [8]
        [estimator.filters]
        spectra = 128
        [estimator.schedule]
        steps = 2
        batch = 8
        [estimator.ood]
        decoder = 96
        signs = 96
        thresholds = 96
        steps = 2
    """)
    result = CliRunner().invoke(app, ["train", "m.toml", "--quiet"])
    assert result.exit_code == 0, result.output
    model = CINN.load(Path("m.safetensors"))
    assert model.ood_signs is not None and model.header["ood"]["options"]["signs"] == 96
    assert model.labels.names == ("teff", "vbroad") and [a.name for a in model.instrument.arms] == ["green"]
    assert [p.name for p in Path("m-training").iterdir()] == ["cinn-checkpoint.safetensors"]


# docs/training.md --------------------------------------------------------------------------------

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training.md"


def settings_of(cls):
    """The attrs classes of a configuration, by the path of their tables."""
    result = {"": cls}
    for field in attrs.fields(attrs.resolve_types(cls)):
        inner = getattr(field.type, "__args__", (field.type,))[0]
        if attrs.has(inner):
            result[field.name] = inner
    return result


def as_toml(value):
    """A default as the page writes it."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(as_toml(each) for each in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {as_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value}"


def default_of(field):
    if isinstance(field.default, attrs.Factory):
        value = field.default.factory()
        return None if attrs.has(type(value)) or value == {} or value == [] else value
    return None if field.default is attrs.NOTHING else field.default


@pytest.mark.parametrize("config", [Config, EmulatorConfig], ids=["cinn", "emulator"])
def test_every_key_is_in_the_page_with_its_default(config):
    head = "## The network" if config is Config else "## The emulator"
    section = PAGE.read_text(encoding="utf-8").split(head)[1].split("\n## ")[0]
    for table, cls in settings_of(config).items():
        for field in attrs.fields(cls):
            if attrs.has(getattr(field.type, "__args__", (field.type,))[0]):
                assert f"{field.name}" in section
                continue
            key = f"{table}.{field.name}" if table else field.name
            rows = re.findall(rf"^\| `{re.escape(key)}` \| (.*?) \| (.+) \|$", section, flags=re.MULTILINE)
            assert len(rows) == 1, f"{key} has {len(rows)} rows"
            default = default_of(field)
            if default is not None:
                assert re.sub(r"(\d)_(\d)", r"\1\2", rows[0][0]) == f"`{as_toml(default)}`", key
            assert len(rows[0][1]) > 10, key


def test_sizes_of_the_presets_are_in_the_page():
    text = PAGE.read_text(encoding="utf-8")
    for field in attrs.fields(Architecture):
        default, paper = (as_toml(getattr(PRESETS[name], field.name)) for name in ("default", "paper"))
        assert f"| `architecture.{field.name}` | `{default}` | `{paper}` |" in text, field.name


def test_examples_of_the_page_are_right():
    blocks = [tomllib.loads(b) for b in re.findall(r"```toml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)]
    from specinn.config import structure

    kinds = []
    for block in blocks:
        (what,) = block
        table = dict(block[what])
        kinds.append((what, table.pop("kind")))
        structure(table, Config if what == "estimator" else EmulatorConfig, "docs/training.md")
    assert set(kinds) == {("estimator", "cinn"), ("synthesizer", "emulator")}


@pytest.mark.parametrize(
    "path", sorted((PAGE.parents[1] / "plugins").glob("*/recipes/*.toml")), ids=lambda p: p.stem
)
def test_recipes_that_ship_are_right(path):
    from specinn.config import structure

    recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    if "vary" in recipe:
        pytest.skip("a search, which tests/training/test_tuning.py reads")
    if "prior" in recipe:
        pytest.skip("a grid, which tests/grids/test_make.py reads")
    if "windows" in recipe:
        pytest.skip("a fit of lines, whose stars are development data")
    ((what, table),) = recipe.items()
    kind = table.pop("kind")
    assert (what, kind) in {("estimator", "cinn"), ("synthesizer", "emulator")}
    structure(table, Config if what == "estimator" else EmulatorConfig, str(path))
