"""A third party's package in an environment of its own, from grid to catalogue; and its broken twin."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from astropy.table import Table

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLE = ROOT / "specinn" / "examples" / "dwarf-g.fits"
TRAIN = "epochs = 12\ncomponents = 20\nlearning_rate = 4e-3\n"
TRUTH = ("teff", "logg", "fe_h")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("zuko") is None or importlib.util.find_spec("setuptools") is None,
        reason="the packages zuko and setuptools are needed to install a third party's plugin",
    ),
]


ONE_BY_ONE = """
import contextlib, io, json, sys
from specinn.cli import main

results = []
for words in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as end:
            code = end.code
    results.append([code or 0, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class Environment:
    """A fresh environment that sees the packages of this one, and one that pip installs from its folder."""

    def __init__(self, folder: Path, package: Path) -> None:
        self.source = folder / package.name
        shutil.copytree(package, self.source, ignore=shutil.ignore_patterns("conftest.py", "__pycache__"))
        venv.create(folder / "env", with_pip=False)
        self.python = next((folder / "env").glob("bin/python"))
        (site,) = (folder / "env").glob("lib/python*/site-packages")
        (site / "parent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        offline = ("-q", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
        subprocess.run(
            [sys.executable, "-m", "pip", "--python", self.python, "install", *offline, self.source],
            check=True,
        )

    def run(self, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Python with these arguments, in ``folder``. The clone under test is what it imports."""
        paths = [str(ROOT / name) for name in (".", "plugins", "instruments")]
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "COLUMNS": "200",
            "OMP_NUM_THREADS": "1",
        }
        command = [str(self.python), *map(str, arguments)]
        return subprocess.run(command, cwd=folder, env=variables, text=True, capture_output=True, check=False)

    def specinn(self, folder: Path, *arguments: object) -> Done:
        """A command, in a process of its own."""
        done = self.run(folder, "-c", "from specinn.cli import main; main()", *arguments)
        return Done(done.returncode, done.stdout, done.stderr)

    def one_by_one(self, folder: Path, commands: list[tuple[object, ...]]) -> list[Done]:
        """Several commands in one process: most of the time of one goes into imports."""
        words = [[str(word) for word in command] for command in commands]
        done = self.run(folder, "-c", ONE_BY_ONE, json.dumps(words))
        assert done.returncode == 0, done.stderr
        return [Done(*each) for each in json.loads(done.stdout)]


def made(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp(kind), HERE / kind)


@pytest.fixture(scope="module")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return made("third_party", tmp_path_factory)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return made("broken_third_party", tmp_path_factory)


WRONG = {
    "epoch": ("epochs = 12", "epoch = 12"),
    "$.components": ("components = 20", "components = 5000"),
    "hr11.h5": ("hr10.h5", "hr11.h5"),
}


class Trained(NamedTuple):
    """A folder with the grid that the bundled emulator makes, and the model that the flow learns from it. In
    the same process other commands said what there is, and what they make of recipes that are ``WRONG``."""

    folder: Path
    listed: Done
    arms: Done
    wrong: list[Done]


@pytest.fixture(scope="module")
def trained(third_party: Environment, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    grid = (third_party.source / "grid.toml").read_text()
    (folder / "grid.toml").write_text(grid.replace("n = 400", "n = 220"))
    recipe = (third_party.source / "flow.toml").read_text() + TRAIN
    (folder / "flow.toml").write_text(recipe)
    for i, (old, new) in enumerate(WRONG.values()):
        (folder / f"wrong-{i}.toml").write_text(recipe.replace(old, new))
    listed, arms, made, learnt, *wrong = third_party.one_by_one(
        folder,
        [
            ("plugins", "--json"),
            ("instruments", "giraffe-hr10"),
            ("grid", "make", "grid.toml", "-o", "hr10.h5"),
            ("train", "flow.toml", "-q"),
            *(("train", f"wrong-{i}.toml", "-q") for i in range(len(WRONG))),
        ],
    )
    for done in (made, learnt):
        assert done.returncode == 0, done.stderr
    return Trained(folder, listed, arms, wrong)


def observed(grid: Path, folder: Path) -> Table:
    """Test models of the grid as text files of HR10, at S/N 100 per Angstrom; returns their true labels."""
    import torch

    from specinn.grids import Grid
    from specinn.instruments import Instrument
    from specinn.simulation.observer import ModelGrid, Observer
    from specinn.wavelengths import doppler

    models = Grid.open(grid)
    instrument = Instrument.from_toml(HERE / "third_party" / "src" / "specinn_giraffe" / "hr10.toml")
    fine = ModelGrid.of(instrument, models.wavelength, models.arms)
    rows = models.split("test")[:12]
    flux = fine.operator(models.wavelength, models.arms, models.resolving_power) @ models.flux(rows).T
    seen = Observer(instrument, fine)(
        torch.as_tensor(flux.T, dtype=torch.float32), torch.full((len(rows),), 5.0)
    )
    sigma = 1 / (100 * np.sqrt(0.05))
    noisy = seen.numpy() + sigma * np.random.default_rng(0).normal(size=seen.shape)
    wavelength = doppler(instrument.wavelength, 20.0)
    for i, spectrum in enumerate(noisy):
        columns = np.stack([wavelength, 5000 * spectrum, np.full_like(spectrum, 5000 * sigma)], axis=1)
        np.savetxt(folder / f"star-{i:02}.txt", columns)
    return Table({name: models.column(name)[rows] for name in TRUTH})


def test_what_it_offers(trained: Trained) -> None:
    offers = json.loads(trained.listed.stdout)
    offered = {(o["kind"], o["name"]) for o in offers if o["distribution"] == "specinn-giraffe 0.1"}
    assert offered == {
        ("instrument", "giraffe-hr10"),
        ("preprocessor", "trim-edges"),
        ("estimator", "spline-flow"),
        ("correction", "zero-points"),
    }
    assert "5339" in trained.arms.stdout and "21500" in trained.arms.stdout


def test_it_keeps_the_rules(
    third_party: Environment, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HR10_GRID", str(trained.folder / "hr10.h5"))
    done = third_party.run(
        third_party.source, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "tests"
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith("5 passed in")


def test_from_training_to_catalogue(third_party: Environment, trained: Trained, tmp_path: Path) -> None:
    truth = observed(trained.folder / "hr10.h5", tmp_path)
    (tmp_path / "zero.toml").write_text("logg_min = 3.5\n[offsets]\nfe_h = 1.0\n")
    files = sorted(tmp_path.glob("star-*.txt"))
    done = third_party.specinn(
        tmp_path, "run", "-i", "giraffe-hr10", "-m", trained.folder / "flow.safetensors", *files,
        "-o", "stars.ecsv", "--samples", 256, "--correction", "zero-points:zero.toml",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stars = Table.read(tmp_path / "stars.ecsv")
    assert len(stars) == len(truth) and not stars["flag_bad"].any()
    assert "emulator of Turbospectrum" in stars.meta["code"]
    np.testing.assert_allclose(stars["rv"], 20.0, atol=1.0)
    for name, spread in (("teff", 400.0), ("logg", 0.6), ("fe_h", 0.3)):  # a guess: 820 K, 0.94 and 0.57
        raw = np.asarray(stars[f"{name}_raw"])
        assert np.sqrt(np.mean((raw - truth[name]) ** 2)) < spread, name
    dwarfs = np.asarray(stars["logg_raw"]) >= 3.5
    assert 0 < dwarfs.sum() < len(stars)
    np.testing.assert_allclose(stars["fe_h_raw"] - stars["fe_h"], dwarfs.astype(float), atol=1e-4)


def test_a_wrong_recipe_is_one_sentence(trained: Trained) -> None:
    for word, done in zip(WRONG, trained.wrong, strict=True):
        (sentence,) = done.stderr.splitlines()
        assert done.returncode == 1 and sentence.startswith("specinn: ") and word in sentence


def culprits(done: Done) -> list[str]:
    return [line for line in done.stderr.splitlines() if "specinn-broken" in line]


def said(done: Done) -> list[str]:
    """Sentences on standard error, but for those of the plugins that do not load."""
    assert "Traceback" not in done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if "could not be loaded" not in line]


BREAKS = {
    "nan": "the estimator 'nan' failed: its samples are not numbers",
    "fewer": "the estimator 'fewer' failed: it returned 0 posteriors for 1 spectra",
    "flat": "the estimator 'flat' failed: samples have shape (1, 3): expected (n_spec, n_samples, 3)",
    "loses": "the step 'loses' returned 0 spectra for 1",
    "not-there": "not-there cannot be used: specinn_broken.parts:NotThere failed to import",
}


class Broken(NamedTuple):
    """What commands say and leave in a folder, in one process, where the plugins of the twin are broken."""

    folder: Path
    run: Done
    listed: list[Done]
    typo: Done
    breaks: list[Done]


@pytest.fixture(scope="module")
def broken(twin: Environment, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Broken:
    from specinn.weights import load_weights, save_weights

    folder = tmp_path_factory.mktemp("broken")
    tensors, header = load_weights(trained.folder / "flow.safetensors", "specinn model")
    header["preprocessing"] = [step for step in header["preprocessing"] if step[0] != "trim-edges"]
    observed(trained.folder / "hr10.h5", folder)
    commands: list[tuple[object, ...]] = [
        ("run", "--instrument", "4most-hr", EXAMPLE, "-o", "a.ecsv", "--samples", 256, "-q"),
        ("plugins",),
        ("plugins", "--failed"),
        ("plugins", "--failed", "--json"),
        ("run", "-i", "typo", EXAMPLE),
    ]
    for name in BREAKS:
        estimator = name if name in ("nan", "fewer", "flat") else "nan"
        more = [] if estimator == name else [[name, {}]]
        changed = {**header, "estimator": estimator, "preprocessing": header["preprocessing"] + more}
        save_weights(folder / f"{name}.safetensors", tensors, changed)
        options = ("-m", f"{name}.safetensors", "-o", f"{name}.ecsv", "--rv", 20, "--samples", 32, "-q")
        spectra = ("-i", "uves", "--resolving-power", 21500, "star-00.txt", "star-01.txt")
        commands.append(("run", *options, *spectra))
    run, *listed, typo = (done := twin.one_by_one(folder, commands))[:5]
    return Broken(folder, run, listed, typo, done[5:])


def test_a_broken_plugin_costs_nothing_else(broken: Broken) -> None:
    done = broken.run
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    misspelt, unlicensed = culprits(done)
    assert "plugin 'unlicensed' of specinn-broken 0.1" in unlicensed
    assert "RuntimeError: no licence for the spline library" in unlicensed
    assert "plugin 'misspelt'" in misspelt and "specinn_preprocesors" in misspelt
    (star,) = Table.read(broken.folder / "a.ecsv")
    assert not star["flag_bad"] and abs(star["teff"] - 5790) < 150


def test_what_is_broken_is_listed_with_the_reason(broken: Broken) -> None:
    listed, failed, as_json = broken.listed
    assert listed.returncode == 0 and len(culprits(listed)) == 2
    assert "4most-hr" in listed.stdout
    assert (
        "unlicensed of specinn-broken 0.1: RuntimeError: no licence for the spline library" in failed.stdout
    )
    assert "unlicensed.py" in failed.stdout  # with the traceback
    assert [each["plugin"] for each in json.loads(as_json.stdout)] == ["misspelt", "unlicensed"]


def test_choosing_an_instrument_with_a_wrong_toml(broken: Broken) -> None:
    (sentence,) = said(broken.typo)
    assert broken.typo.returncode == 1
    assert "typo.toml" in sentence and "$.arms[0].range[1]" in sentence and "'5339'" in sentence


def test_choosing_what_breaks_the_rules(broken: Broken) -> None:
    """Every kind of failure ends in a sentence that names the part, and leaves no catalogue."""
    for (name, sentence), done in zip(BREAKS.items(), broken.breaks, strict=True):
        assert done.returncode == 1, name
        assert any(sentence in line for line in said(done)), (name, done.stderr)
        # a catalogue without a single value would stand in the way of the corrected command
        assert not (broken.folder / f"{name}.ecsv").exists(), name
