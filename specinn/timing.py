"""How fast this machine is: ways of sampling side by side, each stage of a run, and the whole run.

Not to be confused with :mod:`specinn.evaluation.stars`, which is about benchmark stars.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from specinn.errors import ConfigError, ModelError, ReadError

if TYPE_CHECKING:
    from specinn.inference.run import Run
    from specinn.plugins import Plugins

__all__ = [
    "REFERENCE",
    "SURVEY",
    "Cost",
    "Release",
    "Row",
    "Way",
    "Whole",
    "devices",
    "machine",
    "measure",
    "measure_stages",
    "on_cores",
]

SURVEY = 4_000_000  # spectra, for "hours for 4 million"
REFERENCE = "FrEIA, paper"  # name of the reference of the ratios, in its part of the table
_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
          "VECLIB_MAXIMUM_THREADS")  # fmt: skip
_PACKAGES = ("specinn", "FrEIA", "numpy", "scipy", "astropy", "pyarrow")
_RELEASE = Path(__file__).with_name("timing_release.json")
_AT_LEAST = 0.1  # seconds that one measurement lasts; shorter work is repeated within it
_LONG = 2.0  # seconds, above which no warm-up is needed

Whole = Callable[[Sequence[Path], Path, str], None]  # files, catalogue, device


@attrs.frozen
class Cost:
    """Seconds on the clock, and seconds of processor time of all threads and child processes."""

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(max(self.wall - other.wall, 0.0), max(self.cpu - other.cpu, 0.0))

    def __truediv__(self, n: float) -> Cost:
        return Cost(self.wall / n, self.cpu / n)

    def best(self, other: Cost) -> Cost:
        return Cost(min(self.wall, other.wall), min(self.cpu, other.cpu))

    @classmethod
    def now(cls) -> Cost:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cls(time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime)


@attrs.frozen
class Way:
    """Work to be measured: ``work()`` processes ``spectra`` spectra.

    ``part`` is ``sampling`` or ``training``, shown as they are, or ``inference``, the stages by which an
    estimator gets from prepared spectra to summaries.
    """

    part: str
    name: str
    work: Callable[[], Any] = attrs.field(repr=False)
    spectra: int = 1


@attrs.frozen
class Row:
    """``cost`` is that of one spectrum; ``reference`` that of :data:`REFERENCE`, None where it was not taken
    or the row is only a part of the work."""

    device: str
    part: str
    name: str
    cost: Cost
    reference: Cost | None = None

    @property
    def ratio(self) -> float | None:
        """How many times faster than the reference: by the clock, and on a processor also by its time, of
        which the smaller counts. On a busy machine short measurements find an idle moment and long ones do
        not, so that the clock alone would flatter."""
        if self.reference is None:
            return None
        pairs = [(self.reference.wall, self.cost.wall)]
        if not self.device.startswith("cuda"):
            pairs.append((self.reference.cpu, self.cost.cpu))
        return min((theirs / ours for theirs, ours in pairs if ours > 0), default=None)

    def to_dict(self) -> dict[str, Any]:
        wall = self.cost.wall
        return {
            "device": self.device, "part": self.part, "name": self.name, "ms": 1e3 * wall,
            "cpu_ms": 1e3 * self.cost.cpu, "spectra_per_second": 1.0 / wall if wall > 0 else None,
            "ratio": self.ratio, "hours_for_4_million": SURVEY * wall / 3600.0,
        }  # fmt: skip


@contextlib.contextmanager
def on_cores(n: int) -> Iterator[None]:
    """Everything within runs on ``n`` processor cores: thread pools, and where the system can, the process.

    Libraries that read the number of threads when they are imported must not have been imported before;
    the process is confined to the cores all the same. Raises ``ConfigError`` where there are not as many.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    there = len(allowed) or os.cpu_count() or 1
    if not 1 <= n <= there:
        raise ConfigError(f"threads {n}: expected a number from 1 to {there}, the cores of this machine")
    before = {name: os.environ.get(name) for name in _POOLS}
    os.environ.update(dict.fromkeys(_POOLS, str(n)))
    if allowed:
        os.sched_setaffinity(0, allowed[:n])
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if allowed:
            os.sched_setaffinity(0, allowed)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def machine(threads: int, devices: Sequence[str]) -> dict[str, Any]:
    """The conditions of the measurement: processor, threads, versions, load."""
    import torch

    conditions: dict[str, Any] = {"cpu": _cpu_model(), "cores": os.cpu_count(), "threads": threads}
    for device in devices:
        if device.startswith("cuda"):
            conditions["gpu"] = torch.cuda.get_device_name(device)
    conditions["load"] = round(os.getloadavg()[0], 2)
    conditions["python"] = platform.python_version()
    conditions["torch"] = str(torch.__version__)  # with the build, which its metadata omit
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            conditions[package] = metadata.version(package)
    return conditions


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def devices(wanted: str | None) -> list[str]:
    """The requested device, or the processor and, if there is one, the GPU. Raises ``ConfigError``."""
    import torch

    from specinn.models import check_device

    if wanted is None:
        return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    check_device(wanted)
    return [wanted]


def measure(
    plugins: Plugins,
    folder: Path,
    whole: Whole,
    *,
    model: str | None = None,
    spectra: int = 256,
    samples: int = 4096,
    on: Sequence[str] = ("cpu",),
    repeats: int = 3,
    paper: bool = True,
    progress: Callable[[str], None] = lambda message: None,
) -> list[Row]:
    """Measure everything, ``repeats`` times in turn, and keep the best: a temporary disturbance of the
    machine affects all alike.

    ``spectra`` simulated ones are written to ``folder``, in files of a quarter of them; ``whole`` runs over
    files. ``paper`` is whether the network of the paper takes part, which takes seconds per star.
    """
    from specinn.inference.run import prepare
    from specinn.simulation.mock_survey import SimulatedSurvey

    if spectra < 4:
        raise ConfigError(f"spectra {spectra}: expected at least 4")
    rows: list[Row] = []
    for device in on:
        job = prepare(plugins, model=model, device=device, samples=samples, keep_samples=False)
        survey = SimulatedSurvey(plugins, job.pipeline.estimator.instrument)
        quarter = spectra // 4
        progress(f"{device}: simulating {spectra} spectra")
        files = survey.write(spectra, folder, quarter)
        progress(f"{device}: first run, not measured")
        _, batch = measure_stages(job, files, plugins, folder)
        ways = _ways(plugins, job, batch, samples, paper)
        best: dict[str, Cost] = {}
        stages: dict[str, Cost] = {}

        def keep(into: dict[str, Cost], costs: Mapping[str, Cost]) -> None:
            for name, cost in costs.items():
                into[name] = cost.best(into.get(name, cost))

        calls: dict[str, int] = {}
        subfolder = folder / device.replace(":", "-")
        subfolder.mkdir()
        whole(files[:1], subfolder / "warm-up.parquet", device)
        for number in range(1, repeats + 1):
            progress(f"{device}: round {number} of {repeats}")
            keep(best, {f"{way.part}: {way.name}": _time(way, device, calls) for way in ways})
            keep(stages, measure_stages(job, files, plugins, folder)[0])
            for name, some in (("quarter", files[:1]), ("all", files)):
                start = Cost.now()
                whole(some, subfolder / f"{name}-{number}.parquet", device)
                keep(best, {name: Cost.now() - start})
        rows += _report(device, ways, best, stages, spectra, quarter)
    return rows


@attrs.frozen
class Release:
    """The times of the last release on one core, in processor milliseconds of one spectrum: by part and name,
    and for :data:`REFERENCE` in the same run."""

    release: str
    measured: str
    model: str
    samples: int
    reference_cpu_ms: float
    cpu_ms: Mapping[str, Mapping[str, float]]

    @classmethod
    def read(cls) -> Release:
        return cls(**json.loads(_RELEASE.read_text(encoding="utf-8")))

    def gains(self, rows: Sequence[Row]) -> dict[tuple[str, str], float]:
        """By part and name of a row on the processor, how many times faster it is than in the release, each
        measured by the reference of its own run; nothing where the reference was not measured."""
        reference = next((row.cost.cpu for row in rows if row.device == "cpu"
                          and (row.part, row.name) == ("sampling", REFERENCE)), 0.0)  # fmt: skip
        gains = {}
        for row in rows:
            before = self.cpu_ms.get(row.part, {}).get(row.name)
            if before is not None and row.device == "cpu" and reference > 0 and row.cost.cpu > 0:
                gains[row.part, row.name] = before / self.reference_cpu_ms * reference / row.cost.cpu
        return gains


def _ways(plugins: Plugins, job: Run, batch: Any, samples: int, paper: bool) -> list[Way]:
    """What the plugin of the estimator offers for comparison."""
    from specinn.plugins import load_factory

    estimator = job.pipeline.estimator
    kind = estimator.header.get("estimator")
    for offer in plugins.offers("estimator"):
        if offer.record.name == kind and offer.record.speed:
            ways = load_factory(attrs.evolve(offer.record, factory=offer.record.speed))
            return list(ways(estimator, batch, samples, paper))
    return []


def _cost(work: Callable[[], Any], device: str, calls: int = 1) -> Cost:
    start = Cost.now()
    for _ in range(calls):
        work()
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
    return (Cost.now() - start) / calls


def _time(way: Way, device: str, calls: dict[str, int]) -> Cost:
    """The cost of one spectrum; ``calls`` stores how often the work is repeated in a measurement."""
    key = f"{way.part}: {way.name}"
    if key not in calls:
        first = _cost(way.work, device)  # includes what is done only once: networks, caches, captured graphs
        if first.wall < _LONG:
            first = _cost(way.work, device)
        calls[key] = max(1, round(_AT_LEAST / max(first.wall, 1e-6)))
    return _cost(way.work, device, calls[key]) / way.spectra


class _Clock:
    """Sums the costs of named stages."""

    def __init__(self) -> None:
        self.costs: dict[str, Cost] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = Cost.now()
        try:
            yield
        finally:
            self.costs[name] = self.costs.get(name, Cost()) + (Cost.now() - start)


class _Watched:
    """An estimator whose work is timed, and which remembers the first batch."""

    def __init__(self, estimator: Any, clock: _Clock) -> None:
        self._estimator, self._clock = estimator, clock
        self.batch: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._estimator, name)

    def encode(self, batch: Any) -> Any:
        if self.batch is None:
            self.batch = batch
        with self._clock("inference"):
            return self._estimator.encode(batch)

    def ood_score(self, encoded: Any) -> Any:
        with self._clock("ood score"):
            return self._estimator.ood_score(encoded)

    def summarise(self, encoded: Any, n_samples: int, seed: int) -> Any:
        with self._clock("inference"):
            return self._estimator.summarise(encoded, n_samples, seed)


def measure_stages(
    job: Run, files: Sequence[Path], plugins: Plugins, folder: Path
) -> tuple[dict[str, Cost], Any]:
    """The cost of each stage of a run over the files, one after the other in one thread, and the first batch
    of prepared spectra. ``flags and rest`` is the part of the pipeline that is neither step nor inference."""
    from specinn import catalogue
    from specinn.inference.run import file_sources

    clock = _Clock()

    def timed(name: str, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def work(batch: Any) -> Any:
            with clock(name):
                return step(batch)

        return work

    pipeline = copy.copy(job.pipeline)
    watched = _Watched(pipeline.estimator, clock)
    pipeline.steps = tuple((name, timed(name, step)) for name, step in pipeline.steps)  # type: ignore[misc]
    pipeline.estimator = watched  # type: ignore[assignment]
    rows = []
    pieces = iter(job.pieces(file_sources(files, plugins)))
    while True:
        with clock("read"):
            piece = next(pieces, None)
        if piece is None:
            break
        if piece.batch is None:
            raise ReadError(piece.message)
        with clock("pipeline"):
            result = pipeline(piece.batch)
        with clock("write"):
            rows.append(job.rows(result))
    if watched.batch is None:
        raise ModelError("the model accepts none of the simulated spectra, so there is nothing to measure")
    with clock("write"):
        table = catalogue.build(rows, job.fields, job.meta)
        catalogue.write(table, folder / "stages.parquet", overwrite=True)
    costs = clock.costs
    rest = costs.pop("pipeline")
    names = [name for name, _ in job.pipeline.steps]
    stages = (*names, "inference", "ood score")
    for name in stages:
        rest -= costs[name]
    ordered = {name: costs[name] for name in ("read", *stages)}
    return ordered | {"flags and rest": rest, "write": costs["write"]}, watched.batch


def _report(
    device: str,
    ways: Sequence[Way],
    best: Mapping[str, Cost],
    stages: Mapping[str, Cost],
    spectra: int,
    quarter: int,
) -> list[Row]:
    rows: list[Row] = []
    for way in ways:
        if way.part != "inference":
            reference = best.get(f"{way.part}: {REFERENCE}")
            rows.append(Row(device, way.part, way.name, best[f"{way.part}: {way.name}"], reference))
    reference = best.get(f"sampling: {REFERENCE}")
    total = Cost()
    inference = [way.name for way in ways if way.part == "inference"]
    for name, whole in stages.items():
        cost = whole / spectra
        total += cost
        if name == "inference" and inference:
            for part in inference:
                costs = best[f"inference: {part}"]
                rows.append(Row(device, "stages", part, costs))
                cost -= costs
            name = "summaries"
        rows.append(Row(device, "stages", name, cost))
    rows.append(Row(device, "stages", "all stages", total, reference))
    cost = best["all"] / spectra
    rows.append(Row(device, "run", f"specinn run, {spectra} spectra", cost, reference))
    cost = (best["all"] - best["quarter"]) / (spectra - quarter)
    if cost.wall > 0:
        rows.append(Row(device, "run", "each further spectrum", cost, reference))
    return rows
