"""Files of posterior samples, which ``--save-samples`` requests: one per shard, and in the end one for
all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from specinn.files import Sink, check_output, replacing
from specinn.labels import LabelSet
from specinn.posterior import Posterior
from specinn.texts import portable

__all__ = ["Append", "attributes_of", "check", "join", "rows_of", "samples_file", "size_of"]

_CHUNK_BYTES = 1 << 20
_BLOCK = 64  # spectra that are copied together

Append = Callable[[Mapping[str, Any]], None]


def check(path: str | Path, *, overwrite: bool = False) -> Path:
    """The path, if samples can be written there; raises ``OutputError`` where they cannot."""
    return check_output(path, (".h5",), overwrite=overwrite)


def size_of(n_spec: int, n_samples: int, n_labels: int) -> int:
    """Bytes taken by the samples of this many spectra."""
    return n_spec * n_samples * (4 * n_labels + 4 + 1)


def attributes_of(labels: LabelSet, **others: Any) -> dict[str, Any]:
    """The attributes of a file of samples."""
    names, units = list(labels.names), [label.unit for label in labels]
    spreads = np.array([label.prior_std for label in labels])
    return {"labels": names, "units": units, "bounds": labels.bounds, "spreads": spreads, **others}


def rows_of(ids: Any, flags: Any, posterior: Posterior, keep: int) -> dict[str, Any]:
    """What :func:`samples_file` writes of a posterior: the first ``keep`` samples of each spectrum.

    Accepted or not: samples are drawn independently, so the first are as good as any.
    """
    return {
        "samples": posterior.samples[:, :keep],
        "log_prob": posterior.log_prob[:, :keep],
        "inside": posterior.inside[:, :keep],
        "id": np.array([portable(str(name)) for name in ids], dtype=object),
        "flags": np.asarray(flags, np.uint32),
    }


@contextlib.contextmanager
def samples_file(path: Path, n_samples: int, attributes: Mapping[str, Any]) -> Iterator[Append]:
    """An HDF5 file of samples, which appears when the block ends well; gives the function that adds rows.

    Datasets, one entry per row of the catalogue: ``samples (n_spec, n_samples, n_labels)`` float32 in
    physical units, after corrections; ``log_prob (n_spec, n_samples)`` float32, the log density in the
    network's label space; ``inside (n_spec, n_samples)``, whether the sample was within the training bounds;
    ``id``; ``flags``. A spectrum without a posterior has NaN samples, of which none is inside. Attributes are
    those of :func:`attributes_of`. Raises ``OutputError``.
    """
    import h5py

    n_labels, text = len(attributes["labels"]), h5py.string_dtype()
    rows = max(1, min(n_samples, _CHUNK_BYTES // (4 * n_labels)))
    shapes: dict[str, tuple[tuple[int, ...], Any, tuple[int, ...]]] = {
        "samples": ((n_samples, n_labels), "f4", (1, rows, n_labels)),
        "log_prob": ((n_samples,), "f4", (1, n_samples)),
        "inside": ((n_samples,), "?", (1, n_samples)),
        "id": ((), text, (1024,)),
        "flags": ((), "u4", (1024,)),
    }
    with replacing(path) as temporary, Sink(temporary) as sink, h5py.File(sink, "w") as file:
        for name, (shape, dtype, chunks) in shapes.items():
            file.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=chunks)
        for name, value in attributes.items():
            texts = not isinstance(value, np.ndarray) and np.asarray(value).dtype.kind in "UO"
            file.attrs.create(name, value, dtype=text if texts else None)

        def append(columns: Mapping[str, Any]) -> None:
            for name in shapes:
                dataset, values = file[name], columns[name]
                start = dataset.shape[0]
                dataset.resize(start + len(values), axis=0)
                dataset[start:] = values
            sink.check()

        yield append


def join(parts: Sequence[Path], path: Path) -> None:
    """The samples of ``parts``, one after the other, as one file; raises ``OutputError``."""
    import h5py

    with contextlib.ExitStack() as stack:
        append: Append | None = None
        for part in parts:
            with h5py.File(part) as file:
                if append is None:
                    n_samples = file["samples"].shape[1]
                    append = stack.enter_context(samples_file(path, n_samples, dict(file.attrs)))
                for start in range(0, len(file["id"]), _BLOCK):
                    append({name: file[name][start : start + _BLOCK] for name in file})
