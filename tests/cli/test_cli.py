"""The command line: outputs, sentences, exit status, and what is imported."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_plugin
import h5py
import numpy as np
import pytest
import typer
from commands import Command, sentence

from specinn import __version__, catalogue
from specinn.cli import app, main
from specinn.cli._console import print_json
from specinn.errors import ConfigError
from specinn.plugins import Plugins
from specinn.plugins.hookspecs import Record, hookimpl

TRUTH = np.array([[5772.0, 4.44, 0.0, 1.05], [4500.0, 2.0, -1.2, 2.0], [6500.0, 4.0, -0.5, 2.6]])
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    path = tmp_path_factory.mktemp("model") / "toy.safetensors"
    fake_plugin.Toy.train({}, path.parent, lambda state: None).save(path)
    fake_plugin.MODELS["toy-model"] = path
    return Plugins(entry=[], extra={"fake": fake_plugin})


@pytest.fixture
def stars(tmp_path: Path) -> Path:
    folder = tmp_path / "stars"
    folder.mkdir()
    return fake_plugin.write_text(folder / "stars.txt", fake_plugin.simulate(TRUTH))


@pytest.mark.slow
def test_run_writes_a_catalogue_and_shows_a_table(specinn: Command, stars: Path) -> None:
    result = specinn("run", "--instrument", "toy", stars)
    assert result.exit_code == 0, result.output
    table = catalogue.read("specinn.ecsv")
    assert table["teff"] == pytest.approx(TRUTH[:, 0], abs=100)
    assert (table["instrument"] == "toy").all() and table.meta["samples"] == 4096
    for word in ("teff (K)", "star-0", "star-2", "3 spectra: specinn.ecsv"):
        assert word in result.stdout
    assert result.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".parquet", ".h5"])
def test_the_same_seed_gives_the_same_file(specinn: Command, stars: Path, suffix: str) -> None:
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        options = ("--seed", seed, "--samples", 200, "-o", f"{name}{suffix}", "--quiet")
        result = specinn("run", "-i", "toy", stars, *options)
        assert result.exit_code == 0 and result.output == "", result.output
    first, second, third = (Path(f"{name}{suffix}").read_bytes() for name in "abc")
    assert first == second != third


@pytest.mark.slow
def test_bad_files_among_good_ones(specinn: Command, stars: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.fits").write_text("dear friend")
    result = specinn("run", "-i", "toy", "letter.fits", stars, "none.fits", tmp_path, "-o", "out.fits")
    assert result.exit_code == 0, result.output
    table = catalogue.read("out.fits")
    assert table["flag_bad"].tolist() == [True, False, False, False, True, True]
    lines = result.stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith("specinn: ") for line in lines), result.stderr
    assert "none.fits: no such file" in lines[1] and "is a folder" in lines[2]
    assert "3 without values" in result.stdout and "not_read" in result.stdout


def test_B8_nothing_readable_gives_status_1_and_leaves_nothing(specinn: Command) -> None:
    result = specinn("run", "-i", "toy", "*.fits", "-o", "out.ecsv")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["specinn: *.fits: no such file", "specinn: nothing could be read"]
    assert list(Path().iterdir()) == []


def test_a_folder_alone_is_refused(specinn: Command, tmp_path: Path) -> None:
    sentence(specinn("run", "-i", "toy", tmp_path), "is a folder", "*.fits")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_output_problems_are_found_before_the_work(specinn: Command, stars: Path, tmp_path: Path) -> None:
    (tmp_path / "specinn.ecsv").write_text("mine")
    sentence(specinn("run", "-i", "toy", stars), "specinn.ecsv exists", "--overwrite")
    sentence(specinn("run", "-i", "toy", stars, "-o", "out.doc"), "'.doc'", ".parquet")
    sentence(specinn("run", "-i", "toy", stars, "-o", "none/out.fits"), "no folder")
    sentence(specinn("run", "-i", "toy", stars, "-o", "o.h5", "--save-samples", "o.h5"), "both")
    sentence(specinn("run", "-i", "toy", stars, "-o", "o.h5", "--save-samples", "s.fits"), "'.fits'")
    assert (tmp_path / "specinn.ecsv").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["specinn.ecsv", "stars"]
    assert specinn("run", "-i", "toy", stars, "--overwrite").exit_code == 0
    assert len(catalogue.read(tmp_path / "specinn.ecsv")) == 3


@pytest.mark.slow
def test_wrong_names_and_options(specinn: Command, stars: Path) -> None:
    sentence(specinn("run", "-i", "toys", stars), "did you mean 'toy'")
    sentence(
        specinn("run", "-i", "toy", "--model", "best", stars),
        "no model or file is called 'best'",
        "toy-model",
    )
    sentence(specinn("run", "-i", "toy", "--format", "fitz", stars), "no reader is called 'fitz'", "toy-text")
    sentence(specinn("run", "-i", "toy", "--rv", "fast", stars), "rv 'fast'", "auto")
    sentence(specinn("run", "-i", "toy", "--device", "cuda:7", stars), "cuda:7")
    sentence(specinn("run", "-i", "toy", "--degrade-snr", "0", stars), "positive")
    sentence(specinn("run", "-i", "toy", "--correction", "c.toml", stars), "c.toml")
    assert specinn("run", "--samples", "none", stars).exit_code == 2
    assert not Path("specinn.ecsv").exists()


@pytest.mark.slow
def test_without_files_the_examples_are_used(
    specinn: Command, stars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specinn.inference.run.resources.files", lambda package: tmp_path)
    sentence(specinn("run", "-i", "toy"), "no example spectra")
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "a.fits").write_bytes(stars.read_bytes())  # the format is known by its content
    result = specinn("run", "-i", "toy")
    assert result.exit_code == 0 and "example spectra" in result.stderr
    assert len(catalogue.read("specinn.ecsv")) == 3


@pytest.mark.slow
def test_velocity_samples_and_noise_by_option(specinn: Command, tmp_path: Path) -> None:
    batch = fake_plugin.simulate(TRUTH, rv=25.0)
    path = fake_plugin.write_text(tmp_path / "s.txt", batch)
    (tmp_path / "rv.csv").write_text("path,rv\ns.txt,24.5\n")
    options = (
        "--rv",
        "rv.csv",
        "--degrade-snr",
        60,
        "--save-samples",
        "s.h5",
        "--samples",
        300,
        "-o",
        "o.h5",
    )
    result = specinn("run", "-i", "toy", path, *options)
    assert result.exit_code == 0, result.output
    table = catalogue.read("o.h5")
    assert table["rv"].tolist() == [24.5] * 3 and np.median(table["snr_red"]) == pytest.approx(60, rel=0.1)
    with h5py.File("s.h5") as file:
        assert file["samples"].shape == (3, 300, 4)
    assert specinn("run", "-i", "toy", path, "--rv", "-3", "-o", "p.h5").exit_code == 0
    assert catalogue.read("p.h5")["rv"].tolist() == [-3.0] * 3


class Clumsy:
    """A plugin that is broken."""

    @hookimpl
    def specinn_corrections(self) -> Any:
        raise RuntimeError("oh dear")


@pytest.mark.slow
def test_plugins(specinn: Command) -> None:
    result = specinn("plugins")
    assert result.exit_code == 0 and "to-arms" in result.stdout and "reader" in result.stdout
    offers = json.loads(specinn("plugins", "--json").stdout)
    assert {"kind": "estimator", "name": "toy"}.items() <= offers[-1].items()
    assert specinn("plugins", "--failed").stdout == "all plugins were loaded\n"
    broken = Plugins(entry=[], extra={"fake": fake_plugin, "clumsy": Clumsy()})
    assert len(broken.failures) == 1
    result = specinn("plugins", others=broken)
    assert result.exit_code == 0 and "to-arms" in result.stdout
    assert len(result.stderr.splitlines()) == 1 and "oh dear" in result.stderr
    result = specinn("plugins", "--failed", others=broken)
    assert "Traceback" in result.stdout and result.stderr == ""
    assert json.loads(specinn("plugins", "--failed", "--json", others=broken).stdout)[0]["plugin"] == "clumsy"


def test_instruments(specinn: Command) -> None:
    assert "toy  Two short arms" in specinn("instruments").stdout
    card = specinn("instruments", "toy").stdout
    assert "green" in card and "5160-5200" in card and "5000" in card and "invented" in card
    assert json.loads(specinn("instruments", "--json").stdout)[0]["name"] == "toy"
    assert json.loads(specinn("instruments", "toy", "--json").stdout)["arms"][1]["range"] == [6100.0, 6140.0]
    sentence(specinn("instruments", "tox"), "did you mean 'toy'")


@pytest.mark.slow
def test_models(specinn: Command) -> None:
    assert "toy-model" in specinn("models").stdout and "green+red" in specinn("models").stdout
    (summary,) = json.loads(specinn("models", "--json").stdout)
    assert summary["labels"] == list(fake_plugin.LABELS.names)
    card = specinn("models", "toy-model").stdout
    for words in (
        "4000 to 7000",
        "as log10",
        "R 5000",
        "straight lines",
        "snr 250",
        "rest-frame, to-arms",
        summary["sha256"],
    ):
        assert words in card, words
    by_path = json.loads(specinn("models", fake_plugin.MODELS["toy-model"], "--json").stdout)
    assert by_path["grid"]["code"] == "straight lines" and by_path["sha256"] == summary["sha256"]
    sentence(specinn("models", "toy-mod"), "did you mean 'toy-model'")
    empty = Plugins(entry=[], extra={})
    assert "no model is installed" in specinn("models", others=empty).stdout


@pytest.mark.slow
def test_flags(specinn: Command) -> None:
    text = specinn("flags").stdout
    assert "not_read" in text and "flag_bad" in text
    assert [row["name"] for row in json.loads(specinn("flags", "4128", "--json").stdout)] == [
        "many_rejected",
        "rv_measured",
    ]
    assert specinn("flags", "0").stdout == "no flag is set\n"
    assert [row["value"] for row in json.loads(specinn("flags", "Out_of_Distribution", "--json").stdout)] == [
        65536
    ]
    sentence(specinn("flags", str(1 << 31)), "does not know")


@pytest.mark.slow
def test_train(specinn: Command, tmp_path: Path) -> None:
    recipe = tmp_path / "toy.toml"
    recipe.write_text('[estimator]\nkind = "toy"\nn = 20\n')
    result = specinn("train", recipe)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "toy-training").exists()  # it kept no checkpoint
    header = json.loads(specinn("models", "toy.safetensors", "--json").stdout)
    assert header["grid"]["n_spectra"] == 20
    sentence(specinn("train", recipe), "exists")
    assert specinn("train", recipe, "--overwrite", "--quiet").exit_code == 0
    assert specinn("train", recipe, "-o", "other.safetensors").exit_code == 0
    sentence(specinn("train", tmp_path / "none.toml"), "no such file")
    recipe.write_text("[estimator]\n")
    sentence(specinn("train", recipe), "needs a table [estimator] with a kind")
    recipe.write_text('[estimator]\nkind = "tox"\n')
    sentence(specinn("train", recipe, "-o", "third.safetensors"), "did you mean 'toy'")


def test_a_bug_is_a_sentence_too(specinn: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: Any) -> None:
        raise ValueError("never thought of that")

    monkeypatch.setattr("specinn.models.installed", bug)
    sentence(specinn("models"), "unexpected ValueError: never thought of that", "--debug")
    monkeypatch.setattr(
        "specinn.models.installed", lambda plugins: (_ for _ in ()).throw(ConfigError("mine"))
    )
    sentence(specinn("models"), "specinn: mine")


def test_version_and_help(specinn: Command) -> None:
    assert specinn("--version").stdout == f"specinn {__version__}\n"
    text = specinn("--help").stdout
    assert all(name in text for name in ("run", "plugins", "instruments", "models", "flags", "train", "grid"))
    assert specinn().stdout == text and specinn().exit_code == 0


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its names, groups among them."""
    group = group or typer.main.get_command(app)
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_help_fits_a_screen(specinn: Command, monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = specinn(*path, "--help").stdout.splitlines()
    assert len(lines) <= 44 and max(map(len, lines)) <= 84 and not any("..." in line for line in lines[1:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [path for path, group in commands() if not hasattr(group, "commands")], ids=" ".join
)
def test_examples_of_help_are_right(specinn: Command, path: tuple[str, ...]) -> None:
    """They end the help, there are one to three, and the command line takes them."""
    lines = specinn(*path, "--help").stdout.splitlines()
    examples = lines[lines.index("Examples:") + 1 :]
    assert 1 <= len(examples) <= 3 and examples[0].startswith(f"  specinn {' '.join(path)}")
    by_words = dict(commands())
    for example in examples:
        name, *words = shlex.split(example.partition(" #")[0].partition(" > ")[0])
        head = tuple(words[:2]) if tuple(words[:2]) in by_words else tuple(words[:1])
        assert name == "specinn"
        by_words[head].make_context(head[-1], words[len(head) :]).close()  # raises for unknown options


PRINT_JSON = ["plugins", "plugins --failed", "instruments", "instruments toy", "models", "models toy-model",
              "flags", "flags 3", "doctor", "run -i toy stars/stars.txt --samples 16 -o a.fits",
              "run -i toy stars/stars.txt --resume -o made.fits", "combine made.fits -o b.fits"]  # fmt: skip
ELSEWHERE = {"evaluate grid", "evaluate stars", "evaluate robustness", "evaluate ood", "evaluate emulator",
             "fit-correction", "resimulate", "saliency", "timing", "tune", "grid make", "grid info",
             "synthesis setup"}  # fmt: skip


@pytest.mark.parametrize(("former", "today"), {"benchmark": "timing", "calibrate": "fit-correction"}.items())
def test_former_names_of_commands_work_and_say_so(specinn: Command, former: str, today: str) -> None:
    result = specinn("--debug", former, "--help")
    assert result.exit_code == 0 and result.stdout == specinn(today, "--help").stdout
    assert result.stderr == f"specinn: specinn {former} is now called specinn {today}\n"


def test_former_names_of_options_and_flags_work_and_say_so(specinn: Command) -> None:
    result = specinn("fit-correction", "--with-calibrators", "none.csv")
    said, error = result.stderr.splitlines()
    assert said == "specinn: --with-calibrators is now called --with-reference-stars"
    assert "--kind" in error  # and not that there is no such option
    result = specinn("flags", "stranger")
    assert result.exit_code == 0 and result.stdout == specinn("flags", "out_of_distribution").stdout
    assert result.stderr == "specinn: the flag stranger is now called out_of_distribution\n"


@pytest.mark.slow
@pytest.mark.parametrize("line", PRINT_JSON)
def test_json_is_all_that_is_printed(specinn: Command, stars: Path, line: str) -> None:
    assert specinn("run", "-i", "toy", stars, "--samples", 16, "-o", "made.fits", "-q").exit_code == 0

    def refuse(word: str) -> None:
        raise ValueError(word)  # NaN and Infinity are no JSON

    result = specinn(*line.split(), "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout, parse_constant=refuse)
    rows = printed if isinstance(printed, list) else [printed]
    assert rows or line == "plugins --failed"
    assert all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows)
    if line.startswith("run"):
        assert printed["catalogue"].endswith(".fits") and printed["spectra"] in (3, None)


def test_every_json_is_looked_at() -> None:
    with_json = {" ".join(path) for path, of in commands() if any("--json" in p.opts for p in of.params)}
    covered = {line.split()[0] for line in PRINT_JSON}
    assert with_json == covered | ELSEWHERE


def test_what_is_no_number_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": np.float32(np.nan), "b": [np.inf, 1.5], "c": np.arange(2), "d": Path("x"), 3: (None,)})
    result = json.loads(capsys.readouterr().out)
    assert result == {"a": None, "b": [None, 1.5], "c": [0, 1], "d": "x", "3": [None]}


COMPLETIONS = [
    ("specinn ins", {"instruments"}),
    ("specinn run --in", {"--instrument"}),
    ("specinn run -i t", {"toy"}),
    ("specinn run --model toy", {"toy-model"}),
    ("specinn run --format ", {"toy-text"}),
    ("specinn run --device c", {"cpu", "cuda", "cuda:0"}),
    ("specinn run spec", set()),  # files, by the shell
    ("specinn models ", {"toy-model"}),
    ("specinn flags out", {"out_of_distribution"}),
    ("specinn fit-correction b.csv --label te", {"teff"}),
    ("specinn new-plugin x --kind co", {"correction"}),
    ("specinn evaluate grid m --split v", {"validation"}),
    ("specinn grid i", {"import", "info"}),
]


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(("line", "names"), COMPLETIONS)
def test_names_are_completed(
    plugins: Plugins, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str,
    names: set[str], shell: str,
) -> None:  # fmt: skip
    words = line.split(" ")
    environment = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1),
                   "_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args",
                   "_SPECINN_COMPLETE": f"complete_{shell}"}  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main([], plugins)
    out = capsys.readouterr().out
    pattern = {"bash": r"^(\S+)$", "zsh": r'^(?:.*\(\()?"(.*?)"', "fish": r"^(\S+)"}[shell]
    result = {name.replace(r"\\:", ":") for name in re.findall(pattern, out, flags=re.MULTILINE)}
    assert result - {"_files"} == names


def test_doctor(specinn: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = specinn("doctor")
    assert result.exit_code == 0 and "everything that specinn needs is there" in result.stdout
    checks = {(f["group"], f["name"]): f for f in json.loads(specinn("doctor", "--json").stdout)}
    for name in ("numpy", "torch", "freia", "typer"):
        assert any(key[1].lower() == name and of["state"] == "ok" for key, of in checks.items()), name
    assert "SHA-256" in checks["models", "toy-model"]["detail"]
    assert checks["plugins", "reader"]["detail"] == "toy-text"
    # what is broken, and what is merely missing
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    about = SimpleNamespace(name="Old GPU", total_memory=2**31)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda number: about)
    monkeypatch.setattr(
        "torch.ones", lambda *_, device: (_ for _ in ()).throw(RuntimeError("no kernel\nfor it"))
    )
    monkeypatch.setitem(fake_plugin.MODELS, "cut", tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(fake_plugin.MODELS["toy-model"].read_bytes()[:-8])
    monkeypatch.setattr(
        "specinn.doctor.metadata.requires", lambda name: ["numpy>99", "no-such-thing", 'optuna; extra=="x"']
    )
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    broken = Plugins(entry=[], extra={"fake": fake_plugin, "clumsy": Clumsy(), "lost": Lost()})
    result = specinn("doctor", others=broken)
    assert result.exit_code == 1 and "Traceback" not in result.output
    for words in (
        "needs >99",
        "not installed",
        "is damaged",
        "oh dear",
        "lost_module",
        "cache folder",
        "Old GPU, 2 GiB: no kernel;",
    ):
        assert words in " ".join(result.stdout.split()), words
    assert "to be fixed: numpy, no-such-thing, cuda:0, correction lost, clumsy, cut" in result.stdout
    assert "cache folder" in result.stdout.splitlines()[-1]


class Lost:
    """A plugin whose factory is not there."""

    @hookimpl
    def specinn_corrections(self) -> list[Record]:
        return [Record(name="lost", summary="", factory="lost_module:Lost")]


HEAVY = ("torch", "specutils", "astropy", "scipy", "h5py", "matplotlib", "pyarrow", "pandas", "FrEIA")
IMPORTS = """
import contextlib, io, sys
import fake_plugin_light, specinn.cli
from specinn.plugins import Plugins
commands = ["--help", "plugins", "instruments", "instruments toy", "models", "models toy-model", "flags"]
for command in [*commands, "run --help", "train --help", "grid --help"]:
    arguments = command.split()
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            specinn.cli.main(arguments, Plugins([], {{"light": fake_plugin_light}}))
        except SystemExit as done:
            assert not done.code, arguments
    found = [name for name in {heavy} if name in sys.modules]
    assert not found, f"{{arguments}} imported {{found}}"
print("clean")
"""
LIGHT = """
from pathlib import Path
from specinn.plugins.hookspecs import EstimatorRecord, InstrumentRecord, hookimpl

@hookimpl
def specinn_instruments():
    return [InstrumentRecord(name="toy", summary="", toml=Path({toml!r}))]

@hookimpl
def specinn_estimators():
    models = {{"toy-model": Path({model!r})}}
    return [EstimatorRecord(name="toy", summary="", factory="nowhere:X", models=models)]
"""


def in_a_process(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(p) for p in (ROOT, ROOT / "tests" / "helpers", *paths)),
    }
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


@pytest.mark.slow
def test_commands_that_only_tell_import_nothing_heavy(plugins: Plugins, tmp_path: Path) -> None:
    model = str(fake_plugin.MODELS["toy-model"])
    (tmp_path / "fake_plugin_light.py").write_text(LIGHT.format(toml=str(fake_plugin.TOML), model=model))
    done = in_a_process(IMPORTS.format(heavy=HEAVY), tmp_path)
    assert done.stdout == "clean\n", done.stderr


SHIPPED = """
import importlib, sys
import specinn.cli
from specinn.plugins import Plugins
names = ["specinn_instruments", "specinn_preprocessing", "specinn_turbospectrum", "specinn_emulator",
         "specinn_cinn", "specinn_teff_bias"]
plugins = Plugins([], {{name: importlib.import_module(name) for name in names}})
assert not plugins.failures, plugins.failures
for arguments in ["plugins"], ["instruments", "4most-hr"], ["models"]:
    try:
        specinn.cli.main(arguments, plugins)
    except SystemExit as done:
        assert not done.code
found = [name for name in {heavy} if name in sys.modules]
assert not found, found
"""


@pytest.mark.slow
def test_the_shipped_plugins_are_light_to_load() -> None:
    done = in_a_process(SHIPPED.format(heavy=HEAVY), ROOT / "plugins", ROOT / "instruments")
    assert done.returncode == 0, done.stderr
    for name in ("4most-hr", "uves", "narval", "foces", "cinn", "teff-bias", "turbospectrum", "to-arms"):
        assert name in done.stdout


@pytest.mark.slow
def test_a_real_process_prints_no_traceback(tmp_path: Path) -> None:
    code = f"""
import fake_plugin, specinn.cli
from specinn.plugins import Plugins
plugins = Plugins([], {{"fake": fake_plugin}})
specinn.cli.main(["run", "-i", "toy", "-o", {str(tmp_path / "out.txt")!r}], plugins)
"""
    done = in_a_process(code)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("specinn: ") and len(done.stderr.splitlines()) == 1
