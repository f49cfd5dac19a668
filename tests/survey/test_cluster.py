"""Shards on a Dask cluster of processes: the same result, whoever dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import survey_plugin
from typer.testing import CliRunner, Result

from specinn.cli import app
from specinn.errors import ConfigError
from specinn.parallel.cluster import ClusterFile
from specinn.plugins import Plugins
from specinn.survey.manifest import Manifest

pytestmark = pytest.mark.slow

SIZES = [3, 1, 2, 4, 1, 1, 2, 5, 3, 1, 2, 2]


@attrs.frozen
class Site:
    folder: Path
    arguments: list[str]
    plugins: Plugins


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    path = survey_plugin.install(folder / "packages")
    model = survey_plugin.write_model(folder / "toy.safetensors")
    files = [path.name for path in survey_plugin.write_files(folder, SIZES, bad=(4,))]
    options = [
        "run",
        "-i",
        "toy",
        "--format",
        "toy-text",
        "--samples",
        "60",
        "-m",
        str(model),
        "--quiet",
        *files,
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.syspath_prepend(folder / "packages")  # what processes that Python spawns search instead
        patch.setenv("TOY_LIVES", str(folder / "lives"))
        patch.setenv("TOY_VICTIM", "star-5-0")
        patch.setattr("specinn.survey.manifest.SMALLEST", 400_000)
        patch.chdir(folder)  # relative paths, which workers elsewhere find, too
        (folder / "lives").write_text("")
        yield Site(folder, options, Plugins(entry=[], extra={"survey": survey_plugin}))


@pytest.fixture
def run(site: Site) -> Callable[..., Result]:
    def call(*arguments: Any) -> Result:
        return CliRunner().invoke(app, [*site.arguments, *map(str, arguments)], obj=site.plugins)

    return call


Command = Callable[..., Result]


@pytest.fixture(scope="module")
def reference(site: Site) -> bytes:
    done = CliRunner().invoke(app, [*site.arguments, "-o", "reference.fits"], obj=site.plugins)
    assert done.exit_code == 0, done.output
    return Path("reference.fits").read_bytes()


@pytest.fixture(scope="module")
def cluster(site: Site) -> Iterator[Any]:
    """Two processes, started elsewhere than the files are."""
    distributed = pytest.importorskip(
        "dask.distributed", reason="Dask is not installed: pip install '.[cluster]'"
    )
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",
        local_directory=site.folder / "dask",
    ) as cluster:
        yield cluster


def test_a_cluster_gives_the_same(run: Command, cluster: Any, reference: bytes) -> None:
    result = run("-o", "out.fits", "--scheduler", cluster.scheduler_address)
    assert result.exit_code == 0, result.output
    assert Path("out.fits").read_bytes() == reference
    assert "s04.txt" in result.stderr  # what failed is told here, too
    assert not Path("out.fits.run").exists()


def test_a_worker_that_is_killed_costs_its_shard(
    run: Command, cluster: Any, site: Site, reference: bytes
) -> None:
    (site.folder / "lives").write_text("x")
    result = run("-o", "killed.fits", "--scheduler", cluster.scheduler_address)
    assert result.exit_code == 0, result.output
    assert (site.folder / "lives").read_text() == ""
    assert Path("killed.fits").read_bytes() == reference


def test_a_shard_that_kills_its_workers(run: Command, cluster: Any, site: Site, reference: bytes) -> None:
    (site.folder / "lives").write_text("x" * 20)
    result = run("-o", "deadly.fits", "--scheduler", cluster.scheduler_address)
    (site.folder / "lives").write_text("")
    assert result.exit_code == 1
    said = result.stderr.splitlines()[-1]
    assert "workers died one after another over shard" in said and "s05.txt" in said and "--resume" in said
    assert run("-o", "deadly.fits", "--resume").exit_code == 0
    assert Path("deadly.fits").read_bytes() == reference


def test_an_error_of_a_worker_is_a_sentence(run: Command, cluster: Any, site: Site) -> None:
    model = Path(site.folder / "toy.safetensors")
    content = model.read_bytes()
    try:
        with pytest.MonkeyPatch.context() as patch:
            usual = Manifest.save

            def save(self: Any, folder: Path, **state: Any) -> None:
                usual(self, folder, **state)
                survey_plugin.write_model(model, n=30)  # another model for the workers than for us

            patch.setattr(Manifest, "save", save)
            result = run("-o", "other.fits", "--scheduler", cluster.scheduler_address)
    finally:
        model.write_bytes(content)
    assert result.exit_code == 1
    assert "has another model (SHA-256)" in result.stderr.splitlines()[-1], result.stderr


def test_a_scheduler_that_vanishes(run: Command, site: Site, reference: bytes, tmp_path: Path) -> None:
    pytest.importorskip("dask.distributed", reason="Dask is not installed: pip install '.[cluster]'")
    where = tmp_path / "scheduler.json"
    environment = {**os.environ, "TOY_PAUSE": "0.4", "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"}
    common = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    dask = [sys.executable, "-m", "distributed.cli"]
    start = {
        "scheduler": ["dask_scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(where)],
        "worker": ["dask_worker", "--no-dashboard", "--nthreads", "1", "--scheduler-file", str(where)],
    }
    processes = []
    try:
        for arguments in start.values():
            module = f"{dask[-1]}.{arguments[0]}"
            processes.append(subprocess.Popen([sys.executable, "-m", module, *arguments[1:]], **common))  # type: ignore[call-overload]
        while not where.exists():
            assert processes[0].poll() is None
            time.sleep(0.05)
        import json
        import threading

        address = json.loads(where.read_text())["address"]

        def kill() -> None:
            while not list(Path("gone.fits.run").glob("part-*.parquet")):
                time.sleep(0.01)
            processes[0].send_signal(signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
        result = run("-o", "gone.fits", "--scheduler", address)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert result.exit_code == 1
    said = result.stderr.splitlines()[-1]
    assert f"the scheduler at {address} is gone" in said and "--resume" in said
    assert run("-o", "gone.fits", "--resume").exit_code == 0
    assert Path("gone.fits").read_bytes() == reference


def test_no_scheduler(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask.distributed", reason="Dask is not installed: pip install '.[cluster]'")
    monkeypatch.setattr("specinn.parallel.cluster._PATIENCE", 0.3)
    result = run("-o", "none.fits", "--scheduler", "tcp://127.0.0.1:9")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("specinn: no scheduler answers at tcp://127.0.0.1:9")
    assert not Path("none.fits.run").exists()


def test_D4_a_scheduler_that_never_answers(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask.distributed", reason="Dask is not installed: pip install '.[cluster]'")
    monkeypatch.setattr("specinn.parallel.cluster._PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        result = run("-o", "none.fits", "--scheduler", address)
    assert time.monotonic() - began < 60
    assert result.exit_code == 1
    said = result.stderr.splitlines()[-1]
    assert said == (
        f"specinn: no scheduler answers at {address}: it accepts connections but does not answer for 0.3 s"
    )


def test_a_cluster_from_a_file(run: Command, reference: bytes, tmp_path: Path) -> None:
    pytest.importorskip("dask.distributed", reason="Dask is not installed: pip install '.[cluster]'")
    file = tmp_path / "cluster.toml"
    file.write_text(f'kind = "local"\njobs = 2\n[options]\nlocal_directory = "{tmp_path}"\n')
    result = run("-o", "file.fits", "--cluster", file)
    assert result.exit_code == 0, result.output
    assert Path("file.fits").read_bytes() == reference


def test_jobs_of_a_batch_system(tmp_path: Path) -> None:
    jobqueue = pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: '.[cluster]'")
    from specinn.parallel import cluster

    assert all(hasattr(jobqueue, name) for kind, name in cluster.KINDS.items() if kind != "local")
    file = tmp_path / "slurm.toml"
    file.write_text(
        'kind = "slurm"\njobs = 20\n[options]\nqueue = "regular"\ncores = 8\nprocesses = 8\nmemory = "32GB"\n'
    )
    result = ClusterFile.read(file)
    assert result.jobs == 20 and result.options["queue"] == "regular"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('kind = "slrum"\njobs = 2\n', "no kind 'slrum'; did you mean 'slurm'"),
        ('kind = "slurm"\njobs = 0\n', "jobs 0: at least 1"),
        ('kind = "slurm"\n', "jobs"),
        ('kind = "slurm"\njobs = "many"\n', r"expected an integer, found 'many' @ \$\.jobs"),
        ('kind = "slurm"\njobs = 2\nqueue = "x"\n', "queue"),
        ("kind = ", "not valid TOML"),
    ],
)
def test_wrong_cluster_files(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        ClusterFile.read(tmp_path / "c.toml")


def test_without_dask(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = run("-o", "none.fits", "--scheduler", "tcp://127.0.0.1:9")
    assert result.exit_code == 1
    assert "pip install 'specinn[cluster]'" in result.stderr and len(result.stderr.splitlines()) == 1
    both = run("-o", "none.fits", "--scheduler", "tcp://127.0.0.1:9", "--cluster", "c.toml")
    assert "give only one of them" in both.stderr
