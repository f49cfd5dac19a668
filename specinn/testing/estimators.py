"""The contract of estimators: what they draw, what they store, and how they train."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from specinn.errors import ConfigError, SpecinnError
from specinn.plugins.interfaces import Estimator
from specinn.plugins.manager import Trainer
from specinn.posterior import Posterior
from specinn.spectra import SpectrumBatch
from specinn.testing.flows import check_flow
from specinn.testing.rules import close, failure, section, snapshot, unchanged

_require = section("estimators")


def check_estimator(estimator: Estimator, batch: SpectrumBatch, n_samples: int = 64) -> Posterior:
    """A trained estimator, on at least two preprocessed spectra, with ``n_samples`` for each.

    Shapes and rejection, seeds, independence of spectra, the density of its own samples, and a round trip
    through a file bit for bit; where it has ``to_latent(batch, labels)``, as flows have, also its Jacobian
    (:func:`check_log_density`). Returns a posterior.
    """
    _require(len(batch) > 1, "the check needs a batch of at least two spectra")
    if "key" not in batch.meta.colnames:
        meta = batch.meta.copy()
        meta["key"] = np.arange(len(batch))
        batch = SpectrumBatch(batch.wavelength, batch.flux, batch.sigma, batch.mask, batch.resolving_power,
                              batch.medium, meta, batch.arms)  # fmt: skip
    before = snapshot(batch)
    posterior = estimator.sample(batch, n_samples, seed=1)
    _require(unchanged(batch, before), "sample changed the batch")
    _check_posterior(posterior, estimator, len(batch), n_samples)

    again = estimator.sample(batch, n_samples, seed=1)
    _require(np.array_equal(again.samples, posterior.samples), "the same seed gives other samples")
    other = estimator.sample(batch, n_samples, seed=2)
    _require(not np.array_equal(other.samples, posterior.samples), "another seed gives the same samples")
    widths = np.ptp(estimator.labels.bounds, axis=1)
    for rows in (slice(0, 1), slice(len(batch) - 1, len(batch)), slice(None, None, -1)):
        part = estimator.sample(batch[rows], n_samples, seed=1).samples
        alike = close(part, posterior.samples[rows], 1e-4, 1e-3 * widths)
        _require(alike, "the samples of a spectrum depend on its companions in the batch")

    summary, expected = estimator.summarise(batch, n_samples, seed=1), posterior.summary()
    for name in ("map", "std", "quantiles", "rejected_fraction"):
        alike = close(getattr(summary, name), getattr(expected, name), 1e-4, 1e-4)
        _require(alike, f"{name} of summarise is not that of the samples")

    encoded = estimator.encode(batch)
    shared = estimator.sample(encoded, n_samples, seed=1).samples
    alike = close(shared, posterior.samples, 1e-4, 1e-3 * widths)
    _require(alike, "the samples of what encode gives are not those of the batch")
    _require(len(encoded) == len(batch), f"encode gave {len(encoded)} spectra for {len(batch)}")
    last = estimator.sample(encoded[np.array([len(batch) - 1])], n_samples, seed=1).samples
    alike = close(last, posterior.samples[-1:], 1e-4, 1e-3 * widths)
    _require(alike, "[rows] of what encode gives are not the spectra of these rows")

    density = np.asarray(estimator.log_prob(batch, posterior.samples))
    shape = posterior.log_prob.shape
    _require(density.shape == shape, f"log_prob has shape {density.shape}: expected {shape}")
    usable = posterior.inside
    _require(np.isfinite(density[usable]).all(), "log_prob of accepted samples is not finite")
    near = close(density[usable], posterior.log_prob[usable], 2e-3, 0.02)
    _require(near, "log_prob of the samples is not the density that sample gives with them")

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.safetensors"
        estimator.save(path)
        _require([p.name for p in Path(name).iterdir()] == [path.name], "save wrote more than one file")
        loaded = type(estimator).load(path)
        for attribute in ("labels", "instrument", "preprocessing"):
            same = getattr(loaded, attribute) == getattr(estimator, attribute)
            _require(same, f"{attribute} differs after save and load")
        copy = loaded.sample(batch, n_samples, seed=1).samples
        _require(np.array_equal(copy, posterior.samples), "samples differ after save and load")
        path.write_bytes(path.read_bytes()[:1000])
        error = failure(lambda: type(estimator).load(path))
        _require(isinstance(error, SpecinnError), f"a truncated model raised {error!r}, not a ModelError")
    if hasattr(estimator, "to_latent"):
        check_flow(estimator, batch[:1], posterior.samples[0][usable[0]])
    return posterior


def _check_posterior(posterior: Posterior, estimator: Estimator, n_spec: int, n_samples: int) -> None:
    shape = (n_spec, n_samples, len(estimator.labels))
    actual = posterior.samples.shape
    _require(actual == shape, f"samples have shape {actual}: expected {shape}")
    _require(posterior.labels == estimator.labels, "the labels of the posterior are not the estimator's")
    inside = posterior.inside
    _require(np.isfinite(posterior.samples[inside]).all(), "accepted samples are not finite")
    _require(np.isfinite(posterior.log_prob[inside]).all(), "accepted samples have no finite log_prob")
    within = estimator.labels.inside(posterior.samples)
    _require(not (inside & ~within).any(), "samples outside the training bounds were accepted")
    spread = np.ptp(posterior.samples, axis=1)
    _require((spread > 0).all(), "all samples of a spectrum are the same")


def check_training(
    trainer: Trainer | type[Estimator], config: Mapping[str, Any], folder: str | Path
) -> Estimator:
    """A training by ``config``, the ``[estimator]`` table of a recipe without its ``kind``.

    ``trainer`` is the function that the record names, or an older estimator with a method ``train``.

    Checks what a wrong key raises, what ``progress`` receives, and that an interrupted training resumes. It
    is interrupted when three quarters are done, so a checkpoint should come before. Checkpoints are left in
    ``folder``, which should be empty. Returns the model.
    """
    is_class = isinstance(trainer, type)
    kind: Any = trainer if is_class else Estimator
    train: Any = kind.train if is_class else trainer
    folder = Path(folder)
    error = failure(lambda: train({**config, "no_such_key": 1}, folder, lambda state: None))
    named = isinstance(error, ConfigError) and "no_such_key" in str(error)
    _require(named, f"an unknown key raised {error!r}, not a ConfigError that names it")

    def run(until: float) -> tuple[Estimator | None, list[int]]:
        heard: list[int] = []

        def progress(state: dict[str, Any]) -> None:
            key = "step" if "step" in state else "epoch"
            complete = {key, f"{key}s"} <= set(state)
            _require(complete, f"progress heard {state}: expected step and steps, or epoch and epochs")
            heard.append(state[key])
            if heard[-1] >= until * state[f"{key}s"]:
                raise KeyboardInterrupt

        try:
            return train(dict(config), folder, progress), heard
        except KeyboardInterrupt:
            return None, heard

    model, before = run(0.75)
    _require(model is None and before, "progress was not called, or an interruption was swallowed")
    model, after = run(np.inf)
    _require(isinstance(model, kind), f"train gave {type(model).__name__}, not {kind.__name__}")
    _require(after and after[0] > before[0], "an interrupted training began anew")
    assert model is not None
    return model
