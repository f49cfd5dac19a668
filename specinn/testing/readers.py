"""The contract of readers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from specinn.errors import ReadError
from specinn.plugins.interfaces import Reader
from specinn.spectra import SpectrumBatch
from specinn.testing.rules import close, failure, quiet, section

_require = section("readers")


def check_reader(reader: Reader, path: str | Path) -> list[SpectrumBatch]:
    """A reader, on a file of its format: what it recognises, what it yields, and how it fails.

    Returns the batches, so that a test can check their values.
    """
    path = Path(path)
    content = path.read_bytes()
    _require(reader.recognises(path), f"{path} is not recognised")
    batches = list(reader.read(path))
    _require(sum(map(len, batches)) > 0, f"{path}: no spectrum was read")
    for batch in batches:
        _require(isinstance(batch, SpectrumBatch), f"read gave {type(batch).__name__}, not a SpectrumBatch")
        for column in ("id", "path"):
            _require(column in batch.meta.colnames, f"meta has no column {column!r}")
        for name, arm in batch.arms.items():
            steps = np.diff(batch.wavelength[arm])
            _require((steps > 0).all(), f"the wavelengths of {name!r} do not increase")
        _require(np.isfinite(batch.flux[~batch.mask]).all(), "flux that is not finite was not masked")
        with_errors = np.isfinite(batch.sigma).any(axis=1)
        good = batch.sigma[with_errors][~batch.mask[with_errors]]
        _require((np.isfinite(good) & (good > 0)).all(), "errors that are not positive were not masked")
        _require(batch.medium in ("air", "vacuum"), f"medium is {batch.medium!r}")
    again = list(reader.read(path))
    equal = len(again) == len(batches) and all(
        close(a.flux, b.flux, 0) and close(a.wavelength, b.wavelength, 0)
        for a, b in zip(batches, again, strict=True)
    )
    _require(equal, "the same file read twice gives different spectra")
    _require(path.read_bytes() == content, f"{path} was changed by reading it")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        strange = {"nothing": b"", "noise": bytes(range(256)) * 16, "words": b"not a spectrum\n" * 9}
        for kind, data in strange.items():
            other = folder / f"{kind}{path.suffix}"
            other.write_bytes(data)
            _require(not quiet(reader.recognises, other), f"a file of {kind} is recognised")
        broken = folder / path.name
        broken.write_bytes(content[: max(1, len(content) // 3)])
        error = failure(lambda: [b.flux.sum() for b in reader.read(broken)])
        plain = error is None or isinstance(error, ReadError)
        _require(plain, f"a truncated file raised {type(error).__name__} ({error}), not a ReadError")
    return batches
