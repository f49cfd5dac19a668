"""The emulator of windows: its inputs, bounds, flux, gradients, files, and how it is trained."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import pytest
import tiny_grid
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from specinn_emulator import WEIGHTS
from specinn_emulator.emulator import Emulator
from specinn_emulator.former import Former
from specinn_emulator.process import (
    Process,
    ProcessEmulator,
    elements_of,
    flux_of,
    inputs,
    root_of,
    windows_of,
    with_products,
)
from specinn_emulator.training import train

from specinn.errors import ConfigError, ModelError
from specinn.evaluation.emulation import arm_rows, compare
from specinn.grids import load
from specinn.models import physics
from specinn.spectra.resample import resampling_operator
from specinn.testing import check_synthesizer
from specinn.weights import load_weights, save_weights

PLAN = {"components": {"green": 60, "red": 50}, "window": 40.0, "stars": 100, "steps": 8}
CNO = ("teff", "logg", "fe_h", "vmic", "c_fe", "n_fe", "o_fe")


@pytest.fixture(scope="module")
def emulator(grid_file, tmp_path_factory):
    return train({"grid": [str(grid_file)], "process": PLAN}, tmp_path_factory.mktemp("training"))


# Inputs and flux ---------------------------------------------------------------------------------


def of_cno(teff, c_fe, n_fe=0.0, o_fe=0.0, logg=4.44, fe_h=0.0):
    values = torch.tensor([[teff, logg, fe_h, 1.0, c_fe, n_fe, o_fe]], dtype=torch.float64)
    return inputs(values, CNO)[0].tolist()


def test_inputs_are_those_of_the_network_without_c_n_and_o():
    values = torch.tensor([[5040.0, 4.0, -1.0, 0.4, 2.0]])
    found = inputs(values, ("teff", "logg", "fe_h", "mg_fe", "a_li"))
    assert found[0].tolist() == pytest.approx([1.0, 4.0, -1.0, -0.6, 2.0])


def test_hot_stars_have_free_atoms_only():
    found = of_cno(7500.0, 0.1, 0.2, 0.3)
    assert len(found) == 10
    assert found[4:7] == pytest.approx([-3.34, -3.82, -2.93], abs=0.02)  # A(X) - 12


@pytest.mark.parametrize("layer", [4, 7])
def test_cool_stars_have_the_excess_of_carbon_or_oxygen(layer):
    carbon, nitrogen, oxygen = of_cno(3600.0, 0.0)[layer : layer + 3]
    assert oxygen == pytest.approx(np.log10(10**-3.23 - 10**-3.44), abs=0.01)  # the rest is in CO
    assert carbon < -7 and nitrogen < -4.5  # the rest is in CO and N2
    carbon, _, oxygen = of_cno(3600.0, 0.5)[layer : layer + 3]
    assert carbon == pytest.approx(np.log10(10**-2.94 - 10**-3.23), abs=0.01) and oxygen < -6


@settings(max_examples=60, deadline=None)
@given(
    st.floats(3500, 7500), st.floats(0, 5.1), st.floats(-3.2, 0.55), st.floats(-1, 1.2), st.floats(-0.6, 1.2),
    st.floats(-0.5, 0.95),
)  # fmt: skip
def test_the_equilibrium_obeys_the_law_of_mass_action(teff, logg, fe_h, c_fe, n_fe, o_fe):
    found = of_cno(teff, c_fe, n_fe, o_fe, logg, fe_h)
    total = [8.56 - 12 + c_fe + fe_h, 7.98 - 12 + n_fe + fe_h, 8.77 - 12 + o_fe + fe_h]
    assert np.isfinite(found).all() and (np.array(found[4:7]) < np.array(total) + 1e-9).all()
    theta = 5040 / (0.88 * teff)
    pressure = 4.55 + 0.6 * (logg - 4.44) - 0.35 * fe_h
    constants = (13.820, -11.795, -0.17222, 0.022888, -0.0011349)
    in_co = 10 ** (found[4] + found[6] + pressure - sum(c * theta**k for k, c in enumerate(constants)))
    for free, of_all in ((found[4], total[0]), (found[6], total[2])):
        assert 10**free + in_co == pytest.approx(10**of_all, rel=1e-4)


@given(st.floats(-50, 50))
def test_flux_of_anything_is_that_of_a_spectrum(z):
    flux = float(flux_of(torch.tensor(z, dtype=torch.float64)))
    assert 0 <= flux <= 1


@given(st.floats(2e-6, 1.0))
def test_the_root_is_inverted(flux):
    value = torch.tensor(flux, dtype=torch.float64)
    assert float(flux_of(root_of(value))) == pytest.approx(flux, rel=1e-9)


def test_windows_cover_each_arm_once():
    parts = windows_of(tiny_grid.WAVELENGTH, tiny_grid.ARMS, 30.0)
    pixels = np.concatenate([np.arange(p.start, p.stop) for _, p in parts])
    assert np.array_equal(pixels, np.arange(tiny_grid.WAVELENGTH.size))
    assert [name for name, _ in parts] == ["green"] * 3 + ["red"] * 3
    assert len(windows_of(tiny_grid.WAVELENGTH, tiny_grid.ARMS, 1e4)) == 2


def test_the_covariance_is_that_of_its_docstring():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 3, generator=rng, dtype=torch.float64) for n in (4, 5))
    mixing = torch.randn(2, 3, 3, generator=rng, dtype=torch.float64)
    numbers = ([0.2, -0.1, 0.3], [0.0, 0.5, 0.2], 0.05)
    amplitude, slopes, rest = (torch.tensor(each, dtype=torch.float64) for each in numbers)
    found = Process(mixing, amplitude, slopes, rest).covariance(a, b)
    for i in range(4):
        for j in range(5):
            c = [float(torch.exp(-0.5 * ((a[i] - b[j]) @ m).square().sum())) for m in mixing]
            scale = float(torch.exp(a[i] @ amplitude + b[j] @ amplitude))
            linear = 1 + 0.25 * float(a[i, 1] * b[j, 1]) + 0.04 * float(a[i, 2] * b[j, 2])
            assert float(found[i, j]) == pytest.approx(scale * (linear * c[0] + 0.05 * c[1]), rel=1e-9)


def test_products_are_of_the_atmosphere_and_slopes_of_elements():
    x = torch.tensor([[2.0, 3.0, 5.0, 7.0]])
    names = ("teff", "mg_fe", "fe_h", "a_li")
    full = with_products(x, names)
    assert full[0].tolist() == [2.0, 3.0, 5.0, 7.0, 4.0, 10.0, 25.0, 4.0, 24.0]
    assert elements_of(names, 4).tolist() == [0, 1, 0, 1, 0, 0, 0, 1, 1]


def test_squares_are_of_slopes_only_and_older_files_have_none():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(4, 9, generator=rng, dtype=torch.float64)
    mixing = torch.randn(2, 7, 7, generator=rng, dtype=torch.float64)
    amplitude, slopes = 0.1 * torch.ones(7, dtype=torch.float64), torch.ones(9, dtype=torch.float64)
    rest = torch.tensor(0.1, dtype=torch.float64)
    without = torch.cat([x[:, :7], torch.zeros(4, 2, dtype=torch.float64)], dim=1)
    process = Process(mixing, amplitude, slopes, rest)
    assert not torch.allclose(process.covariance(x, x), process.covariance(without, without))
    older = Process(mixing, amplitude, slopes[:7], rest)
    assert torch.allclose(older.covariance(x, x), process.covariance(without, without))


# The emulator ------------------------------------------------------------------------------------


def test_it_keeps_the_contract_and_its_error_is_small(emulator, grid):
    rows = grid.split("test")
    check_synthesizer(emulator, grid.values[rows][:5], differentiable=True)
    metrics = emulator.header["metrics"]
    assert metrics["stars"] == len(rows) and set(metrics["by_arm"]) == {"green", "red"}
    assert metrics["rms_quantiles"]["0.5"] < 0.001 and metrics["rms_quantiles"]["0.95"] < 0.004
    assert metrics["by_wavelength"] and metrics["by_teff"] and metrics["by_fe_h"]


def test_derivatives_are_those_of_the_spectra(emulator, grid):
    middle = (tiny_grid.LOW + tiny_grid.HIGH) / 2
    for i, step in enumerate((tiny_grid.HIGH - tiny_grid.LOW) / 50):
        ends = np.stack([middle, middle])
        ends[:, i] += [step, -step]
        real = np.subtract(*tiny_grid.flux_of(ends))
        found = np.subtract(*emulator(ends))
        assert np.sqrt(np.mean((found - real) ** 2)) < 0.1 * np.sqrt(np.mean(real**2)), tiny_grid.LABELS[i]


def test_flux_is_never_negative_in_the_corners(emulator):
    bits = (np.arange(64)[:, None] >> np.arange(6)) & 1
    flux = emulator(np.where(bits, tiny_grid.HIGH, tiny_grid.LOW).clip(*emulator.bounds.T))
    assert np.isfinite(flux).all() and flux.min() >= 0 and flux.max() <= 1


@pytest.mark.parametrize(("column", "name"), [(0, "teff"), (2, "fe_h"), (5, "a_li")])
@pytest.mark.parametrize("side", [0, 1])
def test_labels_beyond_the_bounds_are_refused(emulator, grid, column, name, side):
    values = grid.values[:3].copy()
    width = np.ptp(emulator.bounds[column])
    values[1, column] = emulator.bounds[column, side] + (side - 0.5) * 0.01 * width
    for labels in (values, torch.tensor(values)):
        with pytest.raises(ModelError, match=rf"{name} = .* of star 1 is beyond the emulator's bounds"):
            emulator(labels)
    values[1, column] = emulator.bounds[column, side]  # the bound itself, rounded to float32
    assert np.isfinite(emulator(values.astype(np.float32))).all()
    values[1, column] = np.nan
    with pytest.raises(ModelError, match=f"{name} = nan of star 1"):
        emulator(values)


def test_resampled_is_the_operator_applied_to_flux(emulator, grid):
    wavelength = np.concatenate([np.arange(5165, 5235, 0.11), np.arange(6475, 6545, 0.13)])
    n = np.arange(5165, 5235, 0.11).size
    arms = {"green": slice(0, n), "red": slice(n, wavelength.size)}
    operator = resampling_operator(emulator.wavelength, emulator.arms, 60_000.0, wavelength, arms, 20_000.0)
    values = grid.values[:4]
    resampled = emulator.resampled(wavelength, arms, operator)
    assert resampled(values) == pytest.approx((operator @ emulator(values).T).T, abs=2e-6)
    assert np.array_equal(resampled.wavelength, wavelength) and resampled.arms == arms
    assert emulator(values).shape[1] == tiny_grid.WAVELENGTH.size  # unchanged
    labels = torch.tensor(values, dtype=torch.float32, requires_grad=True)
    resampled(labels).square().sum().backward()
    assert labels.grad is not None and bool((labels.grad != 0).all())
    with pytest.raises(ModelError, match="was resampled already"):
        resampled.resampled(wavelength, arms, operator)
    with pytest.raises(ModelError, match="was resampled already"):
        resampled.save("nowhere.safetensors")


def test_a_copy_on_another_device_leaves_the_first_where_it_is(emulator, grid):
    moved = emulator.to("meta")
    assert moved.stars.device.type == "meta" == moved.windows[0].weights.device.type
    assert np.isfinite(emulator(grid.values[:2])).all()


# Files -------------------------------------------------------------------------------------------


def test_what_was_saved_is_loaded(emulator, grid, tmp_path):
    path = tmp_path / "e.safetensors"
    emulator.save(path)
    loaded = Emulator.load(path)
    assert isinstance(loaded, ProcessEmulator)
    assert loaded.labels == emulator.labels and loaded.arms == emulator.arms
    assert (loaded.resolving_power, loaded.medium) == (60_000.0, "air")
    assert loaded.header["metrics"] == emulator.header["metrics"]
    assert loaded.header["process"]["components"] == PLAN["components"]
    assert loaded.provenance["code"] == f"emulator of straight lines (grid {grid.hash})"
    assert np.abs(loaded(grid.values) - emulator(grid.values)).max() < 1e-3
    again = tmp_path / "again.safetensors"
    loaded.save(again)
    assert Emulator.load(again)(grid.values[:9]) == pytest.approx(loaded(grid.values[:9]), abs=1e-5)
    from_table = Emulator.from_config({"path": str(path)}, emulator.labels)
    assert np.array_equal(from_table(grid.values[:2]), loaded(grid.values[:2]))


@pytest.mark.parametrize("lost", ["1.weights", "0.step", "stars"])
def test_an_incomplete_file_is_an_error(emulator, tmp_path, lost):
    path = tmp_path / "e.safetensors"
    emulator.save(path)
    tensors, header = load_weights(path, "specinn emulator")
    del tensors[lost]
    save_weights(path, tensors, header)
    with pytest.raises(ModelError, match="weights do not fit its header"):
        Emulator.load(path)


# The one that is shipped -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held_out():
    return load([Path(__file__).parents[1] / "data" / "4most-hr-held-out.h5"])


@pytest.fixture(scope="module")
def shipped():
    return Emulator.load(Path("4most-hr"))


@pytest.mark.slow
def test_the_shipped_emulator_on_spectra_that_it_has_not_seen(shipped, held_out):
    result = compare(shipped, held_out, split="all")
    assert len(result.flux) == 57 and (result.wavelength.max() > 6790) and (result.wavelength.min() < 3925)
    rms = {row["arm"]: row for row in arm_rows(result)}
    assert (
        rms["blue"]["median"] < 0.0062 and rms["green"]["median"] < 0.0028 and rms["red"]["median"] < 0.0019
    )
    assert all(row["p95"] < 0.018 for row in rms.values())
    assert (result.flux + result.difference).min() > 0


def test_the_shipped_emulator_has_the_labels_and_physics_of_its_grid(shipped, held_out):
    default = Emulator.load()
    assert (default.header, default.labels) == (shipped.header, shipped.labels)
    assert shipped.labels == held_out.labels and len(shipped.labels) == 25
    assert (WEIGHTS / "4most-hr.safetensors").stat().st_size < 24e6
    inside = (held_out.values >= shipped.bounds[:, 0]) & (held_out.values <= shipped.bounds[:, 1])
    assert inside.mean() > 0.99
    for key in ("line_lists", "line_corrections", "atmospheres", "solar_scale"):
        assert shipped.provenance[key] == held_out.provenance[key], key
    corrections = shipped.provenance["line_corrections"]["sha256"]
    assert physics({"grid": {"provenance": shipped.provenance}})["linecorr"].endswith(corrections[:12])


@pytest.mark.slow
def test_what_an_element_does_in_the_shipped_emulator_is_where_its_lines_are(shipped):
    """Lines of Ba II, Eu II, Sr II and Li I, air wavelengths of the NIST database."""
    sun = {"teff": 5772.0, "logg": 4.44, "vmic": 1.0, "a_li": 1.05}
    labels = np.array([[sun.get(name, 0.0) for name in shipped.labels]])
    for name, line in (("ba_fe", 6496.90), ("eu_fe", 4129.72), ("sr_fe", 4215.52), ("a_li", 6707.8)):
        more = labels.copy()
        more[0, shipped.labels.index(name)] += 0.5
        change = (shipped(more) - shipped(labels))[0]
        near = np.abs(shipped.wavelength - line) < 0.3
        assert change[near].min() < -0.01, name
        far = np.abs(shipped.wavelength - line) > 5
        assert (
            np.abs(change[far & (shipped.wavelength > line - 60) & (shipped.wavelength < line + 60)]).mean()
            < 0.002
        )


def test_names_of_bundled_weights_do_not_leave_their_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no such model file"):
        Emulator.load(Path("4most-lr"))
    with pytest.raises(ModelError, match="no such model file"):
        Emulator.load(Path("../weights/4most-hr"))


# Training ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_resumes_after_the_last_whole_window(emulator, grid_file, tmp_path, grid):
    class Stop(Exception):
        pass

    def stop(state):
        if state["step"] == 2:
            raise Stop

    config = {"grid": [str(grid_file)], "process": PLAN}
    with pytest.raises(Stop):
        train(config, tmp_path, stop)
    done = sorted(tmp_path.iterdir())
    assert [path.name for path in done] == [f"emulator-window-00{i}.safetensors" for i in range(2)]
    written = [path.stat().st_mtime_ns for path in done]
    seen = []
    again = train(config, tmp_path, seen.append)
    assert [state["step"] for state in seen] == [1, 2, 3, 4] and seen[0]["steps"] == 4
    assert [path.stat().st_mtime_ns for path in done] == written
    assert np.array_equal(again(grid.values[:5]), emulator(grid.values[:5]))
    with pytest.raises(ConfigError, match="another configuration"):
        train({"grid": [str(grid_file)], "process": {**PLAN, "seed": 1}}, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"components": {"green": 10}}, r"\$\.process\.components has green: the arms .* green, red"),
        ({"components": {"green": 10, "red": 900}}, r"components\.red is 900: .* only \d+ training"),
        ({"window": 0.0}, r"\$\.process\.window is 0\.0: expected 1\.0 or more"),
        ({"stars": 3}, r"\$\.process\.stars is 3: expected 10 or more"),
        ({"steps": 0}, r"\$\.process\.steps is 0"),
        ({"stepz": 3}, r"stepz"),
    ],
)  # fmt: skip
def test_wrong_keys_are_named_with_their_path(grid_file, tmp_path, change, words):
    with pytest.raises(ConfigError, match=words):
        train({"grid": [str(grid_file)], "process": {**PLAN, **change}}, tmp_path)


def test_the_test_split_may_be_learnt_from_where_others_judge(grid_file, grid, tmp_path):
    config = {"grid": [str(grid_file)], "process": {**PLAN, "steps": 2}, "splits": ["train", "test"]}
    emulator = train(config, tmp_path)
    assert len(emulator.stars) == len(grid.split("train")) + len(grid.split("test"))
    assert emulator.header["metrics"]["stars"] == len(grid.split("validation"))


@pytest.mark.parametrize("splits", [[], ["train", "train"], ["train", "test", "validation"]])
def test_splits_that_leave_nothing_are_refused(grid_file, tmp_path, splits):
    with pytest.raises(ConfigError, match=r"\$\.splits is .*expected train"):
        train({"grid": [str(grid_file)], "process": PLAN, "splits": splits}, tmp_path)


# Physics that changed ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corrected():
    """60 of the 240 models with other line strengths, and 60 new ones that nobody has learnt from."""
    correction = np.random.default_rng(5).normal(0.0, 0.4, 80)
    part, unseen = (tiny_grid.make_grid(240, seed, correction) for seed in (0, 1))
    return (attrs.evolve(part, values=part.values[:60], ids=part.ids[:60]),
            attrs.evolve(unseen, values=unseen.values[:60], ids=unseen.ids[:60]))  # fmt: skip


def trained(grid, folder, **plan):
    folder.mkdir()
    grid.save(folder / "grid.h5")
    return train({"grid": [str(folder / "grid.h5")], "process": {**PLAN, **plan}}, folder)


@pytest.mark.slow
def test_spectra_of_former_physics_serve_when_some_are_computed_anew(emulator, grid, corrected, tmp_path):
    emulator.save(tmp_path / "former.safetensors")
    few, unseen = corrected
    size = {"components": {"green": 30, "red": 30}}
    alone = trained(few, tmp_path / "alone", **size)
    both = trained(few, tmp_path / "both", former=str(tmp_path / "former.safetensors"), **size)

    def rms(of):
        inside = ((unseen.values >= of.bounds[:, 0]) & (unseen.values <= of.bounds[:, 1])).all(1)
        assert inside.sum() > 20
        difference = of(unseen.values[inside]) - unseen.flux(np.flatnonzero(inside))
        return np.sqrt(np.median(np.square(difference).mean(1)))

    assert rms(both) < 0.5 * rms(alone) and rms(both) < 0.2 * rms(emulator)
    new, old = set(map(tuple, few.values)), set(map(tuple, grid.values[grid.split("train")]))
    assert both.header["former"]["stars"] == len(old - new) == len(both.stars) - len(few.split("train"))
    assert both.header["former"]["grid"]["hash"] == grid.hash
    assert both.provenance["code"].endswith(f"(grid {few.hash})")
    assert np.all(both.bounds[:, 0] <= alone.bounds[:, 0]) and np.all(both.bounds[:, 1] >= alone.bounds[:, 1])


def test_models_that_judge_are_not_added(emulator, grid, corrected, tmp_path):
    emulator.save(tmp_path / "former.safetensors")
    few, _ = corrected
    former = Former.of(str(tmp_path / "former.safetensors"), few, few.split("train"))
    assert int(former.added.sum()) == len(set(grid.split("train")) - set(range(60)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": (*tiny_grid.LABELS[:4], "si_fe", "a_li")}, "labels of .*mg_fe.* of the grid: .*si_fe"),
        ({"resolving_power": 30_000.0}, "resolving power of .*60000.* of the grid: 30000"),
        ({"wavelength": tiny_grid.WAVELENGTH + 0.01}, "other pixels than the grid"),
    ],
)  # fmt: skip
def test_a_former_emulator_of_another_kind_of_grid_is_refused(emulator, grid, tmp_path, change, words):
    emulator.save(tmp_path / "former.safetensors")
    with pytest.raises(ConfigError, match=words):
        Former.of(str(tmp_path / "former.safetensors"), attrs.evolve(grid, **change), grid.split("train"))


def test_a_former_emulator_of_other_windows_is_refused(emulator, grid, tmp_path):
    emulator.save(tmp_path / "former.safetensors")
    former = Former.of(str(tmp_path / "former.safetensors"), grid, grid.split("train"))
    with pytest.raises(ConfigError, match="windows of another width"):
        former.spectra(slice(0, 10), torch.ones(len(former.computed), 10))
