"""The plugin of fake_plugin.py as an installed package has it: found by entry point in every process.

What a test wants to go wrong it says in the environment: ``TOY_PAUSE`` seconds for every batch;
``TOY_VICTIM``, the id of a star whose process is killed as often as the file ``TOY_LIVES`` has characters.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import fake_plugin
import numpy as np

from specinn.plugins.hookspecs import EstimatorRecord, InstrumentRecord, ReaderRecord, Record, hookimpl
from specinn.posterior import Posterior
from specinn.spectra import SpectrumBatch

STEPS = {"toy-rest-frame": "RestFrame", "toy-to-arms": "ToArms"}  # specinn has the plain names


@hookimpl
def specinn_instruments() -> list[InstrumentRecord | ReaderRecord]:
    return fake_plugin.specinn_instruments()


@hookimpl
def specinn_preprocessors() -> list[Record]:
    return [Record(name=name, summary="", factory=f"fake_plugin:{cls}") for name, cls in STEPS.items()]


@hookimpl
def specinn_estimators() -> list[EstimatorRecord]:
    return [EstimatorRecord(name="toy", summary="", factory="survey_plugin:Mortal")]


class Mortal(fake_plugin.Toy):
    def sample(self, batch: SpectrumBatch, n_samples: int, seed: int) -> Posterior:
        time.sleep(float(os.environ.get("TOY_PAUSE", 0)))
        if os.environ.get("TOY_VICTIM") in list(batch.meta["id"]):
            lives = Path(os.environ["TOY_LIVES"])
            left = lives.read_text()
            if left:
                lives.write_text(left[1:])
                os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(batch, n_samples, seed)


def install(folder: Path) -> str:
    return fake_plugin.install("survey_plugin", folder)


def write_model(path: Path, n: int = 40) -> Path:
    model = fake_plugin.Toy.train({"n": n}, path.parent, lambda state: None)
    model.header["preprocessing"] = [[name, {}] for name in STEPS]
    model.save(path)
    return path


def write_files(folder: Path, sizes: list[int], bad: tuple[int, ...] = ()) -> list[Path]:
    """Files ``s00.txt``, ... of so many stars each, of which those in ``bad`` are none."""
    rng = np.random.default_rng(7)
    paths = []
    for i, n in enumerate(sizes):
        truth = fake_plugin.from_unit(rng.uniform(-0.4, 0.4, (n, len(fake_plugin.LABELS))))
        batch: Any = fake_plugin.simulate(truth, seed=i)
        batch.meta["id"] = [f"star-{i}-{j}" for j in range(n)]
        paths.append(fake_plugin.write_text(folder / f"s{i:02d}.txt", batch))
        if i in bad:
            paths[-1].write_text("a letter to a friend\n")
    return paths
