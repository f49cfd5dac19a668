"""What the tests of runs with the toy model share."""

from __future__ import annotations

import fake_plugin
import pytest

from specinn.plugins import Plugins


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    path = tmp_path_factory.mktemp("model") / "toy.safetensors"
    fake_plugin.Toy.train({}, path.parent, lambda state: None).save(path)
    fake_plugin.MODELS["toy-model"] = path
    return Plugins(entry=[], extra={"fake": fake_plugin})
