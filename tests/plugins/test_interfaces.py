"""What plugins need not write, and what they declare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_plugin
import numpy as np
import pytest
from scipy import sparse

import specinn.plugins
from specinn.errors import ConfigError
from specinn.plugins import Plugins
from specinn.plugins.interfaces import OODScore, Preprocessor, Synthesizer, first_of, needed_on_pixels


class Plain(Synthesizer):
    labels = ("teff",)
    bounds = np.array([[4000.0, 7000.0]])
    wavelength = np.arange(5000.0, 5003.0)
    resolving_power, medium = 1e5, "air"

    def __call__(self, labels: Any) -> Any:
        return np.asarray(labels) * np.array([1.0, 2.0, 4.0])


class Pieces(Plain):
    def __init__(self) -> None:
        self.arms = {"blue": slice(0, 1), "red": slice(1, 3)}


def test_a_synthesizer_that_writes_no_more_than_it_must(tmp_path: Path) -> None:
    code = Plain.load()
    assert dict(code.arms) == {"all": slice(0, 3)} and set(Pieces.load().arms) == {"blue", "red"}
    assert code.covering({"green": (6000.0, 6100.0)}) is code
    assert not code.differentiable
    assert Plain.components() == []
    Plain.setup(tmp_path, print)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="Plain is not trained"):
        Plain.load(tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError, match="not one that is trained"):
        code.save(tmp_path / "weights.safetensors")


def test_a_linear_operator_follows_a_synthesizer() -> None:
    means = sparse.csr_array(np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]))
    code = Plain().resampled(np.array([5000.5, 5001.5]), {"all": slice(0, 2)}, means)
    np.testing.assert_allclose(code(np.array([[1.0], [10.0]])), [[1.5, 3.0], [15.0, 30.0]])


def test_the_stages_of_the_shipped_steps() -> None:
    plugins = Plugins()
    names = ("mask", "rest-frame", "to-arms", "degrade-snr", "continuum")
    steps: list[type[Preprocessor]] = [plugins.load("preprocessor", name) for name in names]
    assert [step.stage for step in steps] == ["mask", "velocity", "pixels", "noise", "continuum"]
    assert [step.takes_velocity for step in steps] == [False, True, False, False, False]
    assert first_of("pixels", steps) == 2 and first_of("other", steps) is None
    assert needed_on_pixels(steps) == [False, False, False, True, True]
    assert needed_on_pixels([steps[0], steps[4]]) == [False, True]  # without a step to the pixels


class Former(fake_plugin.Toy):
    """An estimator that was written when the method had another name."""

    def strangeness(self, batch: Any) -> OODScore:
        return OODScore(np.full(len(batch), 2.0), ["odd"] * len(batch))


def test_former_names_of_the_ood_score_work_and_say_so(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="Strangeness is now called OODScore"):
        assert specinn.plugins.Strangeness is OODScore
    toy = fake_plugin.Toy.train({}, tmp_path, lambda state: None)
    batch = fake_plugin.simulate(fake_plugin.from_unit(np.zeros((2, len(fake_plugin.LABELS)))), snr=100.0)
    assert toy.ood_score(batch) is None
    former = Former({"mean": toy.mean, "response": toy.response}, toy.header)
    with pytest.warns(DeprecationWarning, match="strangeness of Former is now called ood_score"):
        score = former.ood_score(batch)
    assert score is not None and score.score.tolist() == [2.0, 2.0]
