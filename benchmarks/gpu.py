"""Checks and measures specinn on a GPU in eight minutes: ``sh benchmarks/gpu.sh --out results``.

Each part is a process of its own, because a CUDA error breaks a process; one that fails is a row with
its message. ``--device cpu --tiny`` is a rehearsal anywhere.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
WIDTH = 0.01  # of a posterior, by which summaries of two devices may differ
Row = dict[str, Any]


class Sizes:
    """How much is measured: the full programme, or one that a CPU finishes in a minute."""

    def __init__(self, device: str, tiny: bool) -> None:
        self.device = device
        self.batches = (1, 3) if tiny else (1, 8, 64, 512, 4096)
        self.samples = 64 if tiny else 4096
        self.spectra = 4 if tiny else 1024
        self.seconds = 0.0 if tiny else 2.0
        self.presets = ("default",) if tiny else ("paper", "default")


def machine(sizes: Sizes) -> list[Row]:
    from specinn import timing

    return [{"name": name, "value": value} for name, value in timing.machine(1, [sizes.device]).items()]


def tests(sizes: Sizes) -> list[Row]:
    """The tests of the source, which compare captured graphs with eager sampling."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command.append("tests/specinn_cinn/test_cuda.py")
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    last = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[-1]
    if done.returncode:
        raise RuntimeError(last)
    return [{"name": "tests/specinn_cinn/test_cuda.py", "value": last}]


def captured(sizes: Sizes) -> list[Row]:
    """A captured graph against eager sampling with the same draws, by batch size."""
    import torch
    from specinn_cinn.cuda import CapturedSampler
    from specinn_cinn.sampler import Sampler

    rows, model = [], _model(sizes.device)
    sampler = Sampler(model.flow)
    for n in sizes.batches:
        z, condition = _draws(model, n, sizes.samples, 1)
        y, log_det = (tensor.clone() for tensor in sampler(z, sampler.hoist(condition), sampler.workspace()))
        if sizes.device == "cpu":
            others = sampler(z, sampler.hoist(condition), sampler.workspace())
        else:
            others = CapturedSampler(sampler, torch.randn_like(z), condition.shape[1])(z, condition)
        worst = max(float((a - b).abs().max()) for a, b in zip((y, log_det), others, strict=True))
        rows.append({"name": f"{n} stars", "value": worst, "good": worst < 1e-3})
    return rows


def summaries(sizes: Sizes) -> list[Row]:
    """Summaries on the device against those of the processor, with the same draws of two seeds."""
    import numpy as np
    import torch
    from specinn_cinn.cuda import summaries as many
    from specinn_cinn.sampler import Sampler

    from specinn.posterior import Summary

    rows = []
    processor, device = _model("cpu"), _model(sizes.device)
    for n in [n for n in sizes.batches if n <= 64]:
        for seed in (1, 2):
            z, condition = _draws(processor, n, sizes.samples, seed)
            values = []
            for model in (processor, device):
                sampler = Sampler(model.flow)
                place = {"device": model.device}
                with torch.no_grad():
                    y, log_det = sampler(z.to(**place), sampler.hoist(condition.to(**place)), {})
                    y = (y.clone() * model.spread[:, None] + model.center[:, None]).transpose(1, 2)
                    physical = model.labels.from_network(y).transpose(1, 2).contiguous()
                values.append((physical, -log_det))
            expected = Summary.empty(processor.labels, n)
            for star, (one, density) in enumerate(zip(*(part.numpy() for part in values[0]), strict=True)):
                expected.put_star(star, one, density, processor.labels.inside(one.T) & np.isfinite(density))
            result = many(device.labels, *values[1])
            width = expected.quantiles[3] - expected.quantiles[2]
            worst = float(np.nanmax(np.abs(result.quantiles - expected.quantiles) / width))
            rows.append({"name": f"{n} stars, seed {seed}", "value": worst, "good": worst < WIDTH})
    return rows


def sampling(sizes: Sizes) -> list[Row]:
    """FrEIA and specinn on the same device, and training steps."""
    from specinn_cinn import timing

    if sizes.spectra < 8:
        timing._BATCH = 8
    rows = []
    ways = timing.ways(_model(sizes.device), _prepared(sizes), sizes.samples, "paper" in sizes.presets)
    for way in ways:
        if way.part in ("sampling", "training"):
            seconds = _seconds(way.work, sizes) / way.spectra
            row = {"name": f"{way.part}: {way.name}", "spectra_per_second": 1.0 / seconds}
            if way.part == "training":
                row["steps_per_second"] = 1.0 / (seconds * way.spectra)
            rows.append(row | _memory(sizes))
    return rows


def inference(sizes: Sizes) -> list[Row]:
    """From prepared spectra to summaries, by the number of stars that pass the flow together."""
    from specinn_cinn import estimator

    from specinn.spectra import SpectrumBatch

    model, prepared, rows = _model(sizes.device), _prepared(sizes), []
    for n in sizes.batches:
        estimator._STARS_ON_GPU = n
        repeats = -(-n // len(prepared))
        batch = (SpectrumBatch.concatenate([prepared] * repeats) if repeats > 1 else prepared)[slice(n)]

        def work(batch: Any = batch) -> None:
            model.summarise(batch, sizes.samples, 0)

        rows.append(
            {"name": f"{n} spectra", "spectra_per_second": n / _seconds(work, sizes)} | _memory(sizes)
        )
    return rows


def files(sizes: Sizes) -> list[Row]:
    """``specinn run``: files to catalogue, and what a survey of four million takes at that rate."""
    from specinn.cli import main
    from specinn.plugins import Plugins
    from specinn.simulation.mock_survey import SimulatedSurvey

    with tempfile.TemporaryDirectory(prefix="specinn-") as folder:
        survey = SimulatedSurvey(Plugins(), _model("cpu").instrument)
        paths = survey.write(sizes.spectra, Path(folder), sizes.spectra // 4)
        cost = []
        for number, some in enumerate((paths[:1], paths[:1], paths)):  # the first is not measured
            start = time.perf_counter()
            out = Path(folder) / f"{number}.parquet"
            options = ["--samples", str(sizes.samples), "--device", sizes.device, "--quiet"]
            try:
                main(["run", *map(str, some), "-o", str(out), *options])
            except SystemExit as end:
                if end.code:
                    raise RuntimeError(f"specinn run ended with status {end.code}") from None
            cost.append(time.perf_counter() - start)
        rows = [{"name": f"{sizes.spectra} spectra", "spectra_per_second": sizes.spectra / cost[2]}]
        if cost[2] > cost[1]:
            rate = (sizes.spectra - sizes.spectra // 4) / (cost[2] - cost[1])
            hours = 4e6 / rate / 3600.0
            rows.append({"name": "each further spectrum", "spectra_per_second": rate,
                         "hours_for_4_million": hours} | _memory(sizes))  # fmt: skip
        return rows


PARTS: dict[str, Callable[[Sizes], list[Row]]] = {
    part.__name__: part for part in (machine, tests, captured, summaries, inference, sampling, files)
}


def _model(device: str) -> Any:
    from specinn_cinn.estimator import CINN

    from specinn import models
    from specinn.plugins import Plugins

    return CINN.load(Path(models.find(Plugins(), None).path), device)


def _draws(model: Any, n: int, samples: int, seed: int) -> tuple[Any, Any]:
    """Latent draws, and conditions as those of spectra are: their numbers are of order one."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, len(model.labels), samples, generator=generator)
    condition = 0.3 * torch.randn(n, model.architecture.features[-1], generator=generator)
    return z.to(model.device), condition.to(model.device)


def _prepared(sizes: Sizes) -> Any:
    """Spectra that have passed the model's preprocessing."""
    from specinn.inference.run import prepare
    from specinn.plugins import Plugins
    from specinn.simulation.mock_survey import SimulatedSurvey
    from specinn.spectra import SpectrumBatch
    from specinn.spectra.readers import read

    plugins = Plugins()
    job = prepare(plugins, samples=sizes.samples, keep_samples=False)
    n = min(sizes.spectra, 64)
    with tempfile.TemporaryDirectory(prefix="specinn-") as folder:
        paths = SimulatedSurvey(plugins, job.pipeline.estimator.instrument).write(n, Path(folder), n)
        batch = SpectrumBatch.concatenate([batch for path in paths for batch in read(path, plugins)])
    return job.pipeline.preprocess(batch)


def _seconds(work: Callable[[], Any], sizes: Sizes) -> float:
    """The best of many calls, after three that are not measured: memory, and graphs recorded at a second."""
    import torch

    best, until = float("inf"), 0.0
    for number in range(1000):
        start = time.perf_counter()
        work()
        if sizes.device != "cpu":
            torch.cuda.synchronize()
        end = time.perf_counter()
        if number < 3 and sizes.seconds:
            until = end + sizes.seconds
            continue
        best = min(best, end - start)
        if end >= until:
            break
    return best


def _memory(sizes: Sizes) -> Row:
    """Highest memory since the last row, in MB: of the device, or of the process."""
    import resource

    import torch

    if sizes.device == "cpu":
        return {"memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}
    peak = torch.cuda.max_memory_allocated() / 1e6
    torch.cuda.reset_peak_memory_stats()
    return {"memory_mb": peak}


def run_part(name: str, words: list[str], seconds: float) -> Row:
    """The result of a part in a process of its own, or why there is none."""
    start = time.perf_counter()
    result: Row = {"part": name, "rows": [], "failed": ""}
    with tempfile.TemporaryDirectory(prefix="specinn-") as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, __file__, *words, "--part", name, "--json", str(out)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
            if done.returncode or not out.exists():
                lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
                result["failed"] = f"status {done.returncode}: {lines[-1]}"
            else:
                result["rows"] = json.loads(out.read_text(encoding="utf-8"))
        except subprocess.TimeoutExpired:
            result["failed"] = f"not done within {seconds:.0f} s"
        except OSError as error:
            result["failed"] = str(error)
    bad = [row["name"] for row in result["rows"] if not row.get("good", True)]
    if bad:
        result["failed"] = f"beyond the tolerance: {', '.join(bad)}"
    return result | {"seconds": time.perf_counter() - start}


def table(results: list[Row]) -> str:
    """One line per row."""
    lines = []
    for result in results:
        state = f"FAILED: {result['failed']}" if result["failed"] else "done"
        lines.append(f"{result['part']} ({result['seconds']:.0f} s): {state}")
        for row in result["rows"]:
            cells = [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                     for key, value in row.items() if key not in ("name", "good")]  # fmt: skip
            lines.append(f"  {row['name']:<36} {'  '.join(cells)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda (default), or cpu for a rehearsal")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder for gpu.json and gpu.txt")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no part is started")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="all unless given")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        rows = PARTS[options.part](Sizes(options.device, options.tiny))
        options.json.write_text(json.dumps(rows), encoding="utf-8")
        return
    words = ["--device", options.device, *(["--tiny"] if options.tiny else [])]
    until, results = time.perf_counter() + 60.0 * options.minutes, []
    for name in options.parts:
        left = until - time.perf_counter()
        if left > 0:
            results.append(run_part(name, words, left))
        else:
            results.append({"part": name, "rows": [], "failed": "no time was left", "seconds": 0.0})
        print(table(results[-1:]), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    report = {"device": options.device, "tiny": options.tiny, "parts": results}
    for file, text in (("gpu.json", json.dumps(report, indent=2)), ("gpu.txt", table(results))):
        temporary = options.out / f"{file}.part"
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(options.out / file)


if __name__ == "__main__":
    main()
