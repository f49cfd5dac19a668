"""What a page shows of one star: spectra, bands and the corner plot, encoded compactly."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from specinn.resimulation.result import Resimulation, windows
from specinn.resimulation.simulator import Resimulator

__all__ = ["BINS", "LEVELS", "arms", "corner", "open_stars", "packed", "spectrum", "text"]

BINS = 32  # of a label in the corner plot
LEVELS = (0.95, 0.68, 0.3)  # shares of the samples within its three shades


def open_stars(
    simulator: Resimulator,
    rows: Sequence[int],
    files: Sequence[Path] | None = None,
    *,
    format: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[int, dict[str, Any]]:
    """By row what the page shows of the stars; of one without a model spectrum only ``why`` it has none."""
    opened: dict[int, dict[str, Any]] = {}
    for star in simulator(files, rows=rows, format=format):
        if isinstance(star, Resimulation):
            entry = simulator.catalogue[star.row]
            best = [float(np.ma.filled(entry[name], np.nan)) for name in simulator.labels.names]
            opened[star.row] = spectrum(star) | {"corner": corner(star.samples, best)}
            if "n_epochs" in entry.colnames and entry["n_epochs"] > 1:  # then the samples are of one of them
                note = f"One of {entry['n_epochs']} spectra; the values and the model are of all together"
                opened[star.row] |= {
                    "bands": [],
                    "corner": None,
                    "note": f"{note}, whose samples are not known.",
                }
        elif star.row >= 0:
            opened[star.row] = {"why": star.message}
        progress(len(opened), len(rows))
    missing = "its spectrum is not among the files that were given"
    return {row: opened.get(row, {"why": missing}) for row in rows}


def spectrum(star: Resimulation) -> dict[str, Any]:
    """Fluxes, bands and the windows around lines; the wavelengths are those of :func:`arms`."""
    return {
        "flux": packed(star.flux),
        "model": packed(star.model),
        "bands": [packed(band) for band in star.bands] if np.isfinite(star.bands).any() else [],
        "used": text(np.packbits(star.used, bitorder="little")),
        "windows": [[w.element, w.line.name, round(w.low, 2), round(w.high, 2)] for w in windows(star)],
        "off": [star.numbers()[name] for name in ("mean_abs_used", "noise_used")],
        "note": star.note,
    }


def arms(simulator: Resimulator) -> dict[str, Any]:
    """What the spectra of a page share: pixels, with name, first pixel and last plus one of each arm, and the
    labels of the samples, of which a catalogue has more (derived ones, and those with outside knowledge)."""
    instrument = simulator.estimator.instrument
    return {
        "wavelength": text(instrument.wavelength.astype("<f4")),
        "arms": [[name, part.start, part.stop] for name, part in instrument.slices.items()],
        "medium": instrument.medium,
        "sampled": list(simulator.labels.names),
    }


def corner(samples: np.ndarray, best: Sequence[float]) -> dict[str, Any] | None:
    """Marginal distributions of accepted samples ``(n, n_labels)``, and of each pair of labels the smallest
    regions that hold :data:`LEVELS` of them; None where there are too few samples to tell. ``best`` is NaN
    where a catalogue has masked the value."""
    if len(samples) < 100:
        return None
    from scipy.ndimage import gaussian_filter

    low, high = np.quantile(samples, [0.004, 0.996], axis=0)
    low, high = np.fmin(low, best), np.fmax(high, best)
    room = np.maximum(0.1 * (high - low), 1e-6 * np.maximum(np.abs(high), 1.0))
    low, high = low - room, high + room
    edges = np.linspace(low, high, BINS + 1)
    n = samples.shape[1]
    ones, pairs = [], []
    for i in range(n):
        counts = gaussian_filter(np.histogram(samples[:, i], edges[:, i])[0].astype(float), 0.7)
        ones.append(np.rint(255 * counts / counts.max()).astype(np.uint8))
        for j in range(i):  # the panel in row i and column j
            counts, *_ = np.histogram2d(samples[:, i], samples[:, j], (edges[:, i], edges[:, j]))
            counts = gaussian_filter(counts, 1.0)
            descending = np.sort(counts.ravel())[::-1]
            within = np.searchsorted(np.cumsum(descending), np.array(LEVELS) * counts.sum())
            shades = sum((counts >= descending[k]).astype(np.uint8) for k in within)
            four = np.asarray(shades).reshape(-1, 4)  # two bits each
            pairs.append((four << np.array([0, 2, 4, 6], np.uint8)).sum(axis=1).astype(np.uint8))
    with np.errstate(invalid="ignore", divide="ignore"):
        together = np.atleast_2d(np.corrcoef(samples, rowvar=False))
    return {
        "low": low.tolist(), "high": high.tolist(),
        "best": [value if np.isfinite(value) else None for value in best],
        "ones": text(np.concatenate(ones)), "pairs": text(np.concatenate(pairs or [np.empty(0, np.uint8)])),
        "together": text(together.astype("<f4")),
    }  # fmt: skip


def packed(values: np.ndarray) -> dict[str, Any]:
    """``values`` as unsigned 16-bit numbers, ``low + step * number``; the highest number stands for NaN."""
    good = np.isfinite(values)
    low, high = (float(values[good].min()), float(values[good].max())) if good.any() else (0.0, 0.0)
    step = (high - low) / 65534 or 1.0
    numbers = np.full(values.shape, 65535, "<u2")
    numbers[good] = np.rint((values[good] - low) / step)
    return {"low": low, "step": step, "data": text(numbers)}


def text(values: np.ndarray) -> str:
    """The bytes of an array in base64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
