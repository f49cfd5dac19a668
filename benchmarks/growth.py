"""Time and memory of ``specinn run`` as surveys grow: ``python benchmarks/growth.py FOLDER 1000 10000``.

The spectra are simulated into FOLDER, unless they are there already. Each run is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from specinn.errors import SpecinnError
from specinn.files import replacing
from specinn.plugins import Plugins
from specinn.simulation.mock_survey import PER_FILE, SimulatedSurvey
from specinn.timing import on_cores

_RUN = "from specinn.cli import main; main()"
# a small process between: one that is started counts the memory of the process that starts it as its own
_WATCH = """
import json, os, subprocess, sys, time
start = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
seconds = time.monotonic() - start
cpu = usage.ru_utime + usage.ru_stime
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, cpu, usage.ru_maxrss]))
"""
_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=__doc__.splitlines()[2])
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="for spectra and catalogues")
    parser.add_argument("sizes", metavar="N", type=int, nargs="*", default=[1000, 10_000],
                        help="numbers of spectra (default: 1000 10000)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="processor cores (default 1)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--run", default="", help="more options of specinn run, in quotes")
    options = parser.parse_args()
    if min(options.sizes) < 1:
        parser.error(f"{min(options.sizes)} spectra: expected numbers above 0")
    try:
        per_file = _per_file(options.sizes)
        spectra = options.folder / f"spectra-{per_file}"
        files = SimulatedSurvey(Plugins()).write(max(options.sizes), spectra, per_file, _simulated)
        with on_cores(options.threads):
            more = options.run.split()
        rows = [measure(n, files[: n // per_file], options.folder, more) for n in options.sizes]
        if options.json is not None:
            with replacing(options.json) as temporary:
                temporary.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    except SpecinnError as error:
        sys.exit(f"growth: {error}")
    show(rows)


def measure(n: int, files: list[Path], folder: Path, options: list[str]) -> dict[str, Any]:
    """Run over the files; peak memory is that of the largest process, as the system counts it."""
    out, log = folder / f"catalogue-{n}", folder / f"run-{n}.log"
    run = [sys.executable, "-c", _RUN, "run", *map(str, files), "-o", str(out), "--overwrite", *options]
    with log.open("wb") as file:
        watch = [sys.executable, "-c", _WATCH, *run]
        printed = subprocess.run(watch, stdout=subprocess.PIPE, stderr=file, check=True).stdout
    status, seconds, cpu, memory = json.loads(printed)
    if status:
        raise SpecinnError(f"specinn run ended with status {status}: see {log}")
    return {"spectra": n, "seconds": seconds, "cpu_seconds": cpu, "peak_memory_mb": memory * _UNIT / 1e6}


def show(rows: list[dict[str, Any]]) -> None:
    """One line per run; the rate between neighbours is free of the cost of starting."""
    print(f"{'spectra':>8} {'seconds':>8} {'CPU s':>8} {'spectra/s':>10} {'more/s':>8} {'peak MB':>8}")
    for before, row in zip([None, *rows], rows, strict=False):
        more = ""
        if before is not None and row["seconds"] > before["seconds"]:
            rate = (row["spectra"] - before["spectra"]) / (row["seconds"] - before["seconds"])
            more = f"{rate:.1f}"
        rate = row["spectra"] / row["seconds"]
        seconds, cpu, memory = row["seconds"], row["cpu_seconds"], row["peak_memory_mb"]
        print(f"{row['spectra']:>8} {seconds:>8.1f} {cpu:>8.1f} {rate:>10.1f} {more:>8} {memory:>8.0f}")


def _per_file(sizes: list[int]) -> int:
    """Spectra per file, so that every size is a number of whole files, the same ones."""
    common = math.gcd(*sizes)
    return max(n for n in range(1, PER_FILE + 1) if common % n == 0)


def _simulated(done: int) -> None:
    print(f"{done} spectra simulated", file=sys.stderr)


if __name__ == "__main__":
    main()
