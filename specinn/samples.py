"""The file of posterior samples that ``--save-samples`` asks for, written batch by batch."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from specinn.labels import LabelSet
from specinn.output import check_output, write_error

if TYPE_CHECKING:
    from specinn.pipeline import Result

_CHUNK_BYTES = 1 << 20


def check(path: str | Path, *, overwrite: bool = False) -> Path:
    """The path, if samples can be written there; raises ``OutputError`` where they cannot."""
    return check_output(path, (".h5",), overwrite=overwrite)


class _Sink(io.FileIO):
    """The file beneath HDF5. The first failure is kept in ``error`` and from then on nothing is written:

    the HDF5 library is told that all is well, because it cannot close a file whose disk is full (it crashes).
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while self.error is None and len(rest):
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size) if self.error is None else 0
        except OSError as error:
            self.error = error
            return 0

    def flush(self) -> None:
        """Nothing is buffered."""


class SamplesWriter:
    """An HDF5 file of samples; a context manager, and the file appears only when its block ends well.

    Datasets, one entry a row of the catalogue: ``samples (n_spec, n_samples, n_labels)`` float32 in physical
    units, after corrections; ``log_prob (n_spec, n_samples)`` float32, the log density in the network's
    label space; ``inside (n_spec, n_samples)``, whether the sample was within the training bounds;
    ``id``; ``flags``. A spectrum without a posterior has NaN samples, of which none is inside. Attributes:
    ``labels``, ``units``, ``bounds``, ``model``, ``seed``. Raises ``OutputError``.
    """

    def __init__(
        self,
        path: str | Path,
        labels: LabelSet,
        n_samples: int,
        *,
        overwrite: bool = False,
        **attributes: Any,
    ) -> None:
        import h5py

        self.path = check(path, overwrite=overwrite)
        self._temporary = self.path.with_name(f".{self.path.stem}.{os.getpid()}.partial.h5")
        n_labels = len(labels)
        rows = max(1, min(n_samples, _CHUNK_BYTES // (4 * n_labels)))
        text = h5py.string_dtype()
        try:
            self._sink = _Sink(self._temporary, "w+")
            self._file = h5py.File(self._sink, "w")
            new = self._file.create_dataset
            new(
                "samples",
                (0, n_samples, n_labels),
                "f4",
                maxshape=(None, n_samples, n_labels),
                chunks=(1, rows, n_labels),
            )
            new("log_prob", (0, n_samples), "f4", maxshape=(None, n_samples), chunks=(1, n_samples))
            new("inside", (0, n_samples), "?", maxshape=(None, n_samples), chunks=(1, n_samples))
            new("id", (0,), text, maxshape=(None,), chunks=(1024,))
            new("flags", (0,), "u4", maxshape=(None,), chunks=(1024,))
            self._file.attrs.create("labels", list(labels.names), dtype=text)
            self._file.attrs.create("units", [label.unit for label in labels], dtype=text)
            self._file.attrs["bounds"] = labels.bounds
            self._file.attrs.update(attributes)
        except (OSError, RuntimeError) as error:
            self._discard()
            raise write_error(self.path, error) from error

    def _check(self) -> None:
        if self._sink.error is not None:
            raise self._sink.error

    def append(self, result: Result) -> None:
        """Add the spectra of a result."""
        posterior = result.posterior
        columns = {
            "samples": posterior.samples,
            "log_prob": posterior.log_prob,
            "inside": posterior.inside,
            "id": np.array([str(name) for name in result.meta["id"]], dtype=object),
            "flags": np.asarray(result.meta["flags"]),
        }
        try:
            for name, values in columns.items():
                dataset = self._file[name]
                start = dataset.shape[0]
                dataset.resize(start + len(result), axis=0)
                dataset[start:] = values
            self._check()
        except (OSError, RuntimeError) as error:
            raise write_error(self.path, error) from error

    def __enter__(self) -> SamplesWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._file.close()
            self._check()
            self._sink.close()
            os.replace(self._temporary, self.path)
        except (OSError, RuntimeError) as error:
            self._discard()
            raise write_error(self.path, error) from error

    def _discard(self) -> None:
        with contextlib.suppress(OSError, RuntimeError, AttributeError):  # closing may fail as writing did
            self._file.close()
        with contextlib.suppress(OSError, AttributeError):
            self._sink.close()
        self._temporary.unlink(missing_ok=True)
