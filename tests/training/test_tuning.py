"""specinn tune: search files, Hyperband, processes that die, and what is found."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import attrs
import fake_plugin
import pytest
import tiny_grid
import tune_plugin
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from specinn.cli import app
from specinn.config import structure
from specinn.errors import ConfigError
from specinn.parallel import locks
from specinn.parallel.locks import Claims, Lock
from specinn.plugins import Plugins
from specinn.training import recipe as recipes
from specinn.training.search import Budget, Search, _File
from specinn.training.tuning import open_study

ROOT = Path(__file__).resolve().parents[2]
SEARCH = """
seed = 3

[estimator]
kind = "bowl"
x = 0.5

[estimator.schedule]
steps = 27
validate_every = 1
rate = 1e-2

[vary]
x = { float = [0.0, 1.0] }
schedule.rate = { float = [1e-5, 1e-1], log = true }
"widths" = { choice = [[64, 32], [16], [512, 512]] }
"""
SHORT = SEARCH.replace("steps = 27", "steps = 9")
MAIN = "from specinn.cli import main; main()"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal waits for the disk at every line, which is the time that these tests would take."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def optuna() -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install '.[tune]'")


@pytest.fixture
def command(quick: None) -> Callable[..., Result]:
    def call(*arguments: object, text: str = SEARCH) -> Result:
        Path("s.toml").write_text(text)
        plugins = Plugins([], {"bowl": tune_plugin})
        return CliRunner().invoke(app, ["tune", *map(str, arguments or ["s.toml"])], obj=plugins)

    return call


@pytest.fixture
def tune(optuna: None, command: Callable[..., Result]) -> Callable[..., Result]:
    return command


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fake_plugin.install("tune_plugin", tmp_path_factory.mktemp("packages"))


@pytest.fixture
def start(optuna: None, path: str, tmp_path: Path):
    """Starts real processes, and leaves none behind."""
    begun = []

    def call(*arguments: object, text: str = SHORT, **more: object) -> subprocess.Popen[str]:
        Path("s.toml").write_text(text)
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "BOWL_LOG": "log.txt"}
        environment |= {key: str(value) for key, value in more.items()}
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", MAIN, "tune", "s.toml", *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        begun.append(process)
        return process

    yield call
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def sentence(result: Result, *words: str) -> None:
    assert result.exit_code == 1, result.output
    last = result.stderr.splitlines()[-1]
    assert last.startswith("specinn: ") and "unexpected" not in last, last
    for word in words:
        assert word in last, last


def rows(folder: str = "s-trials") -> Table:
    return Table.read(f"{folder}/trials.ecsv")


def attempts() -> list[tuple[str, int, int]]:
    """What trainings noted: the trial, the step from which they set out, and their process."""
    if not Path("log.txt").exists():
        return []
    lines = [line.split() for line in Path("log.txt").read_text().splitlines()]
    return [(name, int(step), int(process)) for name, step, process in lines]


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.01)


# Recipes -----------------------------------------------------------------------------------------

KEYS = st.text(min_size=1, max_size=6).filter(lambda key: key.isprintable())
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), TEXT)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.slow
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_toml_that_is_written_reads_back(table):
    assert tomllib.loads(recipes.to_toml(table, "a\n\nb")) == table


def test_what_toml_cannot_say_is_an_error():
    with pytest.raises(ConfigError, match="None cannot be written as TOML"):
        recipes.to_toml({"a": [None]})


def test_values_by_dotted_name_leave_the_recipe_as_it_was():
    base = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert recipes.with_values(base, {"a.b": 5, "e.f.g": 6, "d": 7}) == {
        "a": {"b": 5, "c": [1]},
        "d": 7,
        "e": {"f": {"g": 6}},
    }
    assert base == {"a": {"b": 1, "c": [1]}, "d": 2}
    assert recipes.value_at(base, "a.b") == 1 and recipes.value_at(base, "d.b") is None
    with pytest.raises(ConfigError, match=r"a\.b is 1 in the recipe, and not a table"):
        recipes.with_values(base, {"a.b.c": 1})
    assert recipes.merged(base, {"a": {"b": 9}, "d": {"x": 1}}) == {"a": {"b": 9, "c": [1]}, "d": {"x": 1}}


# Search files ------------------------------------------------------------------------------------


def test_a_search_is_a_recipe_with_ranges():
    Path("s.toml").write_text(SEARCH)
    search = Search.load(Path("s.toml"))
    assert (search.what, search.kind, search.table["x"]) == ("estimator", "bowl", 0.5)
    assert list(search.vary) == ["x", "schedule.rate", "widths"]
    assert search.budget == Budget(27, 1, 3)
    Path("again.toml").write_text(search.to_toml())
    assert Search.load(Path("again.toml")) == search
    assert search.recipe({"x": 0.1, "schedule.rate": 2.0}) == {
        "estimator": {
            "kind": "bowl",
            "x": 0.1,
            "schedule": {"steps": 27, "validate_every": 1, "rate": 2.0},
        }
    }


def test_a_search_may_start_from_a_recipe():
    Path("sub").mkdir()
    Path("sub/r.toml").write_text(
        '[estimator]\nkind = "bowl"\nx = 1.0\nschedule = { rate = 0.1, steps = 4 }\n'
    )
    Path("sub/s.toml").write_text(
        'recipe = "r.toml"\n[budget]\nfirst = 2\n'
        "[estimator.schedule]\nrate = 0.2\n[vary]\nx = { int = [1, 4] }\n"
    )
    search = Search.load(Path("sub/s.toml"))
    assert search.table == {"x": 1.0, "schedule": {"rate": 0.2, "steps": 4}}
    assert search.budget == Budget(4, 2, 3) and search.trials == 1


@pytest.mark.parametrize(
    ("budget", "brackets"),
    [
        (Budget(81, 1, 3), [81, 34, 15, 8, 5]),  # Table 1 of Li et al. (2018)
        (Budget(243, 1, 3), [243, 98, 41, 18, 9, 6]),
        (Budget(80, 1, 3), [27, 12, 6, 4]),
        (Budget(10, 10, 3), [1]),
    ],
)
def test_a_round_of_hyperband(optuna, budget, brackets, tmp_path):
    from optuna.pruners import HyperbandPruner

    assert budget.brackets == brackets
    Path("s.toml").write_text(SEARCH)
    search = attrs.evolve(Search.load(Path("s.toml")), budget=budget)
    study = open_study(search, tmp_path)
    assert isinstance(study.pruner, HyperbandPruner)
    study.pruner._try_initialization(study)
    assert study.pruner._trial_allocation_budgets == brackets


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("seed = 3", "sed = 3", ["unknown key 'sed'; did you mean 'seed'?"]),
        ("seed = 3", "seed = 'a'", ["$.seed", "expected an integer, found 'a'"]),
        ("seed = 3", "sampler = 'tpee'", ["$.sampler", "found 'tpee'; did you mean 'tpe'?"]),
        ("seed = 3", "trials = -1", ["$.trials >= 0", "found 1, 27, 3 and -1"]),
        ("seed = 3", "recipe = 'no.toml'", ["no.toml: no such file"]),
        ("seed = 3", "budget = { steps = 5, first = 6 }", ["$.budget.first <= $.budget.steps", "found 6, 5"]),
        ("seed = 3", "budget = { reduction = 1 }", ["$.budget.reduction >= 2"]),
        ("seed = 3", "budget = { stepps = 1 }", ["$.budget", "stepps"]),
        ("steps = 27", "", ["$.budget.steps is missing", "schedule.steps"]),
        ("validate_every = 1", "", ["$.budget.first is missing", "schedule.validate_every"]),
        ("[estimator]\n", "[estimater]\n", ["estimater"]),
        ('kind = "bowl"', "", ["needs a table [estimator] with a kind"]),
        ('kind = "bowl"', 'kind = "bow"', ["no estimator is called 'bow'; did you mean 'bowl'?"]),
        ("float = [0.0, 1.0]", "floot = [0.0, 1.0]", ["$.vary.x", "floot"]),
        ("float = [0.0, 1.0]", "float = [1.0, 0.0]", ["$.vary.x.float", "low < high", "1.0 and 0.0"]),
        ("float = [0.0, 1.0]", "float = [0.0]", ["$.vary.x.float"]),
        ("float = [0.0, 1.0]", "float = [0.0, nan]", ["$.vary.x.float", "finite number"]),
        ("float = [0.0, 1.0]", "int = [0.5, 1]", ["$.vary.x.int", "expected an integer, found 0.5"]),
        ("float = [0.0, 1.0]", "float = [0.0, 1.0], log = true", ["0 < low < high"]),
        ("float = [0.0, 1.0]", "float = [0, 1], int = [0, 1]", ["$.vary.x", "found int and float"]),
        ("float = [0.0, 1.0]", "log = true", ["$.vary.x", "found none of them"]),
        ("{ float = [0.0, 1.0] }", "3", ["$.vary.x"]),
        (
            "choice = [[64, 32], [16], [512, 512]]",
            "choice = [[1]]",
            ["$.vary.widths", "two different values"],
        ),
        ("choice = [[64, 32], [16], [512, 512]]", "choice = [1, 1]", ["$.vary.widths", "two different"]),
        ("choice = [[64, 32], [16], [512, 512]]", "choice = [1, 1979-05-27]", ["$.vary.widths.choice"]),
        ('"widths"', '"x.y"', ["$.vary.x cannot vary beside x.y"]),
        ('"widths"', '"kind"', ["$.vary.kind cannot vary"]),
        ('"widths"', '"schedule.steps.y"', ["schedule.steps is 27 in the recipe, and not a table"]),
        (SEARCH[SEARCH.index("[vary]") :], "[vary]\n", ["$.vary is empty"]),
        (SEARCH[SEARCH.index("[vary]") :], "", ["vary"]),
        ("seed = 3", "seed = ", ["s.toml is not valid TOML"]),
    ],
)
def test_what_is_wrong_with_a_search(tune, before, after, words):
    assert before in SEARCH
    sentence(tune(text=SEARCH.replace(before, after, 1)), *words)
    assert not Path("s-trials").exists()


def test_the_page_names_every_key():
    page = (ROOT / "docs" / "tuning.md").read_text()
    keys = {}
    for field in attrs.fields(_File):
        if attrs.has(inner := field.type if isinstance(field.type, type) else type(None)):
            keys |= {f"{field.name}.{part.name}": part.default for part in attrs.fields(inner)}
        elif field.name == "budget":
            keys |= {f"budget.{part.name}": part.default for part in attrs.fields(Budget)}
        else:
            factory = isinstance(field.default, attrs.Factory)  # type: ignore[arg-type]
            keys[field.name] = field.default.factory() if factory else field.default
    assert len(keys) == 10
    for name, default in keys.items():
        shown = "required" if default is attrs.NOTHING else f"`{json.dumps(default)}`"
        assert f"| `{name}` | {shown} |" in page, name
    for name in re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL):
        example = tomllib.loads(name)
        Path("my-model.toml").write_text('[estimator]\nkind = "cinn"\n')
        Path("s.toml").write_text(name)
        assert len(Search.load(Path("s.toml")).vary) == len(example["vary"])


def test_the_search_of_the_paper_varies_keys_that_exist():
    from specinn_cinn.recipe import Config, architecture

    search = Search.load(ROOT / "plugins" / "specinn_cinn" / "recipes" / "paper-search.toml")
    assert search.trials == sum(search.budget.brackets) == 143 and search.sampler == "random"
    for end in (0, -1):
        values = {k: (v.int or v.float or v.choice)[end] for k, v in search.vary.items()}
        config = structure(recipes.parts(search.recipe(values), "x")[2], Config, "x")
        sizes = architecture(config)
        assert (sizes.blocks, sizes.width) == ((4, 64), (16, 1024))[end]
        assert isinstance(config, Config)
        assert config.schedule.backward == (0.01, 10.0)[end] and sizes.activation == "relu"
        assert config.schedule.steps == search.budget.steps
        assert search.budget.first % config.schedule.validate_every == 0


# The search --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_best_is_found_and_the_bad_are_stopped_early(tune, monkeypatch):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "loads", never)
    monkeypatch.setattr(pickle, "load", never)
    result = tune()
    assert result.exit_code == 0, result.output
    table = rows()
    state = Counter(table["state"])
    assert len(table) == 49 and set(state) == {"complete", "stopped"}
    assert state["stopped"] > state["complete"]
    assert table["step"].sum() < 0.5 * 49 * 27  # what random search would cost
    assert (table["step"][table["state"] == "complete"] == 27).all()
    first = table[0]
    assert abs(first["x"] - 0.3) < 0.1 and abs(math.log10(first["schedule.rate"]) + 3) < 0.5
    assert first["widths"] == "[64, 32]" and first["validation"] < 0.06
    assert first["validation"] == min(table["validation"][table["state"] == "complete"])
    gained = 3 * math.exp(-6)
    best = tomllib.loads(Path("s-trials/best.toml").read_text())
    assert first["validation"] == pytest.approx(tune_plugin.final_loss(best["estimator"]) + gained)
    words = re.findall(r"^trial (\d+): (\w+)", result.stderr, flags=re.MULTILINE)
    assert Counter(word for _, word in words)["stopped"] == state["stopped"]
    assert "49 trials: " in result.stdout and "best recipe: s-trials/best.toml" in result.stdout

    kept = {path.name for path in Path("s-trials").glob("trial-*")}
    assert kept == {f"trial-{n:04d}" for n in table["trial"][table["state"] == "complete"]}
    plugins = Plugins([], {"bowl": tune_plugin})
    done = CliRunner().invoke(
        app, ["train", "s-trials/best.toml", "--quiet", "-o", "m.safetensors"], obj=plugins
    )
    assert done.exit_code == 0, done.output
    model = Path("s-trials") / f"trial-{first['trial']:04d}" / "model.safetensors"
    assert json.loads(Path("m.safetensors").read_text()) == json.loads(model.read_text())

    before = Path("s-trials/journal.log").read_bytes()
    for name in ("trials.ecsv", "best.toml"):
        Path("s-trials", name).unlink()
    shown = tune("s-trials", "--show")
    assert shown.exit_code == 0 and shown.stdout == result.stdout
    assert Path("s-trials/journal.log").read_bytes() == before and len(rows()) == 49
    as_json = json.loads(tune("s.toml", "--show", "--json").stdout)
    assert len(as_json) == 49 and as_json[0]["values"]["widths"] == [64, 32]


@pytest.mark.slow
def test_random_configurations_are_stopped_too(tune):
    result = tune("s.toml", "--quiet", text=SHORT.replace("seed = 3", 'sampler = "random"\ntrials = 30'))
    assert result.exit_code == 0 and result.stderr == ""
    table = rows()
    assert len(table) == 30 and Counter(table["state"])["stopped"] > 10
    assert 0.3 < table["x"].mean() < 0.7 and len(set(table["widths"])) == 3  # nothing is learnt


@pytest.mark.slow
def test_a_search_is_extended_and_the_same_whether_interrupted_or_not(tune):
    def search(*arguments: object) -> list[dict]:
        done = tune(*arguments, "--json", "--quiet", text=SHORT)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    whole = search("s.toml", "-o", "whole", "--trials", 16)
    assert len(whole) == 16
    assert len(search("s.toml", "-o", "parts", "--trials", 5)) == 5
    assert search("parts", "--trials", 16) == whole
    assert search("parts", "--trials", 4) == whole  # there are enough
    draws = [row["values"]["x"] for row in whole]
    assert len(set(draws)) == 16
    other = tune("s.toml", "-o", "other", "--trials", 3, "--json", text=SHORT.replace("seed = 3", "seed = 4"))
    assert not {row["values"]["x"] for row in json.loads(other.stdout)} & set(draws)


def test_an_interrupted_trial_goes_on_from_its_checkpoint(tune, monkeypatch):
    monkeypatch.setenv("BOWL_LOG", "log.txt")
    usual = tune_plugin.Bowl.train.__func__
    stops = [5]

    def interrupted(cls, config, folder, progress):
        def told(state):
            progress(state)
            if folder.name == "trial-0000" and state["step"] in stops:
                stops.remove(state["step"])
                raise KeyboardInterrupt

        return usual(cls, config, folder, told)

    monkeypatch.setattr(tune_plugin.Bowl, "train", classmethod(interrupted))
    result = tune("s.toml", "--trials", 2, text=SHORT)
    assert result.exit_code == 130 and "stopped; the same command resumes" in result.stderr
    assert list(rows()["state"]) == ["running"] and not Path("s-trials/best.toml").exists()
    assert "no trial is complete yet" in result.stdout
    result = tune("s.toml", "--trials", 2, text=SHORT)
    assert result.exit_code == 0 and "trial 0: resumes after step 5" in result.stderr
    assert [entry[:2] for entry in attempts()][:2] == [("trial-0000", 0), ("trial-0000", 5)]
    assert sorted(rows()["trial"]) == [0, 1] and "running" not in rows()["state"]


@pytest.mark.slow
def test_configurations_that_fail_are_failed_trials(tune):
    text = SEARCH.replace('"widths"', 'blocks = { int = [1, 8] }\n"widths"')
    text = text.replace("[0.0, 1.0]", "[-0.2, 1.0]")
    result = tune("s.toml", "--trials", 40, text=text)
    assert result.exit_code == 0, result.output
    table = rows()
    failed = table[table["state"] == "failed"]
    assert 3 <= len(failed) < 20
    for row in failed:
        size = f"$.blocks is {row['blocks']}: more than 6 do not fit"
        loss = "the validation loss is nan at step 1"
        assert row["message"] == (size if row["blocks"] > 6 else loss)
    assert table["message"].mask[table["state"] != "failed"].all()
    assert list(table["state"][-len(failed) :]) == ["failed"] * len(failed)
    assert len(failed[failed["trial"] >= 20]) < len(failed[failed["trial"] < 20])  # they are avoided
    assert "more than 6 do not fit" in result.stdout and " failed; all of them" in result.stdout


def test_an_unexpected_error_of_a_training_is_a_failed_trial(tune, monkeypatch):
    def train(cls, config, folder, progress):
        if config["x"] > 0.4:
            raise RuntimeError("CUDA out of memory")
        progress({"epoch": 9, "validation": config["x"]})
        return cls(config)

    monkeypatch.setattr(tune_plugin.Bowl, "train", classmethod(train))
    assert tune("s.toml", "--trials", 6, text=SHORT).exit_code == 0
    for row in rows():
        assert row["state"] == ("failed" if row["x"] > 0.4 else "complete")
        assert row["x"] <= 0.4 or row["message"] == "RuntimeError: CUDA out of memory"
    assert 0 < sum(rows()["state"] == "failed") < 6


@pytest.mark.slow
def test_a_search_in_which_all_trials_fail_ends(tune):
    result = tune(text=SEARCH.replace("x = 0.5", "x = 0.5\nblocks = 7"))
    sentence(result, "first 8 trials of this process all failed", "more than 6 do not fit")
    assert list(rows()["state"]) == ["failed"] * 8
    result = tune("s.toml", "-o", "other", text=SEARCH.replace('kind = "bowl"', 'kind = "silent"'))
    sentence(result, "the estimator 'silent' reports no validation loss")


@pytest.mark.slow
def test_a_full_disk_fails_no_trial(tune, monkeypatch):
    from specinn.errors import OutputError

    def full(cls, config, folder, progress):
        raise OutputError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(tune_plugin.Bowl, "train", classmethod(full))
        sentence(tune("s.toml", "--trials", 2, text=SHORT), "the disk is full")
    assert list(rows()["state"]) == ["running"]
    assert tune("s.toml", "--trials", 2, text=SHORT).exit_code == 0
    assert "failed" not in rows()["state"]


@pytest.mark.slow
def test_folders_that_cannot_be_joined(tune, tmp_path, monkeypatch):
    assert tune("s.toml", "--trials", 1).exit_code == 0
    other = SEARCH.replace("[0.0, 1.0]", "[0.0, 2.0]").replace("x = 0.5", "x = 0.6")
    sentence(tune(text=other), "s-trials holds another search (recipe, vary differ)", "--output")
    sentence(tune("s-trials", "-o", "x"), "remove --output")
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    sentence(tune("s.toml", "-o", "full"), "full is not empty and holds no search")
    sentence(tune("full"), "full holds no search")
    sentence(tune("s.toml", "-o", "none", "--show"), "none holds no search yet")
    sentence(tune("s.toml", "-o", "full/mine.txt/x"), "could not be written")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    began = re.escape(str(tmp_path))
    result = tune("../s-trials", "--trials", 2)
    sentence(result, "run the command there")
    assert re.search(rf"began in the folder {began},", result.stderr)
    assert tune("../s-trials", "--show").exit_code == 0


def test_without_optuna(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setitem(sys.modules, "optuna.storages.journal", None)
    sentence(command(), "needs Optuna, version 4 or later", "pip install 'specinn[tune]'")
    assert not Path("s-trials").exists()


@pytest.mark.slow
def test_a_line_that_a_killed_process_left_unfinished_is_removed(tune):
    assert tune("s.toml", "--trials", 2, text=SHORT).exit_code == 0
    with Path("s-trials/journal.log").open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    assert tune("s-trials", "--show").exit_code == 0
    assert tune("s.toml", "--trials", 4, text=SHORT).exit_code == 0
    assert len(rows()) == 4
    for line in Path("s-trials/journal.log").read_text().splitlines():
        json.loads(line)


# Claims ------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from specinn.parallel.locks import Claims, Lock
held = Claims(Path("c")).take(7) if sys.argv[1] == "claim" else Lock(Path("l")).acquire()
print("held" if held else "not held", flush=True)
time.sleep(100)
"""


def holder(what: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, what], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_claim_ends_with_its_process():
    claims = Claims(Path("c"))
    with holder("claim") as process:
        assert claims.take(7) is None
        eight = claims.take(8)
        assert eight is not None
        with eight:
            assert Claims(Path("c")).take(8) is None
        assert Claims(Path("c")).take(8) is not None
        process.kill()
    claim = claims.take(7)
    assert claim is not None and claim.held and claim.path.name == "0007.2"
    claim.release()
    assert not list(Path("c").glob("0007.*"))


def test_a_claim_of_another_machine_ends_with_its_signs_of_life(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(locks, "machine", lambda: "another")
        theirs = Claims(Path("c")).take(3)
    assert theirs is not None
    os.utime(theirs.path, times=(time.time() - locks.STALE + 30,) * 2)
    claims = Claims(Path("c"))
    assert claims.take(3) is None
    os.utime(theirs.path, times=(time.time() - locks.STALE - 1,) * 2)
    monkeypatch.setattr(locks, "BEAT", 0.01)
    claim = claims.take(3)
    assert claim is not None and claim.held and not theirs.held
    os.utime(claim.path, times=(0, 0))
    with claim:
        wait_until(lambda: claim.path.stat().st_mtime > 0)  # it is touched
        theirs.release()
        assert claim.path.exists() and claim.held
    assert not list(Path("c").glob("0003.*"))


@pytest.mark.slow
def test_a_claim_is_taken_by_one_of_many():
    Claims(Path("c"))
    code = "import sys; from pathlib import Path; from specinn.parallel.locks import Claims\n" + (
        "taken = [Claims(Path('c')).take(n) for n in range(200)]\n"
        "print(sum(t is not None for t in taken), flush=True); sys.stdin.read()"
    )
    common = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    many = [subprocess.Popen([sys.executable, "-c", code], **common) for _ in range(3)]  # type: ignore[call-overload]
    assert sum(int(process.stdout.readline()) for process in many) == 200
    for process in many:
        process.communicate("")


def test_a_lock_ends_with_its_process_and_waits_for_other_machines(monkeypatch):
    with holder("lock") as process:
        process.kill()
    began = time.monotonic()
    with Lock(Path("l")):
        assert time.monotonic() - began < 5  # and not when it is stale
    os.symlink("another machine", "l.owner")
    monkeypatch.setattr(locks, "_LOCK_STALE", 0.3)
    began = time.monotonic()
    with Lock(Path("l")):
        assert 0.3 <= time.monotonic() - began < 20
        assert os.readlink("l.owner") == locks.machine()
    assert not Path("l.owner").is_symlink()


# Processes ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_again_and_again(start, tune):
    """kill -9, each time a little later; what is found is complete, and no trial is lost or begun anew."""
    rng = random.Random(1)
    kills = 0
    while True:
        process = start("--trials", 8, BOWL_PAUSE=0.01)
        seen = len(attempts())
        wait_until(lambda seen=seen, p=process: p.poll() is not None or len(attempts()) > seen)
        if process.poll() is None and kills < 3:
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
            kills += 1
        errors = process.communicate()[1]
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors
    assert kills >= 2
    table = rows()
    assert sorted(table["trial"]) == list(range(8))
    assert set(table["state"]) <= {"complete", "stopped"}
    for name in {name for name, _, _ in attempts()}:
        steps = [step for other, step, _ in attempts() if other == name]
        assert steps == sorted(steps)  # a later attempt begins where the checkpoint is
    assert any(step > 0 for _, step, _ in attempts())
    assert not list(Path("s-trials").glob("trial-*/*.partial*"))
    again = tune("s.toml", "-o", "undisturbed", "--trials", 8, "--quiet", text=SHORT)
    assert again.exit_code == 0
    drawn = dict(zip(rows("undisturbed")["trial"], rows("undisturbed")["x"], strict=True))
    assert all(drawn[row["trial"]] == row["x"] for row in table)


@pytest.mark.slow
def test_two_processes_and_another_command_share_a_search(start):
    both = [start("--trials", 12, "--processes", 2, BOWL_PAUSE=0.05), start("--trials", 12, BOWL_PAUSE=0.05)]
    for process in both:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
    table = rows()
    assert sorted(table["trial"]) == list(range(12)) and set(table["state"]) <= {"complete", "stopped"}
    begun = attempts()
    assert sorted(name for name, _, _ in begun) == [f"trial-{n:04d}" for n in range(12)]  # each by one
    assert len({process for _, _, process in begun}) == 3
    assert "12 trials: " in output or "running" in output
    assert len(set(table["x"])) == 12


def living(processes: set[int]) -> set[int]:
    out = set()
    for process in processes:
        stat = Path(f"/proc/{process}/stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
            out.add(process)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_all_processes_stop_with_the_command(start, how):
    process = start("--processes", 2, BOWL_PAUSE=0.3)
    wait_until(lambda: len({p for _, _, p in attempts()}) == 2)
    children = {p for _, _, p in attempts()}
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as the terminal does
    else:
        process.send_signal(how)
    output, errors = process.communicate(timeout=30)
    wait_until(lambda: not living(children), 10)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    assert "Traceback" not in errors
    if how == signal.SIGINT:
        assert "stopped; the same command resumes" in errors and "2 running" in output
        assert list(rows()["state"]) == ["running"] * 2


@pytest.mark.slow
def test_a_trial_that_kills_its_processes_fails(start):
    process = start("--processes", 2, "--trials", 4, BOWL_DEADLY=0.4)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    table = rows()
    deadly = table[table["x"] > 0.4]
    assert len(table) == 4 and list(deadly["trial"]) == [2]
    for row in deadly:
        assert row["state"] == "failed" and row["message"].startswith("3 processes died of it"), row
        # or once more: the other process may take it up before the third death is known
        assert sum(name == f"trial-{row['trial']:04d}" for name, _, _ in attempts()) in (3, 4)
    assert set(table["state"][table["x"] <= 0.4]) <= {"complete", "stopped"}


@pytest.mark.slow
def test_processes_tell_what_is_wrong(start):
    process = start("--processes", 2, text=SHORT.replace("x = 0.5", "x = 0.5\nblocks = 7"))
    _, errors = process.communicate(timeout=60)
    last = errors.splitlines()[-1]
    assert process.returncode == 1 and last.startswith(
        "specinn: the first 8 trials of this process all failed"
    )


# The cINN ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_cinn_is_tuned(optuna, tmp_path, monkeypatch, quick):
    import specinn_cinn
    from specinn_cinn.estimator import CINN
    from specinn_emulator.training import train

    tiny_grid.make_grid(80).save(tmp_path / "grid.h5")
    network = {"components": 8, "width": 16, "depth": 1, "members": 1}
    config = {"grid": ["grid.h5"], "network": network, "training": {"epochs": 10, "learning_rate": 5e-3}}
    train(config, tmp_path / "e").save(tmp_path / "emulator.safetensors")
    plugins = tiny_grid.plugins(tmp_path, cinn=specinn_cinn)
    monkeypatch.setattr("specinn_cinn.setup.Plugins", lambda: plugins)
    Path("s.toml").write_text("""
        trials = 2
        [budget]
        steps = 6
        first = 2
        [estimator]
        kind = "cinn"
        name = "tiny"
        instrument = "tiny"
        arms = ["green"]
        grid = ["grid.h5"]
        emulator = "emulator.safetensors"
        labels = ["teff", "vbroad"]
        [estimator.architecture]
        projection = 0
        gaussian = false
        blocks = 1
        width = 8
        [estimator.schedule]
        steps = 6
        validate_every = 2
        batch = 16
        [estimator.ood]
        signs = 0
        [vary]
        architecture.features = { choice = [[8], [12, 6]] }
        schedule.learning_rate = { float = [1e-4, 1e-2], log = true }
        schedule.backward = { float = [0.0, 2.0] }
    """)
    result = CliRunner().invoke(app, ["tune", "s.toml"], obj=plugins)
    assert result.exit_code == 0, result.output
    table = rows()
    assert len(table) == 2 and set(table["state"]) <= {"complete", "stopped"}
    first = table[0]
    assert first["state"] == "complete" and first["step"] == 6
    kept = Path(f"s-trials/trial-{first['trial']:04d}")
    model = CINN.load(kept / "model.safetensors")
    assert list(model.architecture.features) == json.loads(first["architecture.features"])
    plan = model.header["training"]["schedule"]
    assert (
        plan["learning_rate"] == first["schedule.learning_rate"]
        and plan["backward"] == first["schedule.backward"]
    )
    assert model.header["training"]["validation_loss"] == pytest.approx(first["validation"])
    done = CliRunner().invoke(
        app,
        ["train", "s-trials/best.toml", "--folder", str(kept), "-o", "m.safetensors", "--quiet"],
        obj=plugins,
    )
    assert done.exit_code == 0, done.output  # the checkpoint is one of this very recipe
    again = CINN.load(Path("m.safetensors"))
    assert all(bool((v == again.flow.state_dict()[k]).all()) for k, v in model.flow.state_dict().items())
