"""Every command and option is in the reference, and the commands of the documentation are right, and run."""

import functools
import re
import shlex
from itertools import pairwise

import numpy as np
import pytest
import typer
from pages import FILES, PAGES, code, reference

from specinn.cli import main

UsageError = typer.BadParameter.__mro__[1]
SPAN = r"(?<!`)`(specinn [^`]+)`(?!`)"  # in a sentence
commands = functools.cache(reference.commands)
CONTEXTS = {reference.path_of(context): context for context in reference.command_tree()}
COMMANDS = {path: c for path, c in CONTEXTS.items() if not hasattr(c.command, "commands")}


def options_of(context):
    """The parameters of a command by the words that name them; ``--help`` of all of them."""
    parameters = context.command.get_params(context)
    return {word: p for p in parameters for word in (*p.opts, *p.secondary_opts) if word.startswith("-")}


def test_commands():
    assert len(COMMANDS) > 15
    assert [path for path in COMMANDS if f"| `{path}` |" not in PAGES["index.md"]] == []


@pytest.mark.parametrize("path", CONTEXTS)
def test_every_option_is_in_the_reference(path):
    context = CONTEXTS[path]
    assert context.command.help and not context.command.hidden
    result = re.search(rf"^```{{program}} {path}\n(.*?)(?=^#|\Z)", commands(), re.DOTALL | re.MULTILINE)
    names = set(re.findall(r"(?<=[ ,])--?[a-z][\w-]*", " ".join(re.findall(r"{option}(.*)", result[1]))))
    assert names == set(options_of(context))
    for parameter in context.command.params:
        assert re.search(r"\.(  \[default: .+\])?$", parameter.help or ""), parameter.name
        if parameter.param_type_name == "argument":
            assert reference.plain(parameter.help) in result[1]


def words_of(line):
    """The words after ``specinn`` of the commands in a line of a shell."""
    for part in re.split(r"&&|;|\||(?<!\S)&(?!\S)", re.sub(r"(?<!\S)#.*", "", line)):
        if re.match(r"\s*(?:[$!]\s*)?(?:\S*/)?specinn(?:\s|$)", part):
            words = shlex.split(part)
            words = words[words.index(next(w for w in words if w.endswith("specinn"))) + 1 :]
            ends = [i for i, word in enumerate(words) if re.match(r"\d?>|<", word)]
            yield words[: min(ends, default=len(words))]


def command_of(words):
    """The context of the command, and the words that follow its name."""
    path, rest = "specinn", list(words)
    while rest and rest[0].startswith("-") and rest[0] in options_of(CONTEXTS[path]):
        rest.pop(0)
    while rest and f"{path} {rest[0]}" in CONTEXTS:
        path = f"{path} {rest.pop(0)}"
    return CONTEXTS[path], rest


DOCUMENTED = [
    (file, words) for file, text in FILES.items() for line in code(text) for words in words_of(line)
] + [
    (path, words)
    for path, context in CONTEXTS.items()
    for line in (context.command.epilog or "").splitlines()
    for words in words_of(line)
]


NAMES = {
    "--instrument": "instrument",
    "-i": "instrument",
    "--format": "reader",
    "--loader": "grid loader",
    "--synthesizer": "synthesizer",
}  # options that take the name of something that ships


def check(words):
    """Parse a command as the shell would have it; nothing runs. Raises typer's errors."""
    context, rest = command_of(words)
    if not rest and words in (["--version"], ["--help"], []):
        return
    assert not hasattr(context.command, "commands"), f"no command {rest[:1]}"
    if not {"-h", "--help"} & set(rest):
        context.command.make_context(context.info_name, rest, parent=context.parent)


@pytest.mark.parametrize(
    ("where", "words"), DOCUMENTED, ids=[f"{where}: {' '.join(words)}"[:90] for where, words in DOCUMENTED]
)
def test_documented_commands_are_understood(where, words):
    try:
        check(words)
    except Exception as error:
        pytest.fail(f"{where}: specinn {' '.join(words)}: {type(error).__name__} {error}")
    if "tutorials" in where:  # they are run, and some have instruments of their own
        return
    for option, value in pairwise(words):
        if option in NAMES and not value.isupper():
            reference.shipped().record(NAMES[option], value)


@pytest.mark.parametrize(
    "line",
    [
        "specinn rum a.fits",
        "specinn run --instruments uves a.fits",
        "specinn grid mke GRID.toml -o GRID.h5",
        "specinn grid make GRID.toml GRID.h5 -o g.h5",
        "specinn train",
        "specinn run --samples many",
        "cd x && .venv/bin/specinn run --samples 1 > y",
        "!specinn models a b",
    ],
)
def test_a_wrong_command_is_noticed(line):
    (words,) = words_of(line)
    with pytest.raises((AssertionError, SystemExit, UsageError)):
        check(words)


def test_what_is_a_command():
    line = "$ specinn run a.fits -o b.fits 2> log  # as always && specinn flags; specinn-x"
    assert list(words_of("pip install specinn && ls specinn")) == []
    assert list(words_of(line)) == [["run", "a.fits", "-o", "b.fits"]]
    page = "```sh\nspecinn run \\\n  a.fits\n```\nspecinn is\n\n    specinn flags\n"
    assert [words for line in code(page) for words in words_of(line)] == [["run", "a.fits"], ["flags"]]


def test_commands_in_sentences():
    """Words and options of commands that stand in a sentence, where arguments may be left out."""
    count = 0
    for file, text in FILES.items():
        for span in re.findall(SPAN, text):
            words = span.split()[1:]
            if words[0].startswith("COMMAND"):
                continue
            context, rest = command_of(words)
            assert context.parent or words[0].startswith("--"), f"{file}: {span}"
            if hasattr(context.command, "commands"):
                assert rest in ([], ["COMMAND"], ["COMMAND", "--help"]), f"{file}: {span}"
            accepted = {**options_of(context), **options_of(CONTEXTS["specinn"])}
            unknown = [word for word in rest if word.startswith("-") and word not in accepted]
            assert not unknown, f"{file}: {span}"
            count += 1
    assert count > 60


def test_options_that_the_pages_mention_exist():
    accepted = {option for context in CONTEXTS.values() for option in options_of(context)}
    for name, text in {**PAGES, "README.md": FILES["README.md"]}.items():
        for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text):
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", span):
                assert option in accepted, f"{name}: {option}"


QUICK = ("instruments", "models", "flags", "plugins", "doctor", "new-plugin")


def quick():
    """Commands of the guides that take a second and no data: no word in capitals stands for something."""
    for file, text in FILES.items():
        spans = [span.split()[1:] for span in re.findall(SPAN, text)]
        for words in [*spans, *(words for line in code(text) for words in words_of(line))]:
            if "tutorials" not in file and words[0] in QUICK and not any(map(str.isupper, words)):
                yield tuple(words)


@pytest.mark.parametrize("words", sorted(set(quick())), ids=" ".join)
def test_documented_commands_run(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if words == ("new-plugin",):  # in a sentence, without its argument
        words = ("new-plugin", "specinn-example")
    with pytest.raises(SystemExit) as ended:
        main(list(words), plugins=reference.shipped())
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    assert out.strip() or words == ("plugins", "--failed")


@pytest.mark.slow
def test_five_minutes(tmp_path, monkeypatch, capsys):
    """The first command of the page, and all its Python, on a star of the examples for the reader's."""
    from astropy import units as u
    from astropy.nddata import StdDevUncertainty
    from specutils import Spectrum

    from specinn import catalogue, read

    page = PAGES["five-minutes.md"]
    first = next(words for line in code(page) for words in words_of(line))
    assert first[0] == "run" and first[-2] == "-o" and not any("*" in word for word in first)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*first, "--samples", "256"], plugins=reference.shipped())
    assert not ended.value.code and "ship" in capsys.readouterr().err
    stars = catalogue.read(first[-1])
    catalogue.write(stars, "stars.fits")
    from specinn.inference.run import example_files

    (batch, *_) = read(example_files()[0])
    wavelength, flux, sigma = batch.wavelength, batch.flux[0], batch.sigma[0]
    good = ~batch.mask[0]
    star = Spectrum(
        flux=flux[good] * u.Jy,
        spectral_axis=wavelength[good] * u.AA,
        uncertainty=StdDevUncertainty(sigma[good]),
    )
    star.write("star.fits", format="tabular-fits")
    python = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert len(python) == 3
    names = {"wavelength": wavelength, "flux": flux, "sigma": np.where(batch.mask[0], np.nan, sigma)}
    for block in python:
        exec(block, names)
    assert 0 < len(names["good"]) <= len(names["stars"])
    assert np.isfinite(names["result"].catalogue["teff"]).all()
    assert names["result"].posterior.samples.ndim == 3
