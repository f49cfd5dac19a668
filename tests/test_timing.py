"""Simulated surveys, and the command that measures speed: what they write, not how fast they are."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import fake_plugin
import numpy as np
import pytest
import torch
from astropy.io import fits
from specinn_cinn import timing as cinn_speed
from typer.testing import CliRunner

from specinn import catalogue, timing
from specinn.cli import app
from specinn.errors import ConfigError, ModelError, OutputError, SpecinnError
from specinn.inference.run import prepare
from specinn.instruments import Instrument
from specinn.plugins import Plugins
from specinn.simulation.mock_survey import _BLOCK, STEP, SimulatedSurvey
from specinn.spectra import SpectrumBatch, snr_per_angstrom
from specinn.spectra.readers import find_format, read

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins()


@pytest.fixture(scope="module")
def survey(plugins: Plugins) -> SimulatedSurvey:
    return SimulatedSurvey(plugins, seed=3)


@pytest.fixture(scope="module")
def narrow(plugins: Plugins) -> Instrument:
    """Two short arms, for tests that write many files."""
    whole = Instrument.from_toml(plugins.record("instrument", "4most-hr").toml)
    green, red = whole.arm("green"), whole.arm("red")
    return attrs.evolve(whole, arms=(attrs.evolve(green, range=(5380.0, 5400.0)),
                                     attrs.evolve(red, range=(6180.0, 6210.0))))  # fmt: skip


@pytest.fixture(scope="module")
def small(plugins: Plugins, narrow: Instrument) -> SimulatedSurvey:
    return SimulatedSurvey(plugins, narrow, seed=3)


def truth(path: Path) -> np.ndarray:
    with fits.open(path) as hdus:
        return np.array(hdus["TRUTH"].data)


def test_the_reader_reads_what_was_drawn(survey: SimulatedSurvey, plugins: Plugins, tmp_path: Path) -> None:
    (path,) = survey.write(60, tmp_path)  # more than a block
    assert find_format(path, plugins) == "4most-multi"
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert hdus["SPECTAB"].data["SPECUID"].tolist() == list(range(60))
    batch = SpectrumBatch.concatenate(list(read(path, plugins)))
    assert len(batch) == 60 and batch.resolving_power == 20_000 and batch.medium == "air"
    assert batch.wavelength[[0, -1]] == pytest.approx([3926, 6790])
    wave = batch.wavelength
    between = ((wave > 4355) & (wave < 5160)) | ((wave > 5730) & (wave < 6100))
    assert (batch.mask == between).all()
    stars = truth(path)
    assert batch.meta["snr_header"] == pytest.approx(stars["snr"], rel=1e-6)
    assert ((stars["snr"] >= 20) & (stars["snr"] <= 300)).all() and np.abs(stars["rv"]).max() <= 150
    for name, (low, high) in zip(survey.emulator.labels, survey.emulator.bounds, strict=True):
        assert ((stars[name] > low) & (stars[name] < high)).all(), name
    window = (batch.wavelength > 6190) & (batch.wavelength < 6210)
    # the noise is constant in some spectra and Poissonian in others, and lines take flux away
    assert np.median(snr_per_angstrom(batch, window) / stars["snr"]) == pytest.approx(1.0, abs=0.1)
    quiet = stars["snr"] > 100
    scatter = np.diff(batch.flux[:, window], axis=1).std(axis=1) / np.median(batch.flux[:, window], axis=1)
    assert np.median(scatter[quiet]) < 0.1 and (batch.flux[:, window] > 0).all(axis=1)[quiet].all()


def test_lines_lie_where_the_velocity_puts_them(survey: SimulatedSurvey) -> None:
    """Against the emulator itself, shifted by interpolation."""
    rows, stars = survey.block(0)
    row = int(np.argmax(np.where(stars["fe_h"] > -0.5, np.abs(stars["rv"]), 0.0)))
    labels = np.array([[stars[name][row] for name in survey.emulator.labels]])
    wave, rest = survey.emulator.wavelength, survey.emulator(labels)[0]
    axis = survey.first + STEP * survey.pixels
    window = (axis > 6200) & (axis < 6600)
    axis = axis[window]
    observed = rows["FLUX"][row, survey.pixels[window]].astype(float)
    red = survey.emulator.arms["red"]
    velocities = np.arange(-200.0, 201.0, 1.0)
    fits_at = [np.corrcoef(np.interp(axis / (1 + v / 299792.458), wave[red], rest[red]), observed)[0, 1]
               for v in velocities]  # fmt: skip
    assert velocities[np.argmax(fits_at)] == pytest.approx(stars["rv"][row], abs=2.0)


def test_a_star_hangs_on_seed_and_number_alone(
    small: SimulatedSurvey, plugins: Plugins, narrow: Instrument, tmp_path: Path
) -> None:
    seven = small.write(7, tmp_path / "a", per_file=4)
    nine = small.write(9, tmp_path / "b", per_file=4)
    again = SimulatedSurvey(plugins, narrow, seed=3).write(7, tmp_path / "c", per_file=4)
    assert len(seven) == 2 and len(nine) == 3
    assert seven[0].read_bytes() == nine[0].read_bytes() == again[0].read_bytes()
    assert seven[1].read_bytes() == again[1].read_bytes()
    some, more = (next(read(files[1], plugins)) for files in (seven, nine))
    assert np.array_equal(some.flux, more.flux[:3])
    assert np.array_equal(some.sigma, more.sigma[:3], equal_nan=True)
    other = SimulatedSurvey(plugins, narrow, seed=4).write(4, tmp_path / "d")
    assert not np.array_equal(truth(other[0])["teff"], truth(seven[0])["teff"])
    late = truth(small.write(_BLOCK + 1, tmp_path / "e", per_file=_BLOCK)[1])
    assert late["SPECUID"].tolist() == [_BLOCK] and late["teff"] != truth(seven[0])["teff"][0]


def test_whole_files_stay_and_others_are_written_again(small: SimulatedSurvey, tmp_path: Path) -> None:
    files = small.write(6, tmp_path, per_file=2)
    content = [file.read_bytes() for file in files]
    for file in files:
        os.utime(file, (1, 1))
    files[1].write_bytes(content[1][:-2880])
    said: list[int] = []
    assert small.write(6, tmp_path, per_file=2, progress=said.append) == files
    assert [file.read_bytes() for file in files] == content and said == [6]
    assert [file.stat().st_mtime == 1 for file in files] == [True, False, True]
    small.write(5, tmp_path, per_file=2)  # the last one is shorter now
    assert len(truth(files[2])) == 1 and files[1].read_bytes() == content[1]
    assert [p.name for p in tmp_path.iterdir() if p not in files] == []


def test_foreign_files_are_not_replaced(small: SimulatedSurvey, tmp_path: Path) -> None:
    path = tmp_path / "survey-3-00000.fits"
    path.write_text("my notes")
    with pytest.raises(OutputError, match="not a file of a simulated survey"):
        small.write(2, tmp_path)
    assert path.read_text() == "my notes"
    with pytest.raises(OutputError, match="could not be written"):
        small.write(2, path / "below")


def test_a_disk_that_is_too_small(small: SimulatedSurvey, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"takes .* GB more, but the disk has"):
        small.write(10**12, tmp_path, per_file=10**11)
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_make_no_sense(small: SimulatedSurvey, plugins: Plugins, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="spectra 0"):
        small.write(0, tmp_path)
    with pytest.raises(ConfigError, match="per_file 0"):
        small.write(1, tmp_path, per_file=0)
    with pytest.raises(ConfigError, match="seed -1"):
        SimulatedSurvey(plugins, seed=-1)
    green = Instrument.from_toml(plugins.record("instrument", "4most-hr").toml).select(("green",))
    beyond = attrs.evolve(green, arms=(attrs.evolve(green.arms[0], range=(4800.0, 5100.0)),))
    with pytest.raises(ModelError, match="arm green"):
        SimulatedSurvey(plugins, beyond)


def test_freia_and_our_sampler_are_given_the_same(
    plugins: Plugins, survey: SimulatedSurvey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the benchmark compares must be the same samples, or the ratio means nothing."""
    monkeypatch.setattr(cinn_speed, "_BATCH", 8)
    job = prepare(plugins, samples=64, keep_samples=False)
    costs, batch = timing.measure_stages(job, survey.write(4, tmp_path), plugins, tmp_path)
    steps = [name for name, _ in job.pipeline.steps]
    assert list(costs) == ["read", *steps, "inference", "ood score", "flags and rest", "write"]
    assert all(cost.wall > 0 for cost in costs.values()) and len(batch) == 4
    assert isinstance(batch, SpectrumBatch)  # encoded already, it would make features free
    assert all(name in dict(job.pipeline.steps) for name in steps)  # the job itself is not watched
    result = {f"{way.part}: {way.name}": way for way in
             cinn_speed.ways(job.pipeline.estimator, batch, 64, True)}  # fmt: skip
    for preset in ("paper", "default"):
        theirs, ours = (result[f"sampling: {who}, {preset}"] for who in ("FrEIA", "specinn"))
        (rows, jacobian), (stars, log_determinant) = theirs.work(), ours.work()
        assert theirs.spectra == ours.spectra == 1 and rows.shape == (64, 26)
        assert torch.allclose(stars[0].T, rows, atol=1e-4)
        assert torch.allclose(log_determinant[0], jacobian, atol=1e-4)
    step = result["training: FrEIA, default"]
    step.work()
    before = [weight.clone() for weight in step.work.model.features.parameters()]
    step.work()
    moved = zip(before, step.work.model.features.parameters(), strict=True)
    assert step.spectra == 8 and not any(torch.equal(*weights) for weights in moved)
    assert not any(weight.requires_grad for weight in job.pipeline.estimator.features.parameters())
    lean = cinn_speed.ways(job.pipeline.estimator, batch, 64, False)
    assert not [way for way in lean if "paper" in way.name] and len(lean) < len(result)


def test_cores_are_given_back() -> None:
    before = torch.get_num_threads(), os.sched_getaffinity(0), os.environ.get("OMP_NUM_THREADS")
    with timing.on_cores(1):
        assert torch.get_num_threads() == len(os.sched_getaffinity(0)) == 1
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert before == (torch.get_num_threads(), os.sched_getaffinity(0), os.environ.get("OMP_NUM_THREADS"))
    with pytest.raises(ConfigError, match="threads 99999: expected a number from 1 to"):
        timing.on_cores(99_999).__enter__()


def timing_of(*arguments: object, others: Plugins | None = None):
    return CliRunner().invoke(app, ["timing", *map(str, arguments)], obj=others)


def test_the_command(plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_AT_LEAST", 0.0)
    monkeypatch.setattr(cinn_speed, "_BATCH", 8)
    measure, kept = timing.measure, []
    monkeypatch.setattr(
        timing, "measure", lambda *given, **options: kept.append(measure(*given, **options)) or kept[0]
    )
    options = ("--spectra", 4, "--samples", 32, "--repeats", 1, "--device", "cpu")
    result = timing_of(*options, "--json", others=plugins)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["settings"]["spectra"] == 4 and report["settings"]["model"].startswith("4most-hr ")
    assert report["machine"]["threads"] == 1 and report["machine"]["torch"] == torch.__version__
    rows = {(row["part"], row["name"]): row for row in report["rows"]}
    assert rows["sampling", "FrEIA, paper"]["ratio"] == 1.0
    for who in ("FrEIA", "specinn"):
        assert {("sampling", f"{who}, {preset}") for preset in ("paper", "default")} <= set(rows)
    stages = [name for part, name in rows if part == "stages"]
    assert stages[0] == "read" and stages[-2:] == ["write", "all stages"] and "continuum" in stages
    assert {"features", "samples", "summaries"} <= set(stages) and "inference" not in stages
    whole = rows["run", "specinn run, 4 spectra"]
    for row in rows.values():
        assert row["device"] == "cpu" and row["ms"] >= 0 and row["cpu_ms"] >= 0
        if row["ms"]:
            assert row["hours_for_4_million"] == pytest.approx(row["ms"] * 4e3 / 3600)
            assert row["spectra_per_second"] == pytest.approx(1e3 / row["ms"])
    reference = rows["sampling", "FrEIA, paper"]
    ratios = [reference[key] / whole[key] for key in ("ms", "cpu_ms")]
    assert whole["ratio"] == pytest.approx(min(ratios))
    monkeypatch.setattr(timing, "measure", lambda *given, **options: kept[0])
    shown = timing_of(*options, others=plugins)
    assert shown.exit_code == 0, shown.output
    for word in ("spectra/s", "x paper", "specinn, paper", "rest-frame", "specinn run, 4 spectra"):
        assert word in shown.stdout


def test_an_estimator_that_compares_nothing() -> None:
    toys = Plugins(entry=[], extra={"fake": fake_plugin})
    job = SimpleNamespace(pipeline=SimpleNamespace(estimator=SimpleNamespace(header={"estimator": "toy"})))
    assert timing._ways(toys, job, None, 8, True) == []  # type: ignore[arg-type]
    stages = {"read": timing.Cost(4.0, 2.0), "inference": timing.Cost(8.0, 8.0)}
    best = {"all": timing.Cost(20.0, 10.0), "quarter": timing.Cost(8.0, 4.0)}
    rows = {row.name: row for row in timing._report("cpu", [], best, stages, 4, 1)}
    runs = ["specinn run, 4 spectra", "each further spectrum"]
    assert list(rows) == ["read", "inference", "all stages", *runs]
    assert rows["all stages"].cost == timing.Cost(3.0, 2.5) and rows[runs[1]].cost == timing.Cost(4.0, 2.0)
    assert all(row.ratio is None for row in rows.values())


def test_ratios_are_the_cautious_ones() -> None:
    """A busy machine: by the clock the reference is 50 times slower, but most of that was waiting."""
    cost, reference = timing.Cost(2.0, 1.0), timing.Cost(100.0, 8.0)
    assert timing.Row("cpu", "run", "", cost, reference).ratio == 8.0
    assert timing.Row("cuda", "run", "", cost, reference).ratio == 50.0
    assert timing.Row("cpu", "run", "", timing.Cost(4.0, 0.0), reference).ratio == 25.0
    assert timing.Row("cpu", "run", "", cost).ratio is None
    assert timing.Cost(2.0, 5.0).best(timing.Cost(3.0, 4.0)) == timing.Cost(2.0, 4.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--device", "abacus"), ("no device is called 'abacus'", "expected cpu, cuda")),
        (("--threads", 99_999), ("threads 99999", "cores of this machine")),
        (("--model", "4most-rh"), ("did you mean '4most-hr'",)),
    ],
)
def test_bad_input_is_one_sentence(plugins: Plugins, options: tuple, words: tuple) -> None:
    result = timing_of(*options, others=plugins)
    assert result.exit_code == 1 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("specinn: ")
    for word in words:
        assert word in result.stderr


def test_the_release_is_compared_through_the_reference() -> None:
    """A machine half as fast, on which nothing but the samples changed."""
    release = timing.Release.read()
    assert release.reference_cpu_ms > release.cpu_ms["run"]["each further spectrum"] > 0
    cost = timing.Cost(9.0, 2e-3 * release.reference_cpu_ms)
    rows = [timing.Row("cpu", "sampling", timing.REFERENCE, cost)]
    for name, took in release.cpu_ms["stages"].items():
        seconds = 2e-3 * took / (2.0 if name == "samples" else 1.0)
        rows.append(timing.Row("cpu", "stages", name, timing.Cost(9.0, seconds)))
    gains = release.gains([*rows, timing.Row("cuda", "stages", "read", timing.Cost(1.0, 1.0))])
    assert gains.pop(("stages", "samples")) == pytest.approx(2.0)
    assert list(gains.values()) == pytest.approx([1.0] * len(gains)) and len(gains) > 5
    assert release.gains(rows[1:]) == {}


def script(name: str, *arguments: object) -> dict[str, Any]:
    """Runs a script of the folder benchmarks in this process; gives its names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [name, *map(str, arguments)])
        names = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / name))
        names["main"]()
    return names


def test_the_script_that_makes_surveys(
    plugins: Plugins, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    script("make_survey.py", 3, tmp_path / "s", "--per-file", 2, "--seed", 5)
    assert "3 spectra in 2 files" in capsys.readouterr().out
    files = sorted((tmp_path / "s").iterdir())
    assert [len(next(read(file, plugins))) for file in files] == [2, 1]
    with pytest.raises(SystemExit, match="make_survey: spectra 0: expected a number above 0"):
        script("make_survey.py", 0, tmp_path / "s")


def test_the_script_that_measures_growth(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "growth.json"
    names = script("growth.py", tmp_path, 2, "--json", out, "--run", "--samples 16")
    (row,) = json.loads(out.read_text())
    assert row["spectra"] == 2 and row["cpu_seconds"] > 0 and 50 < row["peak_memory_mb"] < 5000
    assert len(catalogue.read(tmp_path / "catalogue-2")) == 2
    assert "peak MB" in capsys.readouterr().out
    with pytest.raises(SpecinnError, match=r"ended with status 2: see .*run-2.log"):
        names["measure"](2, [], tmp_path, ["--no-such-option"])
    assert names["_per_file"]([1000, 10_000, 100_000]) == 500


def test_the_script_for_a_gpu_rehearses_and_survives(tmp_path: Path) -> None:
    """On the processor; a part that fails is a row with its message."""
    folder = Path(__file__).parents[1] / "benchmarks"
    command = ["sh", str(folder / "gpu.sh"), "--device", "cpu", "--tiny", "--parts", "summaries"]
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run([*command, "--out", str(tmp_path)], env=environment, check=True, capture_output=True)
    report = json.loads((tmp_path / "gpu.json").read_text())
    (part,) = report["parts"]
    assert not part["failed"] and len(part["rows"]) == 4
    assert all(row["value"] < 0.01 for row in part["rows"])
    assert "3 stars, seed 2" in (tmp_path / "gpu.txt").read_text()
    gpu = runpy.run_path(str(folder / "gpu.py"))
    failed = gpu["run_part"]("captured", ["--device", "abacus", "--tiny"], 300.0)
    assert "abacus" in failed["failed"] and failed["rows"] == []
    assert "FAILED" in gpu["table"]([failed])
    assert gpu["run_part"]("summaries", ["--tiny"], 0.01)["failed"] == "not done within 0 s"
