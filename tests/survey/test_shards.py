"""Runs in shards: plans, merging, going on after whatever happened, processes that die."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import fake_plugin
import h5py
import numpy as np
import pytest
import survey_plugin
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from processes import processes, said
from typer.testing import CliRunner, Result

from specinn import api, catalogue
from specinn.catalogue.files import MANIFEST
from specinn.cli import app
from specinn.cli._progress import Watch
from specinn.errors import OutputError
from specinn.parallel.threads import ahead, behind
from specinn.parallel.workdir import held
from specinn.plugins import Plugins
from specinn.survey import shards
from specinn.survey.manifest import Manifest

SIZES = [3, 1, 2, 4, 1, 1, 2, 5, 3, 1, 2, 2]  # spectra of the files
BAD = 4  # the file that is none
SMALL = 400_000  # bytes of a shard: one to three files


@attrs.frozen
class Site:
    """A folder with spectra, a model, and the plugin as other processes find it."""

    folder: Path
    model: Path
    files: list[Path]
    path: str
    plugins: Plugins

    @property
    def arguments(self) -> list[str]:
        names = [str(file) for file in self.files]
        options = ("-i", "toy", "--format", "toy-text", "--samples", "60", "-m", str(self.model), "--quiet")
        return ["run", *options, *names]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    path = survey_plugin.install(folder / "packages")
    plugins = Plugins(entry=[], extra={"survey": survey_plugin})
    assert not plugins.failures
    model = survey_plugin.write_model(folder / "toy.safetensors")
    return Site(folder, model, survey_plugin.write_files(folder, SIZES, bad=(BAD,)), path, plugins)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("specinn.survey.manifest.SMALLEST", SMALL)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(site: Site) -> Callable[..., Result]:
    def call(*arguments: Any, files: list[Path] | None = None) -> Result:
        options = attrs.evolve(site, files=site.files if files is None else files).arguments
        return CliRunner().invoke(app, [*options, *map(str, arguments)], obj=site.plugins)

    return call


Command = Callable[..., Result]


@pytest.fixture(scope="module")
def reference(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalogues and samples of a run that nothing disturbed, in one shard."""
    folder = tmp_path_factory.mktemp("reference")
    names = ["out.fits", "out.ecsv", "out.h5", "out.parquet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in names:
            more = ["--save-samples", "samples.h5"] if name == "out.fits" else []
            done = CliRunner().invoke(app, [*site.arguments, "-o", name, *more], obj=site.plugins)
            assert done.exit_code == 0, done.output
    return folder


def sentence(result: Result, *words: str) -> None:
    assert result.exit_code == 1, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("specinn: ") and "unexpected" not in lines[0], (
        result.stderr
    )
    for word in words:
        assert word in lines[0], lines[0]


def same_samples(one: Path, other: Path) -> bool:
    with h5py.File(one) as a, h5py.File(other) as b:
        assert sorted(a) == sorted(b) and list(a.attrs) == list(b.attrs)
        return all(np.array_equal(a[k][:], b[k][:], equal_nan=k in ("samples", "log_prob")) for k in a)


def same(one: Path, other: Path) -> bool:
    """Whether two catalogues, files or folders, have the same bytes."""
    if one.is_file():
        return one.read_bytes() == other.read_bytes()
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names if name != MANIFEST)


# Plans ---------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3 * SMALL), max_size=60))
def test_shards_are_consecutive_files_of_bounded_size(sizes: list[int]) -> None:
    files = {f"f{i}": size for i, size in enumerate(sizes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("specinn.survey.manifest.SMALLEST", SMALL)
        of = classmethod(lambda cls, path: cls(path, files[path], 1))
        patch.setattr("specinn.survey.manifest.File.of", of)
        plan = Manifest.make(files, {"seed": 1})
        assert plan == Manifest.make(files, {"seed": 1})
    covered = [i for shard in range(len(plan.counts)) for i in plan.numbers(shard)]
    assert covered == list(range(len(sizes)))
    for shard in range(len(plan.counts)):
        within = [sizes[i] for i in plan.numbers(shard)]
        assert len(within) == 1 or sum(within) <= SMALL
        if shard:
            assert sum(within) + sizes[plan.numbers(shard - 1)[0]] > 0
    pairs = zip(range(len(plan.counts)), range(1, len(plan.counts)), strict=False)
    assert all(sum(sizes[i] for i in [*plan.numbers(a), plan.numbers(b)[0]]) > SMALL for a, b in pairs)


def test_the_size_of_shards_follows_that_of_the_survey(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specinn.survey.manifest.SMALLEST", 1 << 24)
    monkeypatch.setattr("specinn.survey.manifest.File.of", classmethod(lambda cls, path: cls(path, 10**8, 1)))
    numbers = [len(Manifest.make([f"f{i}" for i in range(n)], {}).counts) for n in (1, 100, 10_000)]
    assert numbers == [1, 100, 5000]  # of 100 MB: one, each on its own, two by two


def test_the_identity_of_a_shard_is_its_files_and_settings(site: Site) -> None:
    plan = Manifest.make(site.files, {"seed": 1})
    other = Manifest.make(site.files, {"seed": 2})
    assert len(plan.counts) > 5 and len({plan.id_of(shard) for shard in range(len(plan.counts))}) == len(
        plan.counts
    )
    assert not {plan.id_of(0), plan.id_of(1)} & {other.id_of(0), other.id_of(1)}
    changed = attrs.evolve(plan, files=(attrs.evolve(plan.files[0], mtime_ns=1), *plan.files[1:]))
    assert changed.id_of(0) != plan.id_of(0) and changed.id_of(1) == plan.id_of(1)


# Catalogues ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".h5", ".parquet"])
def test_many_shards_give_the_file_that_one_gives(
    run: Command, site: Site, reference: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("-o", f"out{suffix}").exit_code == 0
    assert same(tmp_path / f"out{suffix}", reference / f"out{suffix}")
    monkeypatch.setattr("specinn.survey.manifest.SMALLEST", 1 << 24)
    assert run("-o", f"one{suffix}").exit_code == 0
    assert same(tmp_path / f"one{suffix}", reference / f"out{suffix}")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"one{suffix}", f"out{suffix}"]
    table = api.infer(site.files, instrument="toy", model=site.model, samples=60, format="toy-text",
                      plugins=site.plugins).catalogue  # fmt: skip
    catalogue.write(Table(table), tmp_path / f"memory{suffix}")
    assert same(tmp_path / f"memory{suffix}", reference / f"out{suffix}")


@pytest.mark.slow
def test_a_name_without_suffix_is_a_folder_of_parquet_files(
    run: Command, reference: Path, tmp_path: Path
) -> None:
    import pyarrow as pa
    from pyarrow import dataset, parquet

    assert run("-o", "survey").exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["survey"]
    manifest = json.loads((tmp_path / "survey" / MANIFEST).read_text())
    parts = sorted((tmp_path / "survey").glob("part-*.parquet"))
    assert manifest["state"] == "finished" and len(parts) == len(manifest["shards"]) > 5
    whole = catalogue.read(tmp_path / "survey")
    expected = catalogue.read(reference / "out.parquet")
    assert whole.colnames == expected.colnames and whole.meta == expected.meta
    assert manifest["rows"] == len(whole) == sum(SIZES) - SIZES[BAD] + 1
    assert manifest["failures"] == whole["flag_bad"].sum() == 1
    assert whole["row"].tolist() == list(range(len(whole)))
    for name in whole.colnames:
        assert (
            whole[name].unit == expected[name].unit and whole[name].description == expected[name].description
        )
        assert np.ma.allequal(np.ma.asarray(whole[name]), np.ma.asarray(expected[name])), name
    schemas = [parquet.read_schema(part) for part in parts]
    assert all(schema.equals(schemas[0]) for schema in schemas)
    assert schemas[0].field("teff").metadata[b"unit"] == b"K"
    assert schemas[0].field("teff").type == pa.float32()
    arrow = dataset.dataset(tmp_path / "survey", format="parquet").to_table()
    assert arrow["row"].to_pylist() == list(range(len(whole)))


@pytest.mark.slow
def test_pandas_and_astropy_read_the_folder(run: Command, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    assert run("-o", "survey").exit_code == 0
    whole = catalogue.read(tmp_path / "survey")
    frame = pandas.read_parquet(tmp_path / "survey")
    assert frame["id"].tolist() == whole["id"].tolist() and frame["teff"].isna().sum() == 1
    part = Table.read(tmp_path / "survey" / "part-00000.parquet", format="parquet")
    assert part["teff"].unit == "K" and part["teff"].tolist() == whole["teff"][: len(part)].tolist()


@pytest.mark.slow
def test_folders_that_are_there_already(run: Command, tmp_path: Path) -> None:
    assert run("-o", "survey").exit_code == 0
    sentence(run("-o", "survey/"), "survey exists", "--overwrite")
    again = run("-o", "survey", "--resume")
    assert again.exit_code == 0 and "survey exists" in again.stderr and "nothing to do" in again.stderr
    assert run("-o", "survey", "--overwrite", "--seed", 1).exit_code == 0
    assert catalogue.read("survey").meta["seed"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["survey"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    sentence(run("-o", "mine", "--overwrite"), "mine is a folder", "no catalogue of specinn")
    (tmp_path / "survey" / "thesis.tex").touch()
    sentence(run("-o", "survey", "--overwrite"), "thesis.tex, which specinn did not write")
    assert (tmp_path / "survey" / "thesis.tex").exists() and len(catalogue.read("survey"))
    with pytest.raises(OutputError, match="no catalogue of specinn"):
        catalogue.read("mine")


@pytest.mark.slow
def test_samples_and_thinned_samples(
    run: Command, site: Site, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("-o", "out.fits", "--save-samples", "samples.h5").exit_code == 0
    assert same_samples(tmp_path / "samples.h5", reference / "samples.h5")
    loud = [a for a in site.arguments if a != "--quiet"]
    thin = ["--save-samples", "thin.h5", "--keep-samples", "5", "-o", "thin"]
    result = CliRunner().invoke(app, [*loud, *thin], obj=site.plugins)
    assert "5 of 60 samples of 4 labels take 0.105 GB per million spectra" in result.stderr
    table = catalogue.read("thin")
    with h5py.File("samples.h5") as whole, h5py.File("thin.h5") as few:
        assert few["samples"].shape == (len(table), 5, 4) and few["samples"].chunks is not None
        assert np.array_equal(few["samples"][:], whole["samples"][:, :5], equal_nan=True)
        assert few["id"].asstr()[:].tolist() == table["id"].tolist()
        assert few["flags"][:].tolist() == table["flags"].tolist()
        assert few.attrs["model"] == table["model"][0] and few.attrs["seed"] == 0
    assert not list((tmp_path / "thin").glob("*.h5"))
    sentence(run("-o", "x.fits", "--keep-samples", 5), "--save-samples")


# Going on ------------------------------------------------------------------------------------------------


def stop_after(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Ctrl-C when ``n`` batches are inferred."""
    calls = iter(range(n))
    usual = survey_plugin.Mortal.sample

    def sample(self: Any, *given: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return usual(self, *given)

    monkeypatch.setattr(survey_plugin.Mortal, "sample", sample)


@pytest.fixture
def stopped(run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a run that was stopped half-way."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 4)
        result = run("-o", "out.ecsv")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "specinn: stopped; the same command with --resume continues"
    folder = tmp_path / "out.ecsv.run"
    assert 1 <= len(list(folder.glob("part-*"))) < 6
    return folder


@pytest.mark.slow
def test_a_stopped_run_goes_on(run: Command, stopped: Path, reference: Path, tmp_path: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in stopped.glob("part-*")}
    sentence(run("-o", "out.ecsv"), "holds an unfinished run", "--resume", "--overwrite")
    with pytest.raises(OutputError, match="--resume continues it"):
        catalogue.read(stopped)
    assert {path.name: path.stat().st_mtime_ns for path in stopped.glob("part-*")} == before
    assert run("-o", "out.ecsv", "--resume").exit_code == 0
    assert same(tmp_path / "out.ecsv", reference / "out.ecsv")
    assert [path.name for path in tmp_path.iterdir()] == ["out.ecsv"]


@pytest.mark.slow
def test_what_is_done_is_not_done_again(run: Command, stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Manifest.load(stopped)
    left = shards.missing(plan, stopped)
    assert 0 < len(left) < len(plan.counts)
    seen: list[str] = []
    usual = survey_plugin.Mortal.sample
    monkeypatch.setattr(
        survey_plugin.Mortal,
        "sample",
        lambda self, b, *more: (seen.extend(b.meta["id"]), usual(self, b, *more))[1],
    )
    assert run("-o", "out.ecsv", "--resume").exit_code == 0
    numbers = [i for shard in left for i in plan.numbers(shard) if i != BAD]
    assert seen == [f"star-{i}-{j}" for i in numbers for j in range(SIZES[i])]


@pytest.mark.slow
def test_overwrite_starts_anew(run: Command, stopped: Path, tmp_path: Path) -> None:
    assert run("-o", "out.ecsv", "--overwrite", "--seed", 5).exit_code == 0
    assert catalogue.read("out.ecsv").meta["seed"] == 5 and not stopped.exists()


@pytest.mark.slow
def test_a_run_stopped_before_its_first_shard_leaves_nothing(
    run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 0)
        assert run("-o", "out.ecsv").exit_code == 130
    assert list(tmp_path.iterdir()) == []
    assert run("-o", "out.ecsv", "--resume").exit_code == 0  # a job script may always say --resume


@pytest.mark.slow
def test_two_runs_at_once(run: Command, stopped: Path, reference: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in stopped.iterdir())
    with held(stopped):
        sentence(run("-o", "out.ecsv", "--resume"), "another run is writing", "out.ecsv.run")
        sentence(run("-o", "out.ecsv", "--overwrite"), "another run is writing")
    assert sorted(path.name for path in stopped.iterdir()) == before
    assert run("-o", "out.ecsv", "--resume").exit_code == 0
    assert same(tmp_path / "out.ecsv", reference / "out.ecsv")


@pytest.mark.slow
def test_runs_that_are_not_this_one(run: Command, site: Site, stopped: Path, tmp_path: Path) -> None:
    sentence(run("-o", "out.ecsv", "--resume", "--seed", 3), "another seed: 0 then, 3 now", "--overwrite")
    sentence(run("-o", "out.ecsv", "--resume", "--resolving-power", 6000), "another resolving_power: None")
    sentence(run("-o", "out.ecsv", "--resume", files=site.files[1:]), "other files", "s00.txt", "s01.txt")
    sentence(run("-o", "out.ecsv", "--resume", files=site.files[:-1]), "'", "no more", "s11.txt")
    model = site.model.read_bytes()
    try:
        survey_plugin.write_model(site.model, n=30)
        sentence(run("-o", "out.ecsv", "--resume"), "another model (SHA-256)")
    finally:
        site.model.write_bytes(model)
    os.chdir(site.folder)
    sentence(run("-o", tmp_path / "out.ecsv", "--resume"), "another working folder", str(tmp_path))


@pytest.mark.slow
def test_tables_of_velocities_that_changed(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "rv.csv"
    table.write_text("id,rv\nstar-0-0,3\n")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 4)
        patch.setattr(survey_plugin, "STEPS", {})
        assert run("-o", "out.ecsv", "--rv", "rv.csv").exit_code == 130
    table.write_text("id,rv\nstar-0-0,4\n")
    sentence(run("-o", "out.ecsv", "--rv", "rv.csv", "--resume"), "another rv.csv")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[:-20], "damaged"),
        (lambda text: "", "damaged"),
        (lambda text: text.replace('"seed": 0', '"seed": 1'), "it was edited or cut"),
        (lambda text: text.replace('"version": 2', '"version": 3'), "another specinn"),
        (lambda text: "[1, 2]", "damaged"),
    ],
)
def test_damaged_manifests(run: Command, stopped: Path, damage: Callable[[str], str], words: str) -> None:
    manifest = stopped / MANIFEST
    manifest.write_text(damage(manifest.read_text()))
    sentence(run("-o", "out.ecsv", "--resume"), words, "--overwrite")
    assert run("-o", "out.ecsv", "--overwrite").exit_code == 0


@pytest.mark.slow
def test_parts_that_are_half_written_foreign_or_outdated(
    run: Command, site: Site, reference: Path, stopped: Path, tmp_path: Path
) -> None:
    first = stopped / "part-00000.parquet"
    plan = Manifest.load(stopped)
    content = first.read_bytes()
    for wrong in (content[:-100], b"", (reference / "out.parquet").read_bytes()):
        first.write_bytes(wrong)
        assert 0 in shards.missing(plan, stopped)
    last = stopped / f"part-{len(plan.counts) - 1:05d}.parquet"
    last.write_bytes(content)  # a good one, of another shard
    assert len(plan.counts) - 1 in shards.missing(plan, stopped)
    (stopped / ".part-00003.0123.partial.parquet").write_bytes(content[:50])
    assert run("-o", "out.ecsv", "--resume").exit_code == 0
    assert same(tmp_path / "out.ecsv", reference / "out.ecsv")
    assert [path.name for path in tmp_path.iterdir()] == ["out.ecsv"]


@pytest.mark.slow
def test_files_that_change(run: Command, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / path.name for path in site.files]
    for old, new in zip(site.files, files, strict=True):
        new.write_bytes(old.read_bytes())
    usual = survey_plugin.Mortal.sample

    def sample(self: Any, *given: Any) -> Any:
        os.utime(files[-1], ns=(5, 5))  # the reader is not there yet
        return usual(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey_plugin.Mortal, "sample", sample)
        result = run("-o", "out.ecsv", files=files)
    assert result.exit_code == 1
    assert "s11.txt changed during the run: the same command with --resume" in result.stderr.splitlines()[-1]
    assert list(tmp_path.glob("out.ecsv.run/part-*.parquet"))
    files[0].write_bytes(files[1].read_bytes())
    again = run("-o", "out.ecsv", "--resume", files=files)
    assert again.exit_code == 0 and "2 of the files changed" in again.stderr and "s00.txt" in again.stderr
    fresh = run("-o", "fresh.ecsv", files=files)
    assert fresh.exit_code == 0 and same(tmp_path / "out.ecsv", tmp_path / "fresh.ecsv")


# Processes -----------------------------------------------------------------------------------------------


@pytest.fixture
def process(site: Site, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts ``specinn run`` as a process."""
    preload = [  # most of what a run imports, which takes longer than the run
        "survey_plugin", "specinn.cli", "specinn.survey.survey", "specinn.inference.run",
        "specinn.catalogue.formats", "specinn.catalogue.samples", "specinn.simulation.model_spectra",
        "torch", "pyarrow.parquet", "pandas", "h5py", "astropy.io.votable",
    ]  # fmt: skip
    with processes(tmp_path, site.path, preload, smallest=SMALL) as start:
        yield lambda *arguments, **given: start(*site.arguments, *arguments, **given)


Start = Callable[..., Any]


def done_parts(folder: Path) -> int:
    return len(list(folder.glob("part-*.parquet")))


@pytest.mark.slow
@pytest.mark.parametrize("output", ["out.fits", "survey"])
def test_kill_9_at_any_moment(
    process: Start, run: Command, site: Site, reference: Path, tmp_path: Path, output: str
) -> None:
    """Killed again and again, each time after some more shards, and in the end while they are merged."""
    rng = random.Random(output)
    options = ["-o", output, "--save-samples", "samples.h5"]
    folder = tmp_path / f"{output}.run"
    n_shards = len(Manifest.make(site.files, {}).counts)
    kills = 0
    while True:
        goal, seen = min(done_parts(folder) + rng.randrange(2, 5), n_shards), False
        child = process(*options, "--resume")
        while child.is_alive() and done_parts(folder) < goal and (folder.exists() or not seen):
            seen = seen or folder.exists()
            time.sleep(0.003)
        child.join(None if kills > 12 else rng.uniform(0, 0.05 * (kills + 1)))  # it must end some time
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            kills += 1
        else:
            assert child.exitcode == 0, said(tmp_path)
            break
    assert kills >= 3
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {output, "samples.h5"}
    assert same_samples(tmp_path / "samples.h5", reference / "samples.h5")
    if output == "survey":
        os.rename(tmp_path / "survey", tmp_path / "killed")
        assert run("-o", output, "--save-samples", "again.h5").exit_code == 0
        assert same(tmp_path / "killed", tmp_path / output)
    else:
        assert same(tmp_path / output, reference / output)


@pytest.mark.slow
def test_a_full_disk(process: Start, run: Command, reference: Path, tmp_path: Path) -> None:
    whole = (reference / "out.fits").stat().st_size
    child = process("-o", "out.fits", limit=whole - 1000)  # enough for shards, not for all of them in one
    child.join()
    text = said(tmp_path).splitlines()[-1]
    assert child.exitcode == 1 and text.startswith("specinn: out.fits could not be written: the disk is full")
    assert "--resume" in text
    assert [path.name for path in tmp_path.iterdir()] == ["out.fits.run"]
    assert run("-o", "out.fits", "--resume").exit_code == 0
    assert same(tmp_path / "out.fits", reference / "out.fits")


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100, 10_000])
def test_a_disk_that_is_full_at_once(process: Start, tmp_path: Path, limit: int) -> None:
    child = process("-o", "out.fits", "--save-samples", "s.h5", limit=limit)
    child.join()
    text = said(tmp_path).splitlines()[-1]
    assert child.exitcode == 1 and "could not be written: the disk is full" in text
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.slow
def test_workers_give_the_same(process: Start, reference: Path, tmp_path: Path) -> None:
    """Two processes; one of them is killed twice at the same star."""
    lives = tmp_path / "lives"
    lives.write_text("xx")
    child = process("-o", "out.ecsv", "--workers", "2", "--save-samples", "samples.h5",
                    TOY_VICTIM="star-5-0", TOY_LIVES=str(lives))  # fmt: skip
    child.join()
    assert child.exitcode == 0, said(tmp_path)
    assert lives.read_text() == ""
    assert same(tmp_path / "out.ecsv", reference / "out.ecsv")
    assert same_samples(tmp_path / "samples.h5", reference / "samples.h5")


@pytest.mark.slow
def test_remarks_on_files_are_counted_with_workers_too(process: Start, tmp_path: Path) -> None:
    star = fake_plugin.from_unit(np.zeros((1, len(fake_plugin.LABELS))))
    names = [f"bright{i}.txt" for i in range(7)]
    for name in names:
        fake_plugin.write_text(tmp_path / name, fake_plugin.simulate(star, snr=1e9))
    child = process("-o", "out.ecsv", "--workers", "2", *names)
    child.join()
    lines = [line for line in said(tmp_path).splitlines() if "S/N" in line]
    assert child.exitcode == 0 and len(lines) == 2, said(tmp_path)
    first, last = lines
    assert any(first.startswith(f"specinn: {name}: the S/N is ") for name in names), first
    assert last.startswith("specinn: 7 files: the S/N is ") and "and 2 more)" in last, last


@pytest.mark.slow
def test_a_shard_that_kills_its_workers(
    process: Start, run: Command, reference: Path, tmp_path: Path
) -> None:
    lives = tmp_path / "lives"
    lives.write_text("xxxxx")
    child = process("-o", "out.ecsv", "--workers", "2", TOY_VICTIM="star-5-0", TOY_LIVES=str(lives))
    child.join()
    text = said(tmp_path).splitlines()[-1]
    assert child.exitcode == 1 and "3 workers died one after another over shard" in text
    assert "s05.txt" in text and "memory" in text and "--resume" in text
    assert lives.read_text() == "xx"
    assert done_parts(tmp_path / "out.ecsv.run") > 0
    assert run("-o", "out.ecsv", "--resume").exit_code == 0
    assert same(tmp_path / "out.ecsv", reference / "out.ecsv")


def two_workers(process: Start, folder: Path, pause: float) -> tuple[Any, list[int]]:
    """A run in the midst of its shards, and the numbers of its processes."""
    child = process("-o", "out.ecsv", "--workers", "2", TOY_PAUSE=str(pause))
    while child.is_alive() and not done_parts(folder / "out.ecsv.run"):
        time.sleep(0.01)
    result = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    return child, [int(number) for number in result]


@pytest.mark.slow
def test_ctrl_c_stops_all_processes(process: Start, tmp_path: Path) -> None:
    child, workers = two_workers(process, tmp_path, 0.3)
    assert len(workers) >= 2
    os.kill(child.pid, signal.SIGINT)
    child.join()
    assert child.exitcode == 130
    assert said(tmp_path).splitlines()[-1].startswith("specinn: stopped")
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_workers_end_with_the_one_who_gives_them_work(process: Start, tmp_path: Path) -> None:
    child, workers = two_workers(process, tmp_path, 0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    for _ in range(1000):
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            return
        time.sleep(0.01)
    pytest.fail("workers live on")


# Stages and progress -------------------------------------------------------------------------------------


def test_reading_is_ahead_by_a_bounded_number() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    for item in ahead(items(), 2):
        time.sleep(0.002)
        assert item <= len(made) - 1 <= item + 4
    assert item == 99


def test_an_error_of_a_stage_arrives() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("of the reader")

    with pytest.raises(KeyError, match="of the reader"):
        list(ahead(items(), 2))

    def consume(items: Iterator[int]) -> None:
        next(items)
        raise OSError("of the writer")

    with pytest.raises(OSError, match="of the writer"), behind(consume, 2) as put:
        for i in range(1000):
            put(i)

    seen: list[Any] = []

    def remember(items: Iterator[int]) -> None:
        try:
            seen.extend(items)
        except KeyboardInterrupt as error:
            seen.append(error)
            raise

    with pytest.raises(KeyboardInterrupt), behind(remember, 2) as put:
        put(1)
        raise KeyboardInterrupt
    assert len(seen) <= 2 and isinstance(seen[-1], KeyboardInterrupt)


def test_a_reader_whose_items_nobody_wants_ends() -> None:
    ended = []

    def items() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            ended.append(True)

    wanted = ahead(items(), 2)
    assert next(wanted) == 0
    wanted.close()
    assert ended == [True]


def test_a_line_a_minute_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("specinn.cli._progress.time.monotonic", lambda: now[0])
    with Watch(quiet=False) as watch:
        watch.start(files=100, done=20)
        for _ in range(40):
            now[0] += 5.0
            watch.progress(50, 1)
    assert capsys.readouterr().err.splitlines() == [
        "specinn: 20 of 100 files are already done",
        "specinn: 600 spectra, 10 per second, 32 of 100 files, 0 h 06 min left",
        "specinn: 1200 spectra, 10 per second, 44 of 100 files, 0 h 05 min left",
        "specinn: 1800 spectra, 10 per second, 56 of 100 files, 0 h 04 min left",
    ]
    with Watch(quiet=True) as watch:
        watch.start(files=100, done=20)
        now[0] += 100
        watch.progress(50, 1)
    assert capsys.readouterr().err == ""
