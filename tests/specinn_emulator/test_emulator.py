"""The emulator: training from a grid, its errors, gradients, files, and the one that ships."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import tiny_grid
import torch
from specinn_emulator import specinn_synthesizers
from specinn_emulator.emulator import CoefficientNetwork, Emulator
from specinn_emulator.labels import features
from specinn_emulator.training import train
from typer.testing import CliRunner

from specinn.errors import ConfigError, GridError, ModelError
from specinn.evaluation.emulation import compare
from specinn.grids import Grid
from specinn.plugins import load_factory
from specinn.spectra.resample import resampling_matrix, resampling_operator
from specinn.testing import check_synthesizer
from specinn.weights import load_weights, save_weights

EPOCHS = 150
NETWORK = {"components": 40, "width": 48, "depth": 2, "members": 2}


def recipe(path, **training):
    training = {"epochs": EPOCHS, "batch": 32, "learning_rate": 5e-3, **training}
    return {"grid": [str(path)], "network": NETWORK, "training": training}


@pytest.fixture(scope="module")
def states():
    return []


@pytest.fixture(scope="module")
def emulator(grid_file, tmp_path_factory, states):
    return train(recipe(grid_file), tmp_path_factory.mktemp("training"), states.append)


# Training ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_error_on_spectra_not_seen_is_small(emulator, grid, states):
    rms = emulator.header["metrics"]["rms_quantiles"]
    assert rms["0.5"] < 0.006 and rms["0.05"] <= rms["0.5"] <= rms["1.0"] < 0.04
    mean = grid.flux(grid.split("train")).mean(axis=0)
    alike = np.sqrt(((grid.flux(grid.split("test")) - mean) ** 2).mean(axis=1))
    assert rms["0.5"] < 0.15 * np.median(alike)  # of what the mean spectrum would give
    assert [s["step"] for s in states] == list(range(1, EPOCHS + 1))
    assert states[-1]["loss"] < states[0]["loss"] - 2 and states[0]["steps"] == EPOCHS


def test_the_metrics_are_those_of_the_test_split(emulator, grid):
    metrics = emulator.header["metrics"]
    rows = grid.split("test")
    assert metrics["stars"] == len(rows) and metrics["resolving_power"] == 20_000.0
    difference = emulator(grid.values[rows]) - grid.flux(rows)
    parts = []
    for arm in emulator.arms.values():
        wave = emulator.wavelength[arm]
        pixels = np.arange(wave[0] + 3, wave[-1] - 3, wave.mean() / 40_000)
        parts.append(resampling_matrix(wave, 60_000.0, pixels, 20_000.0) @ difference[:, arm].T)
    rms = np.sqrt(np.square(np.concatenate(parts)).mean(axis=0))
    assert metrics["rms_quantiles"]["0.5"] == pytest.approx(np.median(rms), rel=1e-5)
    assert metrics["rms_quantiles"]["1.0"] == pytest.approx(rms.max(), rel=1e-5)
    assert sum(b["stars"] for b in metrics["by_teff"]) == len(rows)
    assert sum(b["stars"] for b in metrics["by_fe_h"]) == len(rows)
    hot = grid.column("teff")[rows] >= 6000
    last = metrics["by_teff"][-1]
    assert last["from"] == 6000 or last["from"] == 6500
    assert any(
        b["stars"] == int((hot & (grid.column("teff")[rows] < 6500)).sum()) for b in metrics["by_teff"]
    )
    total = np.sqrt(np.square(np.concatenate(parts)).mean())
    bins = [b["rms"] for b in metrics["by_wavelength"]]
    assert min(bins) < total < max(bins) and len(bins) == 4
    json.dumps(metrics, allow_nan=False)


def test_the_header_says_where_it_comes_from(emulator, grid):
    header = emulator.header
    assert header["grid"]["hash"] == grid.hash and header["grid"]["provenance"]["code"] == "straight lines"
    assert header["network"] == {"n_labels": 6, "n_components": 40, "width": 48, "depth": 2, "members": 2}
    assert header["training"]["epochs"] == EPOCHS and set(header["versions"]) == {"specinn", "torch"}


@pytest.mark.slow
def test_training_goes_on_where_it_was_interrupted(emulator, grid_file, tmp_path):
    class Stop(Exception):
        pass

    def stop(state):
        if state["step"] == 120:  # the last checkpoint is of epoch 100
            raise Stop

    with pytest.raises(Stop):
        train(recipe(grid_file), tmp_path, stop)
    assert [p.name for p in tmp_path.iterdir()] == ["emulator-checkpoint.safetensors"]
    seen = []
    again = train(recipe(grid_file), tmp_path, seen.append)
    assert [s["step"] for s in seen] == list(range(101, EPOCHS + 1))
    for name, value in emulator.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name
    with pytest.raises(ConfigError, match="another configuration"):
        train(recipe(grid_file, seed=1), tmp_path)


def test_the_seed_determines_the_weights(emulator, grid_file, tmp_path):
    first, second = (train(recipe(grid_file, epochs=2, seed=s), tmp_path / str(s)) for s in (0, 1))
    assert not torch.equal(first.network.members[0][0].weight, second.network.members[0][0].weight)
    assert not torch.equal(first.network.members[0][0].weight, first.network.members[1][0].weight)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gird": ["x"]}, "gird"),
        ({"grid": "x"}, r"expected a list, found 'x' @ \$\.grid"),
        ({"network": {"width": "wide"}}, r"expected an integer, found 'wide' @ \$\.network\.width"),
        ({"training": {"epochs": 1.5}}, r"\$\.training\.epochs"),
        ({"network": {"components": 200}}, r"\$\.network\.components is 200: the grid has only \d+ training"),
    ],
)
def test_wrong_keys_are_named_with_their_path(grid_file, tmp_path, change, words):
    with pytest.raises(ConfigError, match=words):
        train({**recipe(grid_file), **change}, tmp_path)


def test_a_learning_rate_that_explodes_is_an_error(grid_file, tmp_path):
    with pytest.raises(ConfigError, match=r"the loss is not finite .* lower \$\.training\.learning_rate"):
        train(recipe(grid_file, learning_rate=1e18), tmp_path)


def test_a_missing_grid_is_an_error(tmp_path):
    with pytest.raises(GridError, match="no such file or folder"):
        train(recipe(tmp_path / "none.h5"), tmp_path)


def test_a_label_with_one_value_does_no_harm(tmp_path):
    grid = tiny_grid.make_grid(60)
    grid.values[:, 3] = 1.0
    grid.save(tmp_path / "g.h5")
    config = {**recipe(tmp_path / "g.h5", epochs=2), "network": {**NETWORK, "components": 10}}
    emulator = train(config, tmp_path)
    assert np.isfinite(emulator(grid.values[:3])).all()


def test_a_grid_without_metallicity_is_an_error(tmp_path):
    whole = tiny_grid.make_grid(60)
    labels = [n for n in whole.labels if n != "fe_h"]
    keep = [whole.labels.index(n) for n in labels]
    Grid(tuple(labels), whole.values[:, keep], whole.ids, whole.wavelength, whole.arms, whole.flux_of,
         whole.resolving_power).save(tmp_path / "g.h5")  # fmt: skip
    with pytest.raises(ConfigError, match="training needs fe_h"):
        train(recipe(tmp_path / "g.h5"), tmp_path)


# Components for each arm -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_arm(grid_file, tmp_path_factory):
    config = recipe(grid_file, epochs=30)
    config["network"] = {**NETWORK, "arm_components": {"green": 80, "red": 70}}
    return train(config, tmp_path_factory.mktemp("by-arm"))


def test_each_arm_has_components_of_its_own(by_arm, grid):
    (green, green_pixels), (red, red_pixels) = by_arm.blocks
    assert (green, red) == (slice(0, 80), slice(80, 150))
    assert [green_pixels, red_pixels] == list(grid.arms.values())
    assert by_arm.header["network"]["n_components"] == 150 and by_arm.basis.shape[0] == 80
    assert by_arm.header["components"] == {"green": 80, "red": 70}
    values = grid.values[grid.split("test")][:5]
    check_synthesizer(by_arm, values, differentiable=True)
    coefficients = by_arm.coefficients(torch.tensor(values, dtype=torch.float32))
    direct = by_arm.mean[red_pixels] + coefficients[:, red] @ by_arm.basis[:70, red_pixels]
    assert by_arm(values)[:, red_pixels] == pytest.approx(direct.numpy(), abs=1e-6)
    rows = grid.split("test")
    flux = torch.tensor(grid.flux(rows)) - by_arm.mean
    for _, pixels in by_arm.blocks:
        basis = by_arm.basis[:20, pixels]  # further ones of so few lines are noise
        assert (basis @ basis.T).numpy() == pytest.approx(np.eye(20), abs=1e-3)
        left = flux[:, pixels] - flux[:, pixels] @ basis.T @ basis
        assert left.square().mean() < 0.05 * flux[:, pixels].square().mean()


def test_metrics_have_each_arm(by_arm):
    metrics = by_arm.header["metrics"]
    assert set(metrics["by_arm"]) == {"green", "red"}
    medians = [arm["0.5"] for arm in metrics["by_arm"].values()]
    assert 0 < min(medians) <= metrics["rms_quantiles"]["0.5"] * 1.5 and max(medians) < 0.1


def test_components_of_arms_are_saved_in_bytes_and_loaded(by_arm, grid, tmp_path):
    path = tmp_path / "e.safetensors"
    by_arm.save(path)
    tensors, _ = load_weights(path, "specinn emulator")
    assert tensors["fine.0"].dtype == torch.int8 and tensors["fine.0"].shape[0] == 80 - 64
    loaded = Emulator.load(path)
    values = grid.values[:20]
    assert loaded.blocks == by_arm.blocks
    assert np.abs(loaded(values) - by_arm(values)).max() < 1e-3
    again = tmp_path / "again.safetensors"
    loaded.save(again)
    assert Emulator.load(again)(values) == pytest.approx(loaded(values), abs=1e-6)
    del tensors["step.1"]
    save_weights(path, tensors, loaded.header | {"format": "specinn emulator"})
    with pytest.raises(ModelError, match="weights do not fit its header"):
        Emulator.load(path)


def test_arms_with_components_of_their_own_are_resampled_each(by_arm, grid):
    wavelength = np.concatenate([np.arange(5165, 5235, 0.11), np.arange(6475, 6545, 0.13)])
    n = np.arange(5165, 5235, 0.11).size
    arms = {"green": slice(0, n), "red": slice(n, wavelength.size)}
    operator = resampling_operator(by_arm.wavelength, by_arm.arms, 60_000.0, wavelength, arms, 20_000.0)
    values = grid.values[:4]
    resampled = by_arm.resampled(wavelength, arms, operator)
    assert resampled(values) == pytest.approx((operator @ by_arm(values).T).T, abs=2e-6)
    for part in (slice(0, n), slice(n, wavelength.size)):  # one arm only, as instruments have
        one = by_arm.resampled(wavelength[part], {"arm": slice(0, wavelength[part].size)}, operator[part])
        assert one(values) == pytest.approx(resampled(values)[:, part], abs=2e-6)
    mixed = np.ones((3, by_arm.wavelength.size)) / by_arm.wavelength.size
    with pytest.raises(ModelError, match="a pixel of the output mixes arms"):
        by_arm.resampled(np.arange(3.0), {"arm": slice(0, 3)}, mixed)


@pytest.mark.parametrize(
    ("components", "words"),
    [
        ({"green": 10}, r"arm_components has green: the arms of the grid are green, red"),
        ({"green": 10, "red": 2000}, r"arm_components\.red is 2000: the grid has only \d+ training"),
        ({"green": 0, "red": 20}, r"arm_components\.green is 0: .* at least 1"),
    ],
)
def test_components_that_do_not_fit_are_named(grid_file, tmp_path, components, words):
    with pytest.raises(ConfigError, match=words):
        train({**recipe(grid_file), "network": {**NETWORK, "arm_components": components}}, tmp_path)


# The command -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_trains_it(grid_file, tmp_path, monkeypatch):
    from specinn.cli import app

    monkeypatch.chdir(tmp_path)
    toml = f"""
        [synthesizer]
        kind = "emulator"
        grid = ["{grid_file}"]
        network = {{ components = 10, width = 8, depth = 1, members = 1 }}
        training = {{ epochs = 2 }}
    """
    (tmp_path / "e.toml").write_text(toml)
    result = CliRunner().invoke(app, ["train", "e.toml", "--quiet"])
    assert result.exit_code == 0, result.output
    assert Emulator.load(tmp_path / "e.safetensors").labels == tiny_grid.LABELS
    (tmp_path / "e.toml").write_text(toml.replace("epochs", "epoch"))
    result = CliRunner().invoke(app, ["train", "e.toml", "--quiet", "-o", "f.safetensors"])
    assert result.exit_code != 0 and "epoch" in result.output and "$.training" in result.output
    (tmp_path / "e.toml").write_text('[synthesizer]\nkind = "turbospectrum"\n')
    result = CliRunner().invoke(app, ["train", "e.toml", "--quiet", "-o", "f.safetensors"])
    assert result.exit_code != 0 and len(result.output.splitlines()) == 1


# What it computes --------------------------------------------------------------------------------


def test_it_keeps_the_contract_of_synthesizers(emulator, grid):
    values = grid.values[grid.split("test")][:5]
    check_synthesizer(emulator, values, differentiable=True)
    assert emulator.bounds[:, 0] == pytest.approx(grid.values.min(axis=0))
    assert emulator.bounds[:, 1] == pytest.approx(grid.values.max(axis=0))


def test_gradients_are_those_of_differences(emulator, grid):
    middle = torch.tensor((tiny_grid.LOW + tiny_grid.HIGH)[None] / 2, dtype=torch.float32)
    weight = torch.randn(emulator.wavelength.size, generator=torch.Generator().manual_seed(0))
    labels = middle.clone().requires_grad_()
    (emulator(labels) @ weight).sum().backward()
    for i, step in enumerate((tiny_grid.HIGH - tiny_grid.LOW) / 100):
        ends = middle.repeat(2, 1)
        ends[:, i] += torch.tensor([step, -step], dtype=torch.float32)
        up, down = emulator(ends).double() @ weight.double()
        numerical = float(up - down) / (2 * step)
        assert float(labels.grad[0, i]) == pytest.approx(numerical, rel=0.05, abs=1e-3 / step)


def test_variables_are_those_in_which_spectra_are_smooth():
    values = torch.tensor([[5040.0, 4.0, -1.0, 0.4, 2.0]])
    found = features(values, ("teff", "logg", "fe_h", "mg_fe", "a_li"))
    assert found[0].tolist() == pytest.approx([1.0, 4.0, -1.0, -0.6, 2.0])


def test_members_are_averaged():
    network = CoefficientNetwork(3, 5, 8, 2, members=3)
    x = torch.randn(7, 3)
    assert torch.allclose(network(x), sum(m(x) for m in network.members) / 3, atol=1e-6)


def test_resampled_is_the_operator_applied_to_flux(emulator, grid):
    wavelength = np.concatenate([np.arange(5165, 5235, 0.11), np.arange(6475, 6545, 0.13)])
    n = np.arange(5165, 5235, 0.11).size
    arms = {"green": slice(0, n), "red": slice(n, wavelength.size)}
    operator = resampling_operator(emulator.wavelength, emulator.arms, 60_000.0, wavelength, arms, 20_000.0)
    values = grid.values[:4]
    found = emulator.resampled(wavelength, arms, operator)
    assert found(values) == pytest.approx((operator @ emulator(values).T).T, abs=2e-6)
    assert np.array_equal(found.wavelength, wavelength) and found.arms == arms
    assert emulator(values).shape[1] == tiny_grid.WAVELENGTH.size  # unchanged


def test_a_copy_on_another_device_leaves_the_first_where_it_is(emulator):
    moved = emulator.to("meta")
    assert moved.network.members[0][0].weight.device.type == "meta" == moved.basis.device.type
    assert emulator.network.members[0][0].weight.device.type == "cpu" == emulator.basis.device.type
    assert np.isfinite(emulator((tiny_grid.LOW + tiny_grid.HIGH)[None] / 2)).all()


# Files -------------------------------------------------------------------------------------------


def test_what_was_saved_is_loaded(emulator, grid, tmp_path):
    path = tmp_path / "e.safetensors"
    emulator.save(path)
    loaded = Emulator.load(path)
    assert loaded.labels == emulator.labels and loaded.arms == emulator.arms
    assert np.array_equal(loaded.bounds, emulator.bounds)
    assert loaded.wavelength == pytest.approx(emulator.wavelength, abs=1e-6)
    assert (loaded.resolving_power, loaded.medium) == (60_000.0, "air")
    assert loaded.header["metrics"] == emulator.header["metrics"]
    values = grid.values[:20]
    assert np.abs(loaded(values) - emulator(values)).max() < 5e-4  # float16
    again = tmp_path / "again.safetensors"
    loaded.save(again)
    assert np.array_equal(Emulator.load(again)(values), loaded(values))
    errors = float(np.median(compare(loaded, grid).rms()))
    assert errors == pytest.approx(emulator.header["metrics"]["rms_quantiles"]["0.5"], rel=0.02)


def test_uneven_wavelengths_are_refused(emulator, tmp_path):
    wavelength = emulator.wavelength.copy()
    wavelength[:1600] = np.geomspace(5160, 5240, 1600)
    uneven = emulator.resampled(wavelength, emulator.arms, np.eye(wavelength.size))
    with pytest.raises(ModelError, match="uniform wavelength steps only"):
        uneven.save(tmp_path / "e.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["network", "labels", "bounds", "axes", "medium"])
def test_an_incomplete_header_is_an_error(emulator, tmp_path, key):
    path = tmp_path / "e.safetensors"
    emulator.save(path)
    tensors, header = load_weights(path, "specinn emulator")
    del header[key]
    save_weights(path, tensors, header)
    with pytest.raises(ModelError, match="weights do not fit its header"):
        Emulator.load(path)


def test_weights_of_another_shape_are_an_error(emulator, tmp_path):
    path = tmp_path / "e.safetensors"
    emulator.save(path)
    tensors, header = load_weights(path, "specinn emulator")
    header["network"]["width"] = 49
    save_weights(path, tensors, header)
    with pytest.raises(ModelError, match="weights do not fit its header"):
        Emulator.load(path)
    del tensors["basis"]
    header["network"]["width"] = 48
    save_weights(path, tensors, header)
    with pytest.raises(ModelError, match="weights do not fit its header"):
        Emulator.load(path)


def test_damaged_files_are_errors_and_pickles_are_not_read(emulator, tmp_path):
    path = tmp_path / "e.safetensors"
    emulator.save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="damaged"):
        Emulator.load(path)
    path.write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(ModelError, match="not a safetensors file"):
        Emulator.load(path)
    save_weights(path, {}, {"format": "specinn model"})
    with pytest.raises(ModelError, match="expected a 'specinn emulator'"):
        Emulator.load(path)


def test_the_record_leads_to_the_class():
    (record,) = specinn_synthesizers()
    assert load_factory(record) is Emulator
