"""The file of a model by the two functions that write and read it."""

from __future__ import annotations

from pathlib import Path

import fake_plugin
import numpy as np
import pytest
import torch

from specinn import models
from specinn.errors import ModelError
from specinn.plugins import Estimator, open_model, save_model, save_weights


@pytest.fixture(scope="module")
def toy() -> Estimator:
    return fake_plugin.Toy.train({"n": 8}, Path(), lambda state: None)


def test_D10_a_model_goes_there_and_back(toy: Estimator, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, toy, "toy", {"a": np.arange(3.0), "b": torch.ones(2, 2)}, width=7)
    with open_model(path) as m:
        assert (m.labels, m.instrument, m.preprocessing) == (toy.labels, toy.instrument, toy.preprocessing)
        assert m.header["width"] == 7 and m.header["name"] == "toy-model"
        assert set(m.tensors) == {"a", "b"} and m.tensors["a"].tolist() == [0.0, 1.0, 2.0]
        np.testing.assert_array_equal(m.templates.wavelength, toy.templates.wavelength)
        np.testing.assert_array_equal(m.templates.flux, toy.templates.flux)
        assert m.templates.arms == toy.templates.arms
    assert models.read_header(path)["estimator"] == "toy"
    assert [each.name for each in tmp_path.iterdir()] == ["m.safetensors"]


def test_keys_of_a_header_with_their_former_names(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    header = {"format": models.FORMAT, "version": models.VERSION, "estimator": "toy"}
    former = {"strangers": {"sizes": 1}, "training": {"calibrators": [{"name": "Sun"}], "seed": 0}}
    save_weights(path, {"a": torch.ones(1)}, header | former)
    present = {"ood": {"sizes": 1}, "training": {"reference_stars": [{"name": "Sun"}], "seed": 0}}
    assert models.read_header(path) == header | present


def test_templates_may_be_kept_with_less_precision(toy: Estimator, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, toy, "toy", {"templates.flux": torch.as_tensor(toy.templates.flux).half()})
    with open_model(path) as m:
        np.testing.assert_allclose(m.templates.flux, toy.templates.flux, atol=1e-3)
        assert m.templates.flux.dtype == np.float64 and not m.tensors


@pytest.mark.parametrize("error", [KeyError("weights"), ValueError("shapes"), RuntimeError("size mismatch")])
def test_what_does_not_fit_is_a_model_error(toy: Estimator, tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, toy, "toy", {})
    with (
        pytest.raises(ModelError, match=r"m\.safetensors: its weights do not fit its header"),
        open_model(path),
    ):
        raise error


def test_files_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(ModelError, match="no such model file"), open_model(path):
        pass
    save_weights(path, {"a": torch.ones(1)}, {"format": "specinn emulator"})
    with (
        pytest.raises(ModelError, match="holds a 'specinn emulator', expected a 'specinn model'"),
        open_model(path),
    ):
        pass
    save_weights(path, {"a": torch.ones(1)}, {"format": "specinn model"})
    with pytest.raises(ModelError, match="its weights do not fit its header"), open_model(path):
        pass
