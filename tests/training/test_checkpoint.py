"""Weights and checkpoints on disk: whole or not at all, exact, and never unpickled."""

import json
import math
import pickle
import stat
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from specinn.errors import ConfigError, ModelError, OutputError
from specinn.training.checkpoint import fingerprint, load_checkpoint, one_cycle, save_checkpoint
from specinn.weights import file_hash, load_weights, read_header, save_weights

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "whole": torch.tensor([1, 2**40]),
}


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(path, TENSORS, {"format": "x", "name": "five", "nested": {"list": [1, 2.5, None]}})
    return path


# Weights -----------------------------------------------------------------------------------------


def test_what_was_saved_is_loaded(weights):
    tensors, header = load_weights(weights, "x")
    assert header == {"format": "x", "name": "five", "nested": {"list": [1, 2.5, None]}}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == TENSORS[name].dtype and torch.equal(tensor, TENSORS[name])
    assert read_header(weights) == header
    assert [p.name for p in weights.parent.iterdir()] == ["model.safetensors"]
    assert stat.S_IMODE(weights.stat().st_mode) == 0o644


def test_views_and_shared_storage_are_saved_as_they_look(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    tensors = {"base": base, "transposed": base.T, "row": base[1], "parameter": torch.nn.Parameter(base)}
    save_weights(tmp_path / "m", tensors, {"format": "x"})
    loaded, _ = load_weights(tmp_path / "m", "x")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_the_header_is_read_without_the_tensors(weights):
    content = weights.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    with weights.open("r+b") as file:
        file.truncate(8 + length)
        file.truncate(len(content))  # zeros for the tensors
    assert read_header(weights)["name"] == "five"
    weights.write_bytes(content[:-4])
    for read in read_header, lambda path: load_weights(path, "x"):
        with pytest.raises(ModelError, match=r"is damaged: it has \d+ bytes, .*copy or train it again"):
            read(weights)


def test_a_file_of_another_kind_is_an_error(weights):
    with pytest.raises(ModelError, match="holds a 'x', expected a 'specinn model'"):
        load_weights(weights, "specinn model")


class Trap:
    """Raises when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise RuntimeError('unpickled')",))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a safetensors file"),
        (b"\x05", "not a safetensors file"),
        (b"SIMPLE  =  T" * 99, "not a safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "not a safetensors file"),
        (struct.pack("<Q", 30) + b"{" * 30, "cannot be read as a safetensors file"),
        (struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc", "cannot be read as a safetensors file"),
        (struct.pack("<Q", 4) + b"[1] ", "cannot be read as a safetensors file"),
        (struct.pack("<Q", 2) + b"{}", "has no specinn header"),
        (struct.pack("<Q", 31) + b'{"__metadata__": {"specinn":1}}', "cannot be read as a safetensors"),
        (struct.pack("<Q", 35) + b'{"__metadata__": {"specinn": "{1"}} ', "cannot be read"),
        (struct.pack("<Q", 36) + b'{"__metadata__": {"specinn": "[1]"}}', "has no specinn header"),
        (pickle.dumps(Trap()), "not a safetensors file"),
    ],
)
def test_damaged_and_strange_files_are_errors(tmp_path, content, words):
    path = tmp_path / "strange"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words) as error:
        read_header(path)
    assert str(path) in str(error.value)
    with pytest.raises(ModelError):
        load_weights(path, "x")


def test_files_of_torch_are_refused_and_not_unpickled(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"x": Trap()}, path)
    with pytest.raises(ModelError, match="safetensors"):
        load_weights(path, "x")


def test_missing_files_and_folders_are_errors(tmp_path):
    with pytest.raises(ModelError, match="no such model file"):
        read_header(tmp_path / "none")
    with pytest.raises(ModelError, match="is a folder: give a model"):
        read_header(tmp_path)


def test_weights_of_others_are_an_error(tmp_path):
    save_file(TENSORS, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="has no specinn header: give a model that specinn train wrote"):
        load_weights(tmp_path / "other.safetensors", "x")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(weights, monkeypatch):
    before = weights.read_bytes()
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("specinn.weights.os.replace", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(OutputError, match="cannot be written: No space left on device"):
        save_weights(weights, {"a": torch.zeros(3)}, {"format": "x"})
    assert weights.read_bytes() == before
    assert [p.name for p in weights.parent.iterdir()] == [weights.name]


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*_args, **_more):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutputError, match=r"cannot be written: .*No space left on device"):
        save_weights(tmp_path / "m", TENSORS, {"format": "x"})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        save_weights(tmp_path / "file" / "model", TENSORS, {"format": "x"})


def test_nan_has_no_place_in_a_header(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        save_weights(tmp_path / "m", TENSORS, {"format": "x", "rms": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_hash_is_that_of_the_content(weights, tmp_path):
    copy = tmp_path / "copy"
    copy.write_bytes(weights.read_bytes())
    assert file_hash(copy) == file_hash(weights)
    copy.write_bytes(copy.read_bytes()[:-1] + b"?")
    assert file_hash(copy) != file_hash(weights)


# Checkpoints -------------------------------------------------------------------------------------

leaves = st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(), st.text())
states = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.dictionaries(st.one_of(st.text(), st.integers(0, 99)), inner),
    max_leaves=20,
)


@pytest.mark.slow
@settings(max_examples=30)
@given(state=st.dictionaries(st.text(), states))
def test_plain_states_survive(tmp_path_factory, state):
    path = tmp_path_factory.getbasetemp() / "state.safetensors"
    save_checkpoint(path, state, "of")
    assert json.dumps(as_lists(load_checkpoint(path, "of"))) == json.dumps(as_lists(state))


def as_lists(value):
    """Dictionaries with whole numbers for keys are not the same in JSON, so pairs stand for them."""
    if isinstance(value, dict):
        return [[repr(key), as_lists(each)] for key, each in value.items()]
    return [as_lists(each) for each in value] if isinstance(value, list) else value


def test_infinity_survives(tmp_path):
    save_checkpoint(tmp_path / "c", {"best": math.inf, "worst": [-math.inf, {"x": math.nan}]}, "of")
    state = load_checkpoint(tmp_path / "c", "of")
    assert state["best"] == math.inf and state["worst"][0] == -math.inf and math.isnan(state["worst"][1]["x"])


def make(seed):
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1))
    return network, torch.optim.AdamW(network.parameters(), lr=1e-2)


def go_on(network, optimiser, first, last):
    for step in range(first, last):
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        (network(x)[:, 0] - x.sum(1)).square().mean().backward()
        optimiser.step()


def test_an_optimiser_goes_on_bit_for_bit(tmp_path):
    undisturbed = make(0)
    go_on(*undisturbed, 0, 20)
    first = make(0)
    go_on(*first, 0, 12)
    state = {"network": first[0].state_dict(), "optimiser": first[1].state_dict(), "step": 12}
    save_checkpoint(tmp_path / "c", state, "of")
    second = make(1)
    state = load_checkpoint(tmp_path / "c", "of")
    second[0].load_state_dict(state["network"])
    second[1].load_state_dict(state["optimiser"])
    go_on(*second, state["step"], 20)
    for name, value in undisturbed[0].state_dict().items():
        assert torch.equal(second[0].state_dict()[name], value)


def test_no_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path / "none", "of") is None


def test_the_checkpoint_of_another_training_is_an_error(tmp_path):
    save_checkpoint(tmp_path / "c", {"step": 1}, fingerprint({"width": 1}))
    assert load_checkpoint(tmp_path / "c", fingerprint({"width": 1})) == {"step": 1}
    with pytest.raises(ConfigError, match="another configuration: delete it to start anew"):
        load_checkpoint(tmp_path / "c", fingerprint({"width": 2}))


def test_a_damaged_checkpoint_is_an_error(tmp_path):
    path = tmp_path / "c"
    save_checkpoint(path, {"weights": torch.zeros(1000)}, "of")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="is damaged"):
        load_checkpoint(path, "of")


def test_fingerprint_hangs_on_every_value_and_not_on_the_order():
    config = {"a": 1, "b": {"c": [1.0, 2.0], "d": None}}
    assert fingerprint(config) == fingerprint({"b": {"d": None, "c": [1.0, 2.0]}, "a": 1})
    assert fingerprint(config) != fingerprint({"a": 1, "b": {"c": [1.0, 2.1], "d": None}})


def test_learning_rate_rises_and_falls():
    rates = np.array([one_cycle(x, 2e-3, warm=0.1) for x in np.linspace(0, 1, 201)])
    assert rates[0] == pytest.approx(0.04 * 2e-3) and rates.max() == pytest.approx(2e-3, rel=1e-6)
    assert rates.argmax() == 20 and (np.diff(rates[:20]) > 0).all() and (np.diff(rates[20:]) < 0).all()
    assert 0 < rates[-1] < 1e-8
