"""What users do wrong, on every command: one sentence on standard error, no traceback, nothing written."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import attrs
import fake_plugin
import numpy as np
import pytest
import specinn_emulator
import specinn_teff_bias
import specinn_turbospectrum
from typer.testing import CliRunner

from specinn.cli import app
from specinn.plugins import Plugins

TRUTH = [[5772.0, 4.44, 0.0, 1.05], [4500.0, 2.0, -1.2, 2.0]]
CSV = "file,star,instrument,resolving_power,teff,logg,fe_h\n"
FILES = {
    "empty.txt": "",
    "letter.txt": "dear friend",
    "bad.toml": "a = [",
    "empty.toml": "",
    "kind.toml": '[estimator]\nkind = "tox"\n',
    "two.toml": '[estimator]\nkind = "toy"\n[synthesizer]\nkind = "emulator"\n',
    "emulator.toml": '[synthesizer]\nkind = "emulator"\nblcoks = 2\ngrid = 3\n',
    "search.toml": 'vary = {}\nsampler = "tpa"\ntrails = 3\n[estimator]\nkind = "toy"\n',
    "grid.toml": '[grid]\nmodels = 3\n[[prior]]\nlabels = ["teff"]\nuniform = [1, 2]\n[synthesizer]\n',
    "prior.toml": '[grid]\nn = 3\n[[prior]]\nlabels = ["tefff"]\nuniform = [4e3, 5e3]\n'
    '[synthesizer]\nkind = "emulatr"\n',
    "cluster.toml": 'kind = "slrum"\njobs = 1\n',
    "columns.csv": "file,star\nstars.txt,Sun\n",
    "words.csv": CSV + "stars.txt,Sun,toy,,hot,4.4,0\n",
    "where.csv": CSV + "stars.txt,Sun,tox,,5772,4.4,0\n",
    "lost.csv": CSV + "lost.txt,Sun,toy,,5772,4.4,0\n",
    "rv.csv": "name,velocity\na,1\n",
}
TWO = 2  # the status where the command line itself is wrong


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    path = tmp_path_factory.mktemp("model") / "toy.safetensors"
    fake_plugin.Toy.train({}, path.parent, lambda state: None).save(path)
    fake_plugin.MODELS["toy-model"] = path
    shipped = (specinn_emulator, specinn_teff_bias, specinn_turbospectrum)
    return Plugins([], {"fake": fake_plugin, **{module.__name__: module for module in shipped}})


@pytest.fixture(scope="module")
def folder(plugins: Plugins, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of all sorts, and a true catalogue."""
    folder = tmp_path_factory.mktemp("work")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    junk = np.random.default_rng(3).bytes(5000)
    for suffix in ("fits", "h5", "ecsv", "parquet", "safetensors", "toml", "csv"):
        (folder / f"junk.{suffix}").write_bytes(junk)
    model = fake_plugin.MODELS["toy-model"].read_bytes()
    (folder / "cut.safetensors").write_bytes(model[: len(model) // 2])
    (folder / "folder").mkdir()
    batch = attrs.evolve(fake_plugin.simulate(TRUTH), meta=fake_plugin.simulate(TRUTH).meta)
    stars = fake_plugin.write_text(folder / "stars.txt", batch)
    options = ["-i", "toy", "-o", str(folder / "ok.fits"), "--save-samples", str(folder / "ok.h5")]
    made = CliRunner().invoke(app, ["run", str(stars), *options, "--samples", "64", "-q"], obj=plugins)
    assert made.exit_code == 0, made.output
    (folder / "cut.h5").write_bytes((folder / "ok.h5").read_bytes()[:3000])
    return folder


MISTAKES: list[tuple[str, tuple[str, ...], int]] = [
    # the command line itself
    ("runn", ("no command 'runn'", "did you mean 'run'?", "(specinn --help)"), TWO),
    ("grid inof", ("no command 'inof'", "did you mean 'info'?", "(specinn grid --help)"), TWO),
    ("plot lost.fits -i toy", ("lost.fits: no such file",), 1),
    ("xyzzy", ("no command 'xyzzy'; there are run, plot, combine",), TWO),
    ("--debgu run", ("no option --debgu; did you mean --debug?",), TWO),
    ("run --smples 3", ("no option --smples; did you mean --samples? (specinn run --help)",), TWO),
    ("run -x", ("no option -x (specinn run --help)",), TWO),
    ("run --samples", ("--samples", "requires an argument", "(specinn run --help)"), TWO),
    ("run --samples -3 stars.txt", ("--samples", "-3", "2"), TWO),
    ("run --samples abc stars.txt", ("--samples", "abc", "integer"), TWO),
    ("run --seed -1 stars.txt", ("--seed", "-1"), TWO),
    ("run --workers 0 stars.txt", ("--workers", "0"), TWO),
    ("combine ok.fits", ("--output is missing (specinn combine --help)",), TWO),
    ("train", ("RECIPE.toml is missing (specinn train --help)",), TWO),
    ("grid import", ("SOURCE is missing",), TWO),
    ("plugins xx", ("xx", "(specinn plugins --help)"), TWO),
    # what there is
    ("instruments tox", ("no instrument is called 'tox'; did you mean 'toy'?",), 1),
    ("models toy-modle", ("no model or file is called 'toy-modle'; did you mean 'toy-model'?",), 1),
    ("models folder", ("folder is a folder",), 1),
    ("models lost.safetensors", ("lost.safetensors: no such model file",), 1),
    ("models junk.safetensors", ("junk.safetensors is not a safetensors file",), 1),
    ("models cut.safetensors", ("cut.safetensors is damaged", "bytes, expected"), 1),
    ("flags out_of_distr", ("'out_of_distr'", "did you mean 'out_of_distribution'?"), 1),
    ("flags 1.5", ("'1.5' is neither a value of the column flags nor the name of a flag", "not_read"), 1),
    ("flags 99999999", ("99999999 has bits",), 1),
    ("new-plugin Bad", ("'Bad' is not a name for a plugin",), 1),
    ("new-plugin mine --kind estimatr", ("no kind of plugin", "did you mean 'estimator'?"), 1),
    ("new-plugin mine --folder lost", ("there is no folder lost",), 1),
    # run
    ("run folder", ("folder is a folder", "folder/*.fits"), 1),
    ("run stars.txt -o lost/x.fits", ("there is no folder lost",), 1),
    ("run stars.txt -o ok.fits", ("ok.fits exists", "--overwrite"), 1),
    ("run stars.txt -o x.txt", ("'.txt' is not a known format", ".parquet"), 1),
    ("run stars.txt -o folder", ("folder is a folder, and no catalogue",), 1),
    ("run stars.txt -o ''", ("cannot be the name of a catalogue",), 1),
    ("run stars.txt -i ''", ("no instrument is called ''; there are",), 1),
    ("run stars.txt -i toy -m toy-modl", ("did you mean 'toy-model'?",), 1),
    ("run stars.txt -i toy -m junk.safetensors", ("not a safetensors file",), 1),
    ("run stars.txt -i toy -m cut.safetensors", ("cut.safetensors is damaged",), 1),
    ("run stars.txt -i toy --device gpu", ("no device is called 'gpu': expected cpu, cuda",), 1),
    ("run stars.txt -i toy --device cuda:99", ("no device 'cuda:99'", "specinn doctor"), 1),
    ("run stars.txt -i toy --format toy-txet", ("no reader", "did you mean 'toy-text'?"), 1),
    ("run stars.txt -i toy --rv fast", ("rv 'fast'", "auto"), 1),
    ("run stars.txt -i toy --rv nan", ("rv nan", "km/s"), 1),
    ("run stars.txt -i toy --rv rv.csv", ("rv.csv: expected the columns id", "found name, velocity"), 1),
    ("run stars.txt -i toy --rv junk.csv", ("junk.csv is not text",), 1),
    ("run stars.txt -i toy --resolving-power -5", ("resolving_power -5",), 1),
    ("run stars.txt -i toy --degrade-snr nan", ("degrade_snr nan", "positive"), 1),
    ("run stars.txt -i toy --correction lost.toml", ("lost.toml: no such file",), 1),
    ("run stars.txt -i toy --correction folder", ("folder: is a folder",), 1),
    ("run stars.txt -i toy --correction bad.toml", ("bad.toml is not valid TOML",), 1),
    ("run stars.txt -i toy --correction junk.toml", ("junk.toml is not valid TOML", "not text"), 1),
    ("run stars.txt -i toy --correction empty.toml", ("empty.toml", "$.labels"), 1),
    ("run stars.txt -i toy --correction tef-bias:c.toml", ("no such file", "did you mean 'teff-bias'?"), 1),
    ("run stars.txt -i toy --save-samples s.fits", ("'.fits' is not a known format",), 1),
    ("run stars.txt -i toy --keep-samples 3", ("--save-samples FILE.h5",), 1),
    ("run stars.txt -i toy --cluster lost.toml", ("lost.toml: no such file",), 1),
    ("run stars.txt -i toy --cluster cluster.toml", ("did you mean 'slurm'?",), 1),
    ("run stars.txt -i toy --cluster a --scheduler b:1", ("give only one of them",), 1),
    # several catalogues, pages, model spectra
    ("combine lost.fits -o c.fits", ("lost.fits: no such file",), 1),
    ("combine junk.fits -o c.fits", ("junk.fits is not a catalogue that specinn run wrote",), 1),
    ("combine junk.h5 -o c.fits", ("junk.h5 is not a catalogue that specinn run wrote",), 1),
    ("combine cut.h5 -o c.fits", ("cut.h5 is damaged",), 1),
    ("combine ok.fits ok.h5 -o c.fits", ("give files of one kind",), 1),
    ("combine ok.fits --by idd -o c.fits", ("no column 'idd'; did you mean 'id'?",), 1),
    ("combine ok.fits --common nan -o c.fits", ("common nan", "below 1"), 1),
    ("report lost.fits", ("lost.fits: no such file",), 1),
    ("report junk.ecsv", ("junk.ecsv is not a catalogue that specinn run wrote",), 1),
    ("report junk.parquet", ("junk.parquet is not a catalogue that specinn run wrote",), 1),
    ("report ok.h5", ("ok.h5 is not a catalogue that specinn run wrote",), 1),
    ("report columns.csv", ("'.csv' is not a known format",), 1),
    ("report ok.fits --stars star", ("no star star: did you mean 'star-",), 1),
    ("report ok.fits --synthesizer emulatr", ("did you mean 'emulator'?",), 1),
    ("report ok.fits lost.txt", ("lost.txt: no such file",), 1),
    ("report ok.fits --format toy-txet", ("did you mean 'toy-text'?",), 1),
    ("report ok.fits -o x.txt", ("'.txt' is not a known format",), 1),
    ("resimulate junk.fits -o r", ("junk.fits is not a catalogue",), 1),
    ("resimulate ok.fits lost.txt -o r", ("lost.txt: no such file",), 1),
    ("resimulate ok.fits --format toy-txet -o r", ("did you mean 'toy-text'?",), 1),
    ("resimulate ok.fits --synthesizer emu -o r", ("did you mean 'emulator'?",), 1),
    ("resimulate ok.fits -o folder", ("folder exists",), 1),
    # how good
    ("evaluate toy-model", ("no command 'toy-model'", "grid, stars, robustness, ood"), 2),
    ("evaluate toy-model --grid x.h5 --stars x.csv", ("--grid GRID or --stars",), 1),
    ("evaluate robustness toy-model lost.csvv", ("lost.csvv: no such file",), 1),
    ("evaluate robustness toy-model columns.csv --snr 20", ("no option --snr",), 2),
    ("evaluate ood toy-model lost.h5", ("lost.h5: no such file or folder",), 1),
    ("evaluate emulator 4most-hr lost.h5", ("lost.h5: no such file or folder",), 1),
    ("evaluate emulator 4most-lr lost.h5", ("4most-lr: no such model file",), 1),
    ("evaluate grid toy-modle x.h5", ("did you mean 'toy-model'?",), 1),
    ("evaluate grid toy-model lost.h5", ("lost.h5: no such file or folder",), 1),
    (
        "evaluate grid toy-model junk.h5",
        ("junk.h5 does not have a known layout of synthetic spectra", "specinn grid import --loader"),
        1,
    ),
    ("evaluate grid toy-model junk.h5 -o x.txt", ("'.txt' is not a known format",), 1),
    ("evaluate stars toy-model lost.csvv", ("lost.csvv: no such file",), 1),
    ("evaluate stars toy-model junk.csv", ("junk.csv is not a CSV table",), 1),
    ("evaluate stars toy-model columns.csv", ("the columns instrument, ", "found file, star"), 1),
    ("evaluate stars toy-model words.csv", ("teff 'hot' of Sun is not a number",), 1),
    ("evaluate stars toy-model where.csv", ("no instrument is called 'tox'; did you mean 'toy'?",), 1),
    ("evaluate stars toy-model lost.csv", ("lost.txt: no such file",), 1),
    ("fit-correction empty.txt -m toy-model", ("empty.txt: the columns", "found nothing"), 1),
    ("fit-correction where.csv -m toy-model --label Teff", ("no label 'Teff'; did you mean 'teff'?",), 1),
    ("fit-correction where.csv --kind tef-bias", ("did you mean 'teff-bias'?",), 1),
    ("fit-correction where.csv -o x.txt", ("'.txt' is not a known format",), 1),
    ("saliency toy-model --grid lost.h5 -o s", ("lost.h5: no such file",), 1),
    ("saliency toy-model --grid lost.h5 -o ok.fits", ("ok.fits is a file",), 1),
    ("timing --device tpu", ("no device is called 'tpu'",), 1),
    ("timing --threads 9999", ("threads 9999",), 1),
    # models and grids of one's own
    ("train lost.toml", ("lost.toml: no such file",), 1),
    ("train folder", ("folder is a folder",), 1),
    ("train bad.toml", ("bad.toml is not valid TOML",), 1),
    ("train empty.toml", ("needs a table [estimator] with a kind",), 1),
    ("train two.toml", ("needs a table [estimator] with a kind",), 1),
    ("train kind.toml", ("no estimator is called 'tox'; did you mean 'toy'?",), 1),
    ("train emulator.toml", ("emulator.toml, table [synthesizer]: ", "unknown key 'blcoks'"), 1),
    ("train kind.toml -o x.txt", ("'.txt' is not a known format",), 1),
    ("tune folder", ("holds no search",), 1),
    ("tune search.toml", ("unknown key 'trails'; did you mean 'trials'? @ $", "found 'tpa'"), 1),
    ("grid import junk.h5 -o g.h5", ("junk.h5 does not have a known layout of synthetic spectra",), 1),
    ("grid import junk.h5 -o g.txt", ("'.txt' is not a known format", ".h5"), 1),
    ("grid import junk.h5 --loader specin -o g.h5", ("did you mean 'specinn'?",), 1),
    ("grid make grid.toml", ("grid.toml: required field missing @ $.grid.n", "unknown key 'models'"), 1),
    ("grid make prior.toml", ("no synthesizer is called 'emulatr'; did you mean 'emulator'?",), 1),
    ("grid info ok.h5", ("ok.h5 does not have a known layout of synthetic spectra",), 1),
    ("synthesis setup --code turbo", ("did you mean 'turbospectrum'?",), 1),
    ("synthesis fit-lines grid.toml -o lines.txt", ("is not a known format; use one of .ecsv",), 1),
    ("synthesis fit-lines grid.toml -o lines.ecsv", ("grid.toml: ", "unknown key", "$.windows"), 1),
]  # fmt: skip


@pytest.mark.parametrize(("line", "words", "status"), MISTAKES, ids=[line for line, *_ in MISTAKES])
def test_mistakes(
    plugins: Plugins,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    words: tuple[str, ...],
    status: int,
) -> None:
    if line == "evaluate stars toy-model lost.csv":
        (folder / "lost.csv").touch()
    monkeypatch.chdir(folder)
    before = sorted(os.listdir())
    result = CliRunner().invoke(app, shlex.split(line), obj=plugins, prog_name="specinn")
    assert result.exit_code == status, result.output
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("specinn: ") and "unexpected" not in sentence.replace(
        "got unexpected extra", ""
    )
    for word in words:
        assert word in sentence, sentence
    assert sorted(os.listdir()) == before


def test_every_command_has_its_mistakes() -> None:
    import typer

    def names(group, path=""):
        for name, command in group.commands.items():
            inner = hasattr(command, "commands")
            yield from names(command, f"{path}{name} ") if inner else [f"{path}{name}"]

    lines = [line for line, *_ in MISTAKES]
    commands = set(names(typer.main.get_command(app))) - {"doctor"}  # it takes nothing
    assert {name for name in commands if not any(line.startswith(name) for line in lines)} == set()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
@pytest.mark.parametrize(
    "line", ["train locked", "evaluate stars toy-model locked", "run stars.txt -i toy -o closed/x.fits"]
)
def test_no_permission(plugins: Plugins, folder: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(folder)
    Path("locked").touch(mode=0)
    Path("closed").mkdir(mode=0o500, exist_ok=True)
    result = CliRunner().invoke(app, line.split(), obj=plugins)
    assert result.exit_code == 1 and "ermission" in result.stderr and len(result.stderr.splitlines()) == 1


def test_what_the_system_says_is_a_sentence(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that no command foresaw, Ctrl-C among them."""
    for error, status, said in (
        (PermissionError(13, "Permission denied", "stars.fits"), 1, "stars.fits: permission denied"),
        (MemoryError("9 GB"), 1, "there is not enough memory"),
        (KeyError("a\nb"), 1, "unexpected KeyError: 'a\\nb' (--debug shows where"),
        (KeyboardInterrupt(), 130, "stopped"),
    ):

        def fail(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("specinn.models.installed", fail)
        result = CliRunner().invoke(app, ["models"], obj=plugins)
        assert result.exit_code == status and result.stdout == ""
        assert result.stderr.startswith(f"specinn: {said}") and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("line", ["--debug instruments tox", "instruments tox --debug"])
def test_debug_shows_where(plugins: Plugins, line: str) -> None:
    result = CliRunner().invoke(app, line.split(), obj=plugins)
    assert type(result.exception).__name__ == "PluginError"
    kept = CliRunner().invoke(app, ["instruments", "--", "--debug"], obj=plugins)
    assert "no instrument is called '--debug'" in kept.stderr
