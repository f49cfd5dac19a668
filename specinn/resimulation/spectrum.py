"""One spectrum on its way through the pipeline: as read, as prepared, with the model spectrum of its MAP."""

from __future__ import annotations

import attrs
import numpy as np

from specinn.errors import ReadError, SpecinnError
from specinn.inference.run import Run
from specinn.inference.sources import Source
from specinn.plugins import Plugins
from specinn.resimulation.result import LEVELS, Resimulation
from specinn.resimulation.simulator import Simulator
from specinn.spectra import SpectrumBatch

__all__ = ["follow"]


def follow(
    run: Run, batch: SpectrumBatch, plugins: Plugins, *, synthesizer: str = "emulator"
) -> tuple[SpectrumBatch, Resimulation]:
    """The one spectrum of ``batch`` as it enters the pipeline, and as a resimulated star without bands.

    What is not available is NaN, and the star's ``note`` says why: the model spectrum of a star without
    values, or with labels that the synthesizer lacks; the prepared flux, where a step fails. Raises
    ``ReadError`` where there is not one spectrum.
    """
    if len(batch) != 1:
        raise ReadError(f"{len(batch)} spectra: expected one")
    source = Source(str(batch.meta["path"][0]), lambda: [batch])
    (piece,) = run.pieces([source])
    if piece.batch is None:
        raise ReadError(piece.message)
    table = run.catalogue([source])
    message = str(table["message"][0])
    try:
        simulator = Simulator(run, table, plugins, synthesizer=synthesizer, draws=0, respond=False)
        star = simulator.star(piece.batch, 0)
        return piece.batch, attrs.evolve(star, note="; ".join(filter(None, (message, star.note))))
    except SpecinnError as error:
        reason = message or str(error)
    instrument = run.pipeline.estimator.instrument
    nothing = np.full(instrument.wavelength.size, np.nan)
    flux = sigma = nothing
    try:
        prepared = run.pipeline.preprocess(piece.batch)
        flux, sigma = (np.where(prepared.mask[0], np.nan, v[0]) for v in (prepared.flux, prepared.sigma))
    except SpecinnError as error:
        reason = reason or str(error)
    star = Resimulation(
        str(table["id"][0]), str(table["path"][0]), 0, instrument, {}, flux, sigma, nothing,
        np.full((len(LEVELS), nothing.size), np.nan), np.zeros(nothing.size, bool), {},
        np.empty((0, len(run.pipeline.estimator.labels))), reason,
    )  # fmt: skip
    return piece.batch, star
