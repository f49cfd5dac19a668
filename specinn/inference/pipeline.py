"""From spectra as they were read to posteriors: the model's own preprocessing, inference, flags."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from astropy.table import Table

from specinn.catalogue.result import Result
from specinn.errors import ConfigError, ModelError, PluginError, ReadError, SpecinnError
from specinn.flags import FLAGS, Flag, is_bad, raise_flag
from specinn.inference.arms import LIMIT, arm_disagreement
from specinn.inference.informed import Informer
from specinn.inference.misfit import Misfit
from specinn.inference.options import RunOptions
from specinn.models import doubtful
from specinn.plugins.interfaces import first_of
from specinn.posterior import Posterior, Summary
from specinn.posterior.summary import posterior_flags
from specinn.spectra.resample import R_TOLERANCE

if TYPE_CHECKING:
    from specinn.inference.prior import PriorTable
    from specinn.instruments import Instrument
    from specinn.plugins import Plugins
    from specinn.plugins.interfaces import Correction, Estimator, Preprocessor, Synthesizer
    from specinn.spectra import SpectrumBatch

__all__ = ["Pipeline"]

log = logging.getLogger(__name__)

_DEGRADE = "degrade-snr"  # the step that adds noise
_SNR_RANGE = (10.0, 1000.0)  # per Angstrom, unless the model's header states it


class Pipeline:
    """Everything between a reader and a catalogue row, for one model and one set of options.

    Parameters
    ----------
    estimator, plugins
        The model, and where its preprocessing steps are looked up.
    options
        Of the run; ``rv`` and ``resolving_power`` only if they hold for all spectra. With ``synthetic``,
        ``meta["synthetic"]`` informs the estimator. The check ``arms`` adds ``arm_disagreement``
        (:func:`~specinn.inference.arms.arm_disagreement`) to the ``meta`` of results, and a flag.
    instrument
        The instrument of the spectra; its resolving power holds where a file gives none.
    corrections
        Loaded ones, applied to the samples in this order.
    keep_samples
        Whether results hold the samples and not only their summary.
    check
        A synthesizer whose model spectra of the MAP are compared with the spectra: adds ``misfit`` to the
        ``meta`` of results, and a flag where it is above 1. It takes a few milliseconds per spectrum.
    prior
        What is known of stars, for spectra whose ``meta["prior_row"]`` is a row of it: adds ``informed`` to
        results, and ``prior`` and ``n_effective`` to their ``meta``.
    """

    def __init__(
        self,
        estimator: Estimator,
        plugins: Plugins,
        options: RunOptions | None = None,
        *,
        instrument: Instrument | None = None,
        corrections: Sequence[Correction] = (),
        keep_samples: bool = False,
        check: Synthesizer | None = None,
        prior: PriorTable | None = None,
    ) -> None:
        options = RunOptions() if options is None else options
        self.estimator = estimator
        self.instrument = instrument if instrument is not None else estimator.instrument
        self.resolving_power, self.synthetic = options.resolving_power, options.synthetic
        self.corrections = tuple(corrections)
        self.n_samples, self.seed, self.keep_samples = options.samples, options.seed, keep_samples
        # physics that is wrong for stars is right for spectra that were computed with it
        self.hidden = () if options.synthetic else doubtful(estimator.header, estimator.labels)
        self.steps = _chain(estimator, plugins, options)
        self.checks = tuple(
            name for name, on in (("arms", "arms" in options.check), ("model", check is not None)) if on
        )
        self.informer = None
        if prior is not None:
            kept = options.samples if keep_samples else 0
            self.informer = Informer(prior, estimator, self.corrections, options.samples, options.seed, kept)
        self._misfit = None if check is None else Misfit(check, estimator, _normaliser(self.steps))

    def __call__(self, batch: SpectrumBatch) -> Result:
        """Infer every spectrum of the batch. Never raises for a spectrum: it is flagged, with a message."""
        batch = self._prepare(batch)
        try:
            return _with_range(self._infer(self._preprocess(batch)), batch)
        except Exception as error:
            low = isinstance(error, ReadError) and self._resolution_low(batch)
            if len(batch) > 1 and not low:  # one spectrum must not cost its companions theirs
                return Result.join([self(batch[i]) for i in range(len(batch))])
            message = str(error)
            if not isinstance(error, SpecinnError):
                log.error("%s: unexpected error", batch.meta["id"][0], exc_info=True)
                where = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
                message = f"could not be processed: {type(error).__name__}: {error}{where}"
            flag = Flag.RESOLUTION_LOW if low else Flag.NOT_READ
            return self.failed(batch.meta, message, flag)

    def preprocess(self, batch: SpectrumBatch) -> SpectrumBatch:
        """The spectra as the estimator receives them. Raises what a step raises."""
        return self._preprocess(self._prepare(batch))

    def failed(self, meta: Table, message: str, flag: Flag = Flag.NOT_READ) -> Result:
        """The result for spectra without values: a flag and a sentence in every row of ``meta``."""
        meta = _complete(meta)
        meta["flags"] |= np.uint32(flag)
        meta["message"] = np.array([message] * len(meta), dtype=object)
        meta["ood_score"] = np.full(len(meta), np.nan)
        labels, n = self.estimator.labels, len(meta)
        posterior = Posterior.empty(labels, n, self.n_samples) if self.keep_samples else None
        raw = Summary.empty(labels, n) if self.corrections else None
        informed = (None, None) if self.informer is None else self.informer.empty(meta)
        return Result(meta, Summary.empty(labels, n), raw, posterior, *informed)

    def _prepare(self, batch: SpectrumBatch) -> SpectrumBatch:
        """The batch with complete meta, a resolving power, and wavelengths in the model's medium."""
        power: Any = self.resolving_power
        if power is None:
            power = batch.resolving_power
        if power is None:
            power = self.instrument.resolving_power_at(batch.wavelength)
        meta = _complete(batch.meta)
        if "medium" not in meta.colnames:
            meta["medium"] = [batch.medium] * len(batch)
        batch = batch.in_medium(self.estimator.instrument.medium)
        meta["synthetic"] = np.full(len(batch), self.synthetic)
        return attrs.evolve(batch, resolving_power=power, meta=meta)

    def _preprocess(self, batch: SpectrumBatch) -> SpectrumBatch:
        n = len(batch)
        for name, step in self.steps:
            with _blame(f"the step {name!r}"):
                batch = step(batch)
            if len(batch) != n:
                raise PluginError(f"the step {name!r} returned {len(batch)} spectra for {n}")
        return batch

    def _resolution_low(self, batch: SpectrumBatch) -> bool:
        """Whether the spectra have lower resolution than the model needs, anywhere that both cover."""
        for arm in self.estimator.instrument.arms:
            covered = arm.contains(batch.wavelength)
            resolving_power = np.broadcast_to(np.asarray(batch.resolving_power, float), covered.shape)[
                covered
            ]
            if (resolving_power < R_TOLERANCE * arm.resolving_power.at(batch.wavelength[covered])).any():
                return True
        return False

    def _infer(self, batch: SpectrumBatch) -> Result:
        """Sample the usable spectra, and set the flags that follow from pixels and samples."""
        flags = np.asarray(batch.meta["flags"], np.uint32)
        flags |= self._pixel_flags(batch)
        labels, n = self.estimator.labels, len(batch)
        meta = batch.meta.copy()
        fit = np.flatnonzero(~is_bad(flags))
        encoded: Any = None
        with _blame(self._name):
            if fit.size:
                encoded = self.estimator.encode(_rows(batch, fit))
        meta["ood_score"], reasons = self._ood_score(encoded, fit, n)
        raise_flag(flags, meta["ood_score"] > 1.0, Flag.OUT_OF_DISTRIBUTION)
        summary = Summary.empty(labels, n)
        raw = Summary.empty(labels, n) if self.corrections else None
        posterior = Posterior.empty(labels, n, self.n_samples) if self.keep_samples else None
        usual = ~is_bad(flags[fit])
        good = fit[usual]
        if good.size:
            encoded = _rows(encoded, np.flatnonzero(usual))
        every = self.keep_samples or bool(self.corrections)
        sampled = np.full(good.size, every) | self._known(meta)[good]
        if not sampled.all():
            with _blame(self._name):
                rest = _rows(encoded, np.flatnonzero(~sampled))
                fitted = self.estimator.summarise(rest, self.n_samples, self.seed)
                summary.put(good[~sampled], _whole(fitted, len(rest)))
        rows, own = good[sampled], None
        if rows.size:
            with _blame(self._name):
                own = self.estimator.sample(
                    _rows(encoded, np.flatnonzero(sampled)), self.n_samples, self.seed
                )
                summary.put(rows, _whole(own.summary(), rows.size))
        values = summary.map[:, : len(labels)].copy()
        summary.hide(self.hidden)
        flags |= posterior_flags(summary, labels)
        if own is not None:
            drawn = own
            if raw is not None:
                raw.put(rows, summary[rows])
                for correction in self.corrections:
                    with _blame(f"the correction {type(correction).__name__!r}"):
                        drawn, within = correction.apply(drawn)
                        corrected = _whole(drawn.summary(), rows.size)
                    raise_flag(flags, rows[~within], Flag.CORRECTION_OUT_OF_RANGE)
                summary.put(rows, corrected)
                summary.hide(self.hidden)
            if posterior is not None:
                posterior.put(rows, drawn)
        informed: tuple[Summary | None, Posterior | None] = None, None
        if self.informer is not None:
            with _blame(self._name):
                informed = self.informer(batch, meta, flags, reasons, rows, own)
            if informed[0] is not None:
                informed[0].hide(self.hidden)
        if "arms" in self.checks:
            self._compare_arms(batch, meta, flags, reasons, good, summary if raw is None else raw)
        if self._misfit is not None:
            self._compare(batch, meta, flags, reasons, values)
        meta["flags"] = flags
        meta["message"] = np.array(
            [
                "; ".join(filter(None, (str(said), reason))) or self._why(int(bits))
                for said, reason, bits in zip(meta["message"], reasons, flags, strict=True)
            ],
            dtype=object,
        )
        return Result(meta, summary, raw, posterior, *informed)

    def _known(self, meta: Table) -> np.ndarray:
        """``(n_spec,)`` for which stars there is outside knowledge."""
        return np.zeros(len(meta), bool) if self.informer is None else self.informer.known(meta)

    def _compare(
        self, batch: SpectrumBatch, meta: Table, flags: np.ndarray, reasons: list[str], values: np.ndarray
    ) -> None:
        """Column, flag and sentence of spectra that look unlike the model spectrum of their ``values``."""
        assert self._misfit is not None
        rows = np.flatnonzero(~is_bad(flags) & np.isfinite(values).all(axis=1))
        meta["misfit"] = np.full(len(batch), np.nan)
        if not rows.size:
            return
        each = self._misfit(batch[rows], values[rows])
        meta["misfit"][rows] = np.nanmax(each, axis=1)
        off = each > 1.0
        raise_flag(flags, rows[off.any(axis=1)], Flag.MODEL_MISFIT)
        for row, arms in zip(rows, off, strict=True):
            if arms.any():
                names = " and ".join(name for name, bad in zip(self._misfit.arms, arms, strict=True) if bad)
                sentence = f"the model spectrum of the values does not fit the arm {names}"
                reasons[row] = "; ".join(filter(None, (reasons[row], sentence)))

    def _compare_arms(
        self,
        batch: SpectrumBatch,
        meta: Table,
        flags: np.ndarray,
        reasons: list[str],
        good: np.ndarray,
        joint: Summary,
    ) -> None:
        """Column, flag and sentence of spectra (of the rows ``good``) whose arms disagree."""
        meta["arm_disagreement"] = np.full(len(batch), np.nan)
        if not good.size:
            return
        with _blame(self._name):
            score, sentences = arm_disagreement(
                self.estimator, _rows(batch, good), joint[good], self.n_samples, self.seed
            )
        meta["arm_disagreement"][good] = score
        for row, off, sentence in zip(good, score, sentences, strict=True):
            if off > LIMIT:
                flags[row] |= np.uint32(Flag.ARMS_DISAGREE)
                reasons[row] = "; ".join(filter(None, (reasons[row], sentence)))

    @property
    def _name(self) -> str:
        return f"the estimator {self.estimator.header.get('estimator', type(self.estimator).__name__)!r}"

    def _ood_score(self, encoded: Any, rows: np.ndarray, n: int) -> tuple[np.ndarray, list[str]]:
        """The score of ``n`` spectra, NaN but for ``rows``, which are ``encoded``, and the sentence of those
        above 1."""
        score, reasons = np.full(n, np.nan), [""] * n
        with _blame(self._name):
            scored = self.estimator.ood_score(encoded) if rows.size else None
        if scored is not None:
            score[rows] = scored.score
            for row, reason in zip(rows, scored.reasons, strict=True):
                if score[row] > 1.0:
                    reasons[row] = f"unlike the spectra of the training (score {score[row]:.2f}): {reason}"
        return score, reasons

    def _why(self, flags: int) -> str:
        """One sentence for a spectrum without values, from its bad flags; nothing for the others."""
        reasons = [info.meaning for info in FLAGS if info.severity == "bad" and flags & info.flag]
        if flags & Flag.NO_OVERLAP:
            ranges = ", ".join("{:.0f}-{:.0f}".format(*arm.range) for arm in self.estimator.instrument.arms)
            reasons.append(f"the model needs good pixels in {ranges} Angstrom")
        return ": ".join(reasons)

    def _pixel_flags(self, batch: SpectrumBatch) -> np.ndarray:
        slices = self.estimator.instrument.slices
        present = np.stack([(~batch.mask[:, s]).any(axis=1) for s in slices.values()], axis=1)
        flags = np.zeros(len(batch), np.uint32)
        raise_flag(flags, ~present.any(axis=1), Flag.NO_OVERLAP)
        raise_flag(flags, ~present.all(axis=1), Flag.ARM_MISSING)
        columns = [f"snr_{name}" for name in slices]
        if set(columns) <= set(batch.meta.colnames):
            low, high = self.estimator.header.get("training", {}).get("snr_range", _SNR_RANGE)
            snr = np.stack([np.asarray(batch.meta[c], float) for c in columns], axis=1)
            raise_flag(flags, (present & (snr < low)).any(axis=1), Flag.SNR_LOW)
            raise_flag(flags, (present & (snr > high)).any(axis=1), Flag.SNR_HIGH)
        return flags


def _with_range(result: Result, batch: SpectrumBatch) -> Result:
    """Where no arm is covered, messages say what is: nm may have been taken for Angstrom."""
    flags = np.asarray(result.meta["flags"])
    for row in np.flatnonzero(flags & Flag.NO_OVERLAP):
        good = batch.wavelength[~batch.mask[row]]
        has = f"has some from {good.min():g} to {good.max():g}" if good.size else "has none"
        result.meta["message"][row] = f"{result.meta['message'][row]}; the spectrum {has}"
    return result


def _rows(spectra: Any, rows: np.ndarray) -> Any:
    """The chosen spectra of a batch or of what an estimator made of it; no copy where these are all."""
    return spectra if len(rows) == len(spectra) else spectra[rows]


@contextlib.contextmanager
def _blame(who: str) -> Iterator[None]:
    """An error raised by a plugin's code names the plugin."""
    try:
        yield
    except (ModelError, PluginError) as error:
        raise PluginError(f"{who} failed: {error}") from error
    except SpecinnError:
        raise
    except Exception as error:
        error.add_note(f"in {who}")
        raise


def _whole(summary: Summary, n: int) -> Summary:
    """The summary, if it is one of ``n`` spectra and holds numbers; else a ``PluginError``."""
    if len(summary) != n:
        raise PluginError(f"it returned {len(summary)} posteriors for {n} spectra")
    accepted = summary.rejected_fraction < 1.0
    if np.isnan(summary.rejected_fraction).any() or np.isnan(summary.map[accepted]).any():
        raise PluginError("its samples are not numbers")
    return summary


def _chain(
    estimator: Estimator, plugins: Plugins, options: RunOptions
) -> tuple[tuple[str, Preprocessor], ...]:
    """The model's steps with the user's velocity and S/N passed to those that take them."""
    rv, degrade_snr, seed = options.rv, options.degrade_snr, options.seed
    recipe = [(name, plugins.load("preprocessor", name), dict(its)) for name, its in estimator.preprocessing]
    if rv is not None:
        takers = [its for _, factory, its in recipe if factory.takes_velocity]
        if not takers:
            raise ConfigError(
                "this model has no step that takes a velocity (such as 'rest-frame'), so a radial velocity "
                "cannot be given"
            )
        takers[0]["velocity"] = rv
    if degrade_snr is not None:
        pixels = first_of("pixels", [factory for _, factory, _ in recipe])
        if pixels is None:
            raise ConfigError(
                "this model has no step to the pixels of its instrument (such as 'to-arms'), so its spectra "
                "cannot be degraded"
            )
        noise = {"snr": float(degrade_snr), "seed": seed}
        recipe.insert(pixels + 1, (_DEGRADE, plugins.load("preprocessor", _DEGRADE), noise))
    steps = []
    for name, factory, its in recipe:
        try:
            step = factory(instrument=estimator.instrument, templates=estimator.templates, **its)
        except TypeError as error:
            raise PluginError(
                f"the step {name!r} does not take the options that the model asks for: {error}"
            ) from error
        steps.append((name, step))
    return tuple(steps)


def _normaliser(steps: Sequence[tuple[str, Preprocessor]]) -> Preprocessor:
    """The step by which spectra, and model spectra, are normalised."""
    number = first_of("continuum", [step for _, step in steps])
    if number is None:
        raise ConfigError(
            "this model has no step that divides by the continuum, so its spectra cannot be compared with "
            "model spectra: remove --check"
        )
    return steps[number][1]


def _complete(meta: Table) -> Table:
    """A copy of ``meta`` with every column that the steps rely on."""
    meta = meta.copy()
    n = len(meta)
    velocity = meta["rv"] if "rv" in meta.colnames else np.full(n, np.nan)
    meta["rv"] = np.ma.filled(np.ma.asarray(velocity, float), np.nan)
    meta["flags"] = (
        np.asarray(meta["flags"], np.uint32) if "flags" in meta.colnames else np.zeros(n, np.uint32)
    )
    meta["key"] = np.asarray(meta["key"], np.int64) if "key" in meta.colnames else np.arange(n)
    # objects, because numpy truncates a longer sentence to the width of the first
    meta["message"] = np.array(
        list(meta["message"]) if "message" in meta.colnames else [""] * n, dtype=object
    )
    return meta
