"""Contract checks: call them from the tests of a plugin.

Each check raises an ``AssertionError`` that names the rule that was broken and where it is documented.
They take what a plugin's factory makes, together with data that the author chooses, and need no test runner.
"""

from __future__ import annotations

import inspect
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from specinn.errors import ConfigError, PluginError, ReadError, SpecinnError
from specinn.instruments import Instrument
from specinn.interfaces import (
    BenchmarkStars,
    Correction,
    Estimator,
    GridLoader,
    Preprocessor,
    Reader,
    Synthesizer,
)
from specinn.posterior import Posterior
from specinn.spectra import SpectrumBatch

if TYPE_CHECKING:
    from specinn.plugins import Offer

_INTERFACES: dict[str, tuple[type, str]] = {
    "reader": (Reader, "readers"),
    "preprocessor": (Preprocessor, "preprocessors"),
    "grid loader": (GridLoader, "grid-loaders"),
    "synthesizer": (Synthesizer, "synthesizers"),
    "estimator": (Estimator, "estimators"),
    "correction": (Correction, "corrections"),
}  # of each kind of record what its factory must be, and where that is documented
_CALLED_WITH: dict[str, tuple[str, ...]] = {
    "reader": (),
    "grid loader": (),
    "preprocessor": ("instrument", "templates"),
}


def _require(ok: Any, anchor: str, broken: str) -> None:
    if not bool(ok):
        raise AssertionError(f"{broken} (the rule: docs/plugins.md#{anchor})")


def _same(first: np.ndarray, second: np.ndarray, rtol: float, atol: float | np.ndarray = 0.0) -> bool:
    """Equal shapes, equal NaN, and everywhere closer than ``atol + rtol |second|``."""
    if np.shape(first) != np.shape(second):
        return False
    both = np.isnan(first) & np.isnan(second)
    equal = first == second  # infinities
    with np.errstate(invalid="ignore"):
        near = np.abs(first - second) <= atol + rtol * np.abs(second)
    return bool((both | equal | near).all())


def _snapshot(batch: SpectrumBatch) -> tuple[Any, ...]:
    arrays = tuple(getattr(batch, name).copy() for name in ("wavelength", "flux", "sigma", "mask"))
    return (*arrays, batch.meta.copy(copy_data=True))


def _unchanged(batch: SpectrumBatch, before: tuple[Any, ...]) -> bool:
    arrays = (batch.wavelength, batch.flux, batch.sigma, batch.mask)
    same = all(np.array_equal(x, y, equal_nan=x.dtype != bool) for x, y in zip(arrays, before, strict=False))
    meta = before[-1]
    return same and batch.meta.colnames == meta.colnames and all(
        _equal_column(batch.meta[name], meta[name]) for name in meta.colnames
    )  # fmt: skip


def _equal_column(first: Any, second: Any) -> bool:
    return len(first) == len(second) and all(
        a is b or np.all(a == b) or (np.all(a != a) and np.all(b != b))
        for a, b in zip(first, second, strict=True)
    )


# Records -----------------------------------------------------------------------------------------


def check_plugin(plugin: Any) -> list[Offer]:
    """A plugin, by its module (or object) with the hooks: it loads, and every record of it leads to what it
    names. Imports all that the records name. Returns the offers.
    """
    from specinn.plugins import Plugins

    anchor = "hooks-and-records"
    plugins = Plugins(entry=[], extra={"plugin": plugin})
    for failure in plugins.failures:
        _require(False, anchor, f"the plugin does not load: {failure.reason}")
    offers = plugins.offers()
    _require(offers, anchor, "the plugin offers nothing: is a hook without @hookimpl?")
    seen = set()
    for offer in offers:
        record = offer.record
        what = f"{offer.kind} {record.name!r}"
        _require(
            re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", record.name),
            anchor,
            f"{what}: a name is of small letters, digits and hyphens",
        )
        _require((offer.kind, record.name) not in seen, anchor, f"{what} is there twice")
        seen.add((offer.kind, record.name))
        one_line = record.summary.strip() and "\n" not in record.summary
        _require(one_line, anchor, f"{what}: the summary is not one line")
        if offer.kind == "instrument":
            instrument = check_instrument(record.toml)
            _require(instrument.name == record.name, anchor, f"{what} is {instrument.name!r} in its TOML")
        else:
            _check_factory(record, offer.kind, what)
    return offers


def _check_factory(record: Any, kind: str, what: str) -> None:
    from specinn.models import read_header
    from specinn.plugins import load_factory

    interface, anchor = _INTERFACES[kind]
    try:
        factory = load_factory(record)
    except PluginError as cause:
        raise AssertionError(f"{what}: {cause} (the rule: docs/plugins.md#hooks-and-records)") from cause
    good = isinstance(factory, type) and issubclass(factory, interface)
    _require(good, anchor, f"{what}: {record.factory} is no specinn.interfaces.{interface.__name__}")
    missing = ", ".join(sorted(getattr(factory, "__abstractmethods__", ())))
    _require(not missing, anchor, f"{what}: {record.factory} lacks {missing}")
    if kind in _CALLED_WITH:
        given = _CALLED_WITH[kind]
        error = _failure(lambda: inspect.signature(factory).bind(**dict.fromkeys(given)))
        names = " and ".join(given) or "no arguments"
        _require(error is None, anchor, f"{what}: {record.factory} cannot be called with {names} ({error})")
    for name, path in getattr(record, "models", {}).items():
        try:
            owner = read_header(path)["estimator"]
        except SpecinnError as cause:
            _require(False, "hooks-and-records", f"{what}: its model {name!r}: {cause}")
        _require(owner == record.name, anchor, f"{what}: its model {name!r} is one of {owner!r}")


# Spectra -----------------------------------------------------------------------------------------


def check_instrument(path: str | Path) -> Instrument:
    """An instrument's TOML: it loads, says what it is, covers its ranges and survives a round trip."""
    instrument = Instrument.from_toml(path)
    anchor = "instruments"
    _require(instrument.summary.strip(), anchor, f"{path}: the summary is empty")
    again = Instrument.from_dict(instrument.to_dict(), "round trip")
    _require(again == instrument, anchor, f"{path}: the instrument differs after to_dict and from_dict")
    for arm in instrument.arms:
        for low, high in arm.snr_windows:
            inside = arm.range[0] <= low < high <= arm.range[1]
            _require(inside, anchor, f"{path}: S/N window {low}-{high} is not within arm {arm.name}")
        if arm.pixels is not None:
            wavelength = arm.wavelength
            step = np.diff(wavelength).max()
            covered = wavelength[0] <= arm.range[0] + step and wavelength[-1] >= arm.range[1] - step
            _require(covered, anchor, f"{path}: the pixels of arm {arm.name} do not reach over its range")
    return instrument


def check_reader(reader: Reader, path: str | Path) -> list[SpectrumBatch]:
    """A reader, on a file of its format: what it recognises, what it yields, and how it fails.

    Returns the batches, so that a test can go on to check their values.
    """
    path = Path(path)
    anchor = "readers"
    content = path.read_bytes()
    _require(reader.recognises(path), anchor, f"{path} is not recognised")
    batches = list(reader.read(path))
    _require(sum(map(len, batches)) > 0, anchor, f"{path}: no spectrum was read")
    for batch in batches:
        _require(
            isinstance(batch, SpectrumBatch), anchor, f"read gave {type(batch).__name__}, no SpectrumBatch"
        )
        for column in ("id", "path"):
            _require(column in batch.meta.colnames, anchor, f"meta has no column {column!r}")
        for name, arm in batch.arms.items():
            steps = np.diff(batch.wavelength[arm])
            _require((steps > 0).all(), anchor, f"the wavelengths of {name!r} do not increase")
        _require(np.isfinite(batch.flux[~batch.mask]).all(), anchor, "flux that is not finite was not masked")
        known = np.isfinite(batch.sigma).any(axis=1)
        good = batch.sigma[known][~batch.mask[known]]
        _require(
            (np.isfinite(good) & (good > 0)).all(), anchor, "errors that are not positive were not masked"
        )
        _require(batch.medium in ("air", "vacuum"), anchor, f"medium is {batch.medium!r}")
    again = list(reader.read(path))
    equal = len(again) == len(batches) and all(
        _same(a.flux, b.flux, 0) and _same(a.wavelength, b.wavelength, 0)
        for a, b in zip(batches, again, strict=True)
    )
    _require(equal, anchor, "the same file read twice gives different spectra")
    _require(path.read_bytes() == content, anchor, f"{path} was changed by reading it")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        strange = {"nothing": b"", "noise": bytes(range(256)) * 16, "words": b"not a spectrum\n" * 9}
        for kind, data in strange.items():
            other = folder / f"{kind}{path.suffix}"
            other.write_bytes(data)
            _require(not _quiet(reader.recognises, other), anchor, f"a file of {kind} is recognised")
        broken = folder / path.name
        broken.write_bytes(content[: max(1, len(content) // 3)])
        error = _failure(lambda: [b.flux.sum() for b in reader.read(broken)])
        plain = error is None or isinstance(error, ReadError)
        _require(plain, anchor, f"a truncated file raised {type(error).__name__} ({error}), no ReadError")
    return batches


def check_preprocessor(step: Preprocessor, batch: SpectrumBatch, rtol: float = 1e-6) -> SpectrumBatch:
    """A preprocessing step, on a batch of at least two spectra: rows, input, NaN and independence of spectra.

    ``batch`` should hold good and bad spectra. Returns the step's result.
    """
    anchor = "preprocessors"
    _require(len(batch) > 1, anchor, "the check needs a batch of at least two spectra")
    before = _snapshot(batch)
    out = step(batch)
    _require(_unchanged(batch, before), anchor, "the step changed its input")
    _require(len(out) == len(batch), anchor, f"{len(batch)} spectra became {len(out)}")
    if "id" in batch.meta.colnames:
        _require(
            list(out.meta["id"]) == list(batch.meta["id"]), anchor, "spectra changed their order or their id"
        )
    good = ~out.mask
    _require(np.isfinite(out.flux[good]).all(), anchor, "flux that is not finite came out unmasked")
    unknown = np.isnan(out.sigma).all(axis=1, keepdims=True)
    _require(
        (np.isfinite(out.sigma) | unknown)[good].all(), anchor, "errors that are not finite came out unmasked"
    )
    again = step(batch)
    _require(_same(again.flux, out.flux, 0), anchor, "the same batch gives another result the second time")
    for row in range(len(batch)):
        single = step(batch[row : row + 1])
        scale = np.abs(out.flux[row][good[row]]).max(initial=0.0)
        alone = np.array_equal(single.mask[0], out.mask[row]) and _same(
            single.flux[0][good[row]], out.flux[row][good[row]], rtol, rtol * scale
        )
        _require(alone, anchor, f"spectrum {row} comes out otherwise alone than in its batch")
    return out


# Grids and synthesis -----------------------------------------------------------------------------


def check_grid_loader(loader: GridLoader, path: str | Path) -> Any:
    """A grid loader, on a file or folder of its layout. Returns the grid."""
    from specinn.grids import Grid

    path = Path(path)
    anchor = "grid-loaders"
    _require(loader.recognises(path), anchor, f"{path} is not recognised")
    grid = loader.load(path)
    _require(isinstance(grid, Grid), anchor, f"load gave {type(grid).__name__}, no Grid")
    _require(len(grid) > 0, anchor, "the grid is empty")
    _require("code" in grid.provenance, anchor, "the provenance does not say which code computed the spectra")
    for name, arm in grid.arms.items():
        _require(
            (np.diff(grid.wavelength[arm]) > 0).all(), anchor, f"the wavelengths of {name!r} do not increase"
        )
    sound = np.flatnonzero([i not in grid.defects for i in grid.ids.tolist()])
    rows = sound[np.unique([0, len(sound) // 2, len(sound) - 1])]
    flux = grid.flux(rows)
    shape = (len(rows), grid.wavelength.size)
    _require(flux.shape == shape, anchor, f"flux has shape {flux.shape}: expected {shape}")
    _require(_same(grid.flux(rows[::-1])[::-1], flux, 0), anchor, "rows asked for in another order differ")
    _require(_same(grid.flux(rows[-1:]), flux[-1:], 0), anchor, "a row asked for alone differs")
    _require((flux >= 0).all(), anchor, "negative flux was not rejected")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "noise").write_bytes(bytes(range(256)))
        for other, kind in (
            (folder, "a strange folder"),
            (folder / "noise", "a strange file"),
            (folder / "x", "nothing"),
        ):
            _require(not _quiet(loader.recognises, other), anchor, f"{kind} is recognised")
    return grid


def check_synthesizer(
    synthesizer: Synthesizer, values: Any = None, differentiable: bool = False
) -> np.ndarray:
    """A synthesizer: shapes, finite flux, independence of spectra; for torch ones also gradients.

    ``values (n_spec, n_labels)`` default to three points inside the bounds. Returns the flux.
    """
    anchor = "synthesizers"
    low, high = np.asarray(synthesizer.bounds, float).T
    _require(low.size == len(synthesizer.labels), anchor, "bounds and labels differ in length")
    _require((low < high).all(), anchor, "a lower bound is not below its upper one")
    wavelength = np.asarray(synthesizer.wavelength)
    _require((np.diff(wavelength) != 0).all() and (wavelength > 0).all(), anchor, "wavelengths repeat")
    _require(synthesizer.resolving_power > 1, anchor, f"resolving power is {synthesizer.resolving_power}")
    _require(synthesizer.medium in ("air", "vacuum"), anchor, f"medium is {synthesizer.medium!r}")
    try:
        json.dumps(dict(synthesizer.provenance), allow_nan=False)
    except (TypeError, ValueError) as error:
        _require(False, anchor, f"the provenance is not of JSON values ({error})")
    if values is None:
        values = low + np.linspace(0.35, 0.65, 3)[:, None] * (high - low)
    values = np.asarray(values, float)
    kept = values.copy()
    flux = np.asarray(synthesizer(values))
    _require(np.array_equal(values, kept), anchor, "the labels were changed")
    shape = (len(values), wavelength.size)
    _require(flux.shape == shape, anchor, f"flux has shape {flux.shape}: expected {shape}")
    _require(np.isfinite(flux).all(), anchor, "flux is not finite")
    _require((flux > -0.05).all() and flux.max() < 2, anchor, "flux is not normalised to the continuum")
    _require(flux.std(axis=1).min() > 0, anchor, "a spectrum has no lines")
    _require(
        _same(np.asarray(synthesizer(values[:1])), flux[:1], 1e-5, 1e-6), anchor, "a spectrum alone differs"
    )
    if differentiable:
        _check_gradient(synthesizer, values, flux)
    return flux


def _check_gradient(synthesizer: Synthesizer, values: np.ndarray, flux: np.ndarray) -> None:
    import torch

    anchor = "synthesizers"
    tensor = torch.tensor(values, dtype=torch.float32, requires_grad=True)
    out = synthesizer(tensor)
    _require(isinstance(out, torch.Tensor), anchor, "a tensor in did not give a tensor out")
    _require(
        _same(out.detach().cpu().numpy(), flux, 1e-4, 1e-4), anchor, "torch and numpy give different flux"
    )
    _require(out.requires_grad, anchor, "the flux has no gradient")
    out.std(dim=1).sum().backward()
    gradient = tensor.grad.numpy() if tensor.grad is not None else np.zeros(values.shape)
    _require(np.isfinite(gradient).all(), anchor, "a gradient is not finite")
    dead = [name for name, column in zip(synthesizer.labels, gradient.T, strict=True) if not column.any()]
    _require(not dead, anchor, f"the flux does not depend on {', '.join(dead)}")


# Posteriors --------------------------------------------------------------------------------------


def check_estimator(estimator: Estimator, batch: SpectrumBatch, n_samples: int = 64) -> Posterior:
    """A trained estimator, on at least two preprocessed spectra.

    Shapes and rejection, seeds, independence of spectra, the density of its own samples, and a round trip
    through a file bit for bit; where it has ``to_latent(batch, labels)``, as flows have, also its Jacobian
    (:func:`check_log_density`). Returns a posterior.
    """
    anchor = "estimators"
    _require(len(batch) > 1, anchor, "the check needs a batch of at least two spectra")
    if "key" not in batch.meta.colnames:
        meta = batch.meta.copy()
        meta["key"] = np.arange(len(batch))
        batch = SpectrumBatch(batch.wavelength, batch.flux, batch.sigma, batch.mask, batch.resolving_power,
                              batch.medium, meta, batch.arms)  # fmt: skip
    before = _snapshot(batch)
    posterior = estimator.sample(batch, n_samples, seed=1)
    _require(_unchanged(batch, before), anchor, "sample changed the batch")
    _check_posterior(posterior, estimator, len(batch), n_samples)

    again = estimator.sample(batch, n_samples, seed=1)
    _require(np.array_equal(again.samples, posterior.samples), anchor, "the same seed gives other samples")
    other = estimator.sample(batch, n_samples, seed=2)
    _require(
        not np.array_equal(other.samples, posterior.samples), anchor, "another seed gives the same samples"
    )
    widths = np.ptp(estimator.labels.bounds, axis=1)
    for rows in (slice(0, 1), slice(len(batch) - 1, len(batch)), slice(None, None, -1)):
        part = estimator.sample(batch[rows], n_samples, seed=1).samples
        alike = _same(part, posterior.samples[rows], 1e-4, 1e-3 * widths)
        _require(alike, anchor, "the samples of a spectrum depend on its companions in the batch")

    summary, expected = estimator.summarise(batch, n_samples, seed=1), posterior.summary()
    for name in ("map", "std", "quantiles", "rejected_fraction"):
        alike = _same(getattr(summary, name), getattr(expected, name), 1e-4, 1e-4)
        _require(alike, anchor, f"{name} of summarise is not that of the samples")

    density = np.asarray(estimator.log_prob(batch, posterior.samples))
    shape = posterior.log_prob.shape
    _require(density.shape == shape, anchor, f"log_prob has shape {density.shape}: expected {shape}")
    usable = posterior.inside
    _require(np.isfinite(density[usable]).all(), anchor, "log_prob of accepted samples is not finite")
    near = _same(density[usable], posterior.log_prob[usable], 2e-3, 0.02)
    _require(near, anchor, "log_prob of the samples is not the density that sample gives with them")

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.safetensors"
        estimator.save(path)
        _require(
            [p.name for p in Path(name).iterdir()] == [path.name], anchor, "save wrote more than one file"
        )
        loaded = type(estimator).load(path)
        for attribute in ("labels", "instrument", "preprocessing"):
            same = getattr(loaded, attribute) == getattr(estimator, attribute)
            _require(same, anchor, f"{attribute} differs after save and load")
        copy = loaded.sample(batch, n_samples, seed=1).samples
        _require(np.array_equal(copy, posterior.samples), anchor, "samples differ after save and load")
        path.write_bytes(path.read_bytes()[:1000])
        error = _failure(lambda: type(estimator).load(path))
        _require(
            isinstance(error, SpecinnError), anchor, f"a truncated model raised {error!r}, no ModelError"
        )
    if hasattr(estimator, "to_latent"):
        _check_flow(estimator, batch[:1], posterior.samples[0][usable[0]])
    return posterior


def check_training(kind: type[Estimator], config: Mapping[str, Any], folder: str | Path) -> Estimator:
    """A training by ``config``, the ``[estimator]`` table of a recipe without its ``kind``.

    What a wrong key gives, what ``progress`` hears, and that an interrupted training goes on. It is
    interrupted when three quarters are done, so a checkpoint should come before. Checkpoints are left in
    ``folder``, which should be empty. Returns the model.
    """
    anchor = "estimators"
    folder = Path(folder)
    error = _failure(lambda: kind.train({**config, "no_such_key": 1}, folder, lambda state: None))
    named = isinstance(error, ConfigError) and "no_such_key" in str(error)
    _require(named, anchor, f"an unknown key raised {error!r}, no ConfigError that names it")

    def run(until: float) -> tuple[Estimator | None, list[int]]:
        heard: list[int] = []

        def progress(state: dict[str, Any]) -> None:
            key = "step" if "step" in state else "epoch"
            told = {key, f"{key}s"} <= set(state)
            _require(told, anchor, f"progress heard {state}: expected step and steps, or epoch and epochs")
            heard.append(state[key])
            if heard[-1] >= until * state[f"{key}s"]:
                raise KeyboardInterrupt

        try:
            return kind.train(dict(config), folder, progress), heard
        except KeyboardInterrupt:
            return None, heard

    model, before = run(0.75)
    _require(model is None and before, anchor, "progress was not called, or an interruption went unheard")
    model, after = run(np.inf)
    _require(isinstance(model, kind), anchor, f"train gave {type(model).__name__}, no {kind.__name__}")
    _require(after and after[0] > before[0], anchor, "an interrupted training began anew")
    assert model is not None
    return model


def _check_posterior(posterior: Posterior, estimator: Estimator, n_spec: int, n_samples: int) -> None:
    anchor = "estimators"
    shape = (n_spec, n_samples, len(estimator.labels))
    found = posterior.samples.shape
    _require(found == shape, anchor, f"samples have shape {found}: expected {shape}")
    _require(
        posterior.labels == estimator.labels, anchor, "the labels of the posterior are not the estimator's"
    )
    inside = posterior.inside
    _require(np.isfinite(posterior.samples[inside]).all(), anchor, "accepted samples are not finite")
    _require(
        np.isfinite(posterior.log_prob[inside]).all(), anchor, "accepted samples have no finite log_prob"
    )
    within = estimator.labels.inside(posterior.samples)
    _require(not (inside & ~within).any(), anchor, "samples outside the training bounds were accepted")
    spread = np.ptp(posterior.samples, axis=1)
    _require((spread > 0).all(), anchor, "all samples of a spectrum are the same")


def _check_flow(estimator: Any, batch: SpectrumBatch, values: np.ndarray) -> None:
    """The density at a few of the accepted samples ``values (n, n_labels)`` of one spectrum."""
    anchor = "flows"
    labels = estimator.labels
    _require(
        len(values) > 1, anchor, "too few accepted samples for a look at the density: give better spectra"
    )
    y = labels.to_network(values)

    def physical(y: np.ndarray) -> np.ndarray:
        return labels.from_network(y)[None]

    check_log_density(
        lambda y: np.asarray(estimator.to_latent(batch, physical(y)))[0],
        lambda y: np.asarray(estimator.log_prob(batch, physical(y)))[0],
        y[:4],
        scale=y.std(axis=0),
    )


def check_correction(correction: Correction, posterior: Posterior) -> Posterior:
    """A correction, on a posterior of at least two stars: what it may move. Returns its result."""
    anchor = "corrections"
    _require(len(posterior) > 1, anchor, "the check needs a posterior of at least two stars")
    kept = (posterior.samples.copy(), posterior.log_prob.copy(), posterior.inside.copy())
    out, applied = correction.apply(posterior)
    same = all(_same(x, y, 0) for x, y in zip((posterior.samples, posterior.log_prob), kept, strict=False))
    _require(same and np.array_equal(posterior.inside, kept[2]), anchor, "the correction changed its input")
    _require(out.labels == posterior.labels, anchor, "the correction changed the labels")
    found, shape = out.samples.shape, posterior.samples.shape
    _require(found == shape, anchor, f"samples have shape {found}: expected {shape}")
    ok = np.shape(applied) == (len(posterior),) and np.asarray(applied).dtype == bool
    _require(ok, anchor, "the second result is not one boolean a star")
    _require(
        np.array_equal(out.inside, posterior.inside), anchor, "the correction accepts or rejects samples"
    )
    _require(_same(out.log_prob, posterior.log_prob, 0), anchor, "the correction changed log_prob")
    _require(_same(out.samples[~applied], kept[0][~applied], 0), anchor, "a star out of range was moved")
    lost = ~posterior.inside.any(axis=1)
    _require(not applied[lost].any(), anchor, "a star without an accepted sample counts as within range")
    _require(np.isfinite(out.samples[out.inside]).all(), anchor, "accepted samples are not finite")
    for row in range(len(posterior)):
        single, alone = correction.apply(posterior[row : row + 1])
        equal = alone[0] == applied[row] and _same(single.samples[0], out.samples[row], 0)
        _require(equal, anchor, f"star {row} comes out otherwise alone than in its batch")
    return out


def check_fit(kind: type[Correction], stars: BenchmarkStars) -> Correction:
    """A correction that can be fitted, on at least four stars: who has a say, and its file. Returns it."""
    anchor = "corrections"
    _require(len(set(stars.star.tolist())) > 3, anchor, "the check needs at least four stars")
    kept, everyone = stars.posterior.samples.copy(), np.ones(len(stars), bool)
    correction = kind.fit(stars, everyone)
    _require(np.array_equal(stars.posterior.samples, kept), anchor, "fit changed its input")
    model = getattr(correction, "model", None)
    _require(model == stars.model, anchor, f"the correction is for the model {model}, not {stars.model}")
    out = check_correction(correction, stars.posterior)
    _require(correction.apply(stars.posterior)[1].all(), anchor, "a star of the fit is not within its range")
    left = stars.star == stars.star[0]
    literature = {name: np.where(left, values + 1, values) for name, values in stars.literature.items()}
    first, second = (kind.fit(each, ~left) for each in (stars, attrs.evolve(stars, literature=literature)))
    one, other = (each.apply(stars.posterior)[0].samples for each in (first, second))
    _require(_same(one, other, 0), anchor, "a star that is not to be used has a say in the fit")
    _require(first.apply(stars.posterior)[1].all(), anchor, "the range is not that of all stars")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "correction.toml"
        correction.save(path)
        again = kind.load(path).apply(stars.posterior)[0].samples
    _require(_same(again, out.samples, 0), anchor, "samples are corrected otherwise after save and load")
    return correction


def check_invertible(
    forward: Callable[[Any], Any], inverse: Callable[[Any], Any], x: Any, rtol: float = 1e-4
) -> None:
    """``inverse(forward(x))`` is ``x (n, d)``, within ``rtol`` of each column's largest value."""
    anchor = "flows"
    back = _numpy(inverse(forward(x)))
    x = _numpy(x)
    _require(back.shape == x.shape, anchor, f"shape {x.shape} became {back.shape} there and back")
    off = np.abs(back - x).max(axis=0)
    worst = float((off / np.maximum(np.abs(x).max(axis=0), 1e-12)).max())
    _require(worst <= rtol, anchor, f"there and back is off by {worst:.2g} of the largest value")


def check_log_density(
    to_latent: Callable[[np.ndarray], Any],
    log_prob: Callable[[np.ndarray], Any],
    y: np.ndarray,
    scale: np.ndarray | float = 1.0,
    step: float = 0.1,
    atol: float = 0.1,
) -> None:
    """The density of a normalizing flow against a numerical Jacobian.

    ``to_latent`` takes ``(n, d)`` to the latent space with a standard normal density, ``log_prob`` to
    ``(n,)``; both in the variables of ``y (n, d)``. Central differences take ``step * scale``; ``scale``
    is the width of the density; ``atol`` (in nats) leaves room for a network in single precision.
    """
    anchor = "flows"
    y = np.asarray(y, float)
    n, d = y.shape
    h = step * np.broadcast_to(np.asarray(scale, float), (d,))
    shifted = y[:, None, None, :] + np.array([1.0, -1.0])[None, :, None, None] * np.diag(h)[None, None]
    z = _numpy(to_latent(shifted.reshape(-1, d))).astype(float).reshape(n, 2, d, d)
    jacobian = (z[:, 0] - z[:, 1]) / (2.0 * h[None, :, None])
    at = _numpy(to_latent(y)).astype(float)
    _require(at.shape == y.shape, anchor, f"the latent space has shape {at.shape}, the labels {y.shape}")
    volume = np.linalg.slogdet(jacobian)[1]
    expected = -0.5 * (at**2).sum(axis=1) - 0.5 * d * np.log(2.0 * np.pi) + volume
    found = _numpy(log_prob(y)).astype(float)
    off = float(np.abs(found - expected).max(initial=0.0))
    _require(
        off <= atol,
        anchor,
        f"log_prob is off by {off:.3g} from that of a numerical Jacobian, {atol:g} allowed",
    )


def _numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _failure(action: Callable[[], Any]) -> Exception | None:
    """What the action raises; the warnings of libraries underneath are not of interest."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            action()
    except Exception as error:
        return error
    return None


def _quiet(recognises: Callable[[Path], bool], path: Path) -> Any:
    """The answer, or the exception as an answer: ``recognises`` must not raise."""
    try:
        return recognises(path)
    except Exception as error:
        return error
