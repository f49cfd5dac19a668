"""Synthetic spectra with varying line lists, computed here or in processes; every result is kept and
reused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from specinn.errors import SynthesisError
from specinn.parallel.processes import spread
from specinn.plugins import Plugins
from specinn_turbospectrum import abundances

if TYPE_CHECKING:
    from specinn_turbospectrum.synthesizer import Turbospectrum

_SETTINGS, _JOBS = "settings.json", "jobs.json"


@attrs.frozen
class Job:
    """One spectrum: the labels of a star, and a file of lines for each window."""

    labels: tuple[float, ...]
    lists: tuple[str, ...]

    def key(self, common: str) -> str:
        """The name of its result: other lines, labels or settings give another."""
        digest = hashlib.sha256(f"{common} {self.labels}".encode())
        for path in self.lists:
            digest.update(_checksum(path, os.stat(path).st_mtime_ns))
        return digest.hexdigest()[:24]


class Syntheses:
    """Runs jobs, with more than one of ``processes`` in as many; results stay in ``folder``, so that a fit
    that was stopped resumes."""

    def __init__(self, synthesizer: dict[str, Any], windows: dict[str, tuple[float, float]], folder: Path,
                 plugins: Plugins, processes: int, progress: Callable[[str], None]) -> None:  # fmt: skip
        self.folder, self.processes, self.progress = folder, processes, progress
        (folder / "spectra").mkdir(parents=True, exist_ok=True)
        segments = {name: list(window) for name, window in windows.items()}
        settings = {**synthesizer, "corrections": "none", "segments": segments}
        (folder / _SETTINGS).write_text(json.dumps(settings, sort_keys=True))
        self.synthesizer = _made(settings, plugins)
        about = {
            key: value for key, value in self.synthesizer.provenance.items() if key != "line_corrections"
        }
        self._common = hashlib.sha256(
            json.dumps([settings, about], sort_keys=True, default=str).encode()
        ).hexdigest()

    @property
    def wavelength(self) -> np.ndarray:
        return self.synthesizer.wavelength

    def __call__(self, jobs: Sequence[Job], what: str = "") -> list[np.ndarray]:
        """Flux ``(n_pix,)`` of each job, in their order. Raises ``SynthesisError`` for one that fails."""
        files = [self.folder / "spectra" / f"{job.key(self._common)}.npy" for job in jobs]
        waiting = list({file: i for i, file in enumerate(files) if not file.is_file()}.values())
        if waiting:
            rows = [
                {"labels": job.labels, "lists": job.lists, "file": str(file)}
                for job, file in zip(jobs, files, strict=True)
            ]
            (self.folder / _JOBS).write_text(json.dumps(rows))
            for done, (number, error) in enumerate(self._computed(rows, waiting), start=1):
                if error is None or error:
                    raise SynthesisError(error or f"a process died on job {number}: is there enough memory?")
                if done % 10 == 0 or done == len(waiting):
                    self.progress(f"{what}: {done} of {len(waiting)} spectra")
        return [np.load(file) for file in files]

    def _computed(self, rows: list[dict[str, Any]], numbers: list[int]) -> Iterator[tuple[int, str | None]]:
        """The numbers of jobs as they are done, each with what went wrong, or ""."""
        if self.processes > 1 and len(numbers) > 1:
            return spread(_compute_elsewhere, str(self.folder), numbers, self.processes)
        return ((number, _compute(self.synthesizer, rows[number])) for number in numbers)


def _compute_elsewhere(folder: str, number: int) -> str:
    """The work of a process."""
    return _compute(_code(folder), json.loads((Path(folder) / _JOBS).read_text())[number])


def _compute(code: Turbospectrum, job: dict[str, Any]) -> str:
    """Compute a spectrum and keep it: "", or what went wrong."""
    try:
        lists = dict(zip(code.arms, map(Path, job["lists"]), strict=True))
        flux = code.with_lines(lists)(np.array([job["labels"]]))[0]
    except SynthesisError as error:
        return str(error)
    target = Path(job["file"])
    part = target.with_name(f".{target.name}.{os.getpid()}.npy")
    np.save(part, flux.astype(np.float32))
    os.replace(part, target)
    return ""


@lru_cache(maxsize=1)
def _code(folder: str) -> Turbospectrum:
    return _made(json.loads((Path(folder) / _SETTINGS).read_text()), Plugins())


def _made(settings: dict[str, Any], plugins: Plugins) -> Turbospectrum:
    """By its name, as everybody has it: the synthesizer imports the fit, to offer it."""
    code: Turbospectrum = plugins.load("synthesizer", "turbospectrum").from_config(
        settings, abundances.LABELS
    )
    return code


@lru_cache(maxsize=4096)
def _checksum(path: str, _modified: int) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()
