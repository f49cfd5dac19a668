"""The documentation names every hook, record, flag, command, label, and everything that the plugins offer."""

import inspect
import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import attrs
import pytest

from specinn import hookspecs, interfaces, testing
from specinn.flags import FLAGS
from specinn.labels import _FIXED
from specinn.plugins import Plugins

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {page.name: page.read_text(encoding="utf-8") for page in DOCS.glob("*.md")}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shipped():
    """The plugins that pyproject.toml declares, installed or not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = project["entry-points"]["specinn"].items()
    return Plugins([EntryPoint(name, value, "specinn") for name, value in points])


def anchors(text):
    """The anchors that GitHub gives to headings."""
    heads = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


def arguments(function):
    return ", ".join(name for name in inspect.signature(function).parameters if name not in ("self", "cls"))


HOOKS = [value for name, value in vars(hookspecs).items() if name.startswith("specinn_")]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_hooks_with_their_arguments(hook):
    assert f"`{hook.__name__}({arguments(hook)})`" in PAGES["plugins.md"]


@pytest.mark.parametrize(
    "record", [value for value in vars(hookspecs).values() if inspect.isclass(value) and attrs.has(value)]
)
def test_records_with_their_fields(record):
    assert f"| `{record.__name__}` |" in PAGES["plugins.md"]
    for field in attrs.fields(record):
        assert f"`{field.name}`" in PAGES["plugins.md"]


INTERFACES = [
    value
    for value in vars(interfaces).values()
    if inspect.isabstract(value) and value.__module__ == interfaces.__name__
]


@pytest.mark.parametrize("interface", INTERFACES)
def test_what_a_plugin_implements(interface):
    text = PAGES["plugins.md"]
    assert f"`specinn.interfaces.{interface.__name__}`" in text
    for name in interface.__abstractmethods__:
        assert f"`{name}({arguments(getattr(interface, name))})`" in text
    for name in getattr(interface, "__annotations__", {}):
        assert re.search(rf"`{name}[ `]", text), name


CHECKS = [value for name, value in vars(testing).items() if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract_checks(check):
    assert f"`{check.__name__}(" in PAGES["plugins.md"]


def test_rules_point_to_sections_that_exist():
    source = inspect.getsource(testing)
    named = set(re.findall(r'anchor = "([\w-]+)"', source))
    assert len(named) == 9
    assert named <= anchors(PAGES["plugins.md"])


@pytest.mark.parametrize("info", FLAGS, ids=lambda info: info.flag.name)
def test_flags(info):
    row = f"| {int(info.flag)} | `{info.flag.name.lower()}` | {info.severity} | {info.meaning} |"
    assert row in PAGES["catalogue.md"]


def commands(group, path="specinn"):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}"


def test_commands():
    import typer

    from specinn.cli import app

    found = list(commands(typer.main.get_command(app)))
    assert len(found) > 5
    assert [command for command in found if f"| `{command}` |" not in PAGES["index.md"]] == []


def test_options_that_the_pages_mention_exist():
    import typer

    from specinn.cli import app

    def options(group):
        for command in group.commands.values():
            yield from options(command) if hasattr(command, "commands") else ()
            for parameter in command.params:
                yield from (*parameter.opts, *parameter.secondary_opts)

    group = typer.main.get_command(app)
    known = {*options(group), *(o for p in group.params for o in p.opts), "--help", "--version"}
    for name, text in {**PAGES, "README.md": README}.items():
        for block in re.findall(r"`([^`]+)`", text):
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", block):
                assert option in known, f"{name}: {option}"


def test_labels():
    for name in _FIXED:
        assert f"| `{name}` |" in PAGES["catalogue.md"]
    for element in ("ca", "c", "mg", "mn", "n", "si", "ti", "li"):
        assert f"`{element}_fe`" in PAGES["catalogue.md"]


def test_columns_of_the_catalogue():
    from specinn.catalogue import schema
    from specinn.labels import LabelSet, make_label

    text = PAGES["catalogue.md"]
    fields = schema(LabelSet((make_label("teff", (4000, 7000)),)), ["green"], corrected=True)
    for field in fields:
        name = field.name.replace("_green", "_<arm>")
        name = name if name == "teff" else name.replace("teff_", "<label>_")
        assert f"`{name}`" in text, name


def test_everything_that_the_plugins_offer():
    plugins = shipped()
    assert not plugins.failures, plugins.failures[0].details
    text = "\n".join(PAGES.values()) + README
    missing = [(o.kind, o.record.name) for o in plugins.offers() if f"`{o.record.name}`" not in text]
    assert missing == []
    readers = [offer.record.name for offer in plugins.offers("reader")]
    assert [name for name in readers if f"| `{name}` |" not in PAGES["files.md"]] == []


@pytest.mark.parametrize("name", [*PAGES, "README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(name):
    page = DOCS / name if name in PAGES else ROOT / name
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked.read_text(encoding="utf-8")), target


def test_examples_of_files_are_right(tmp_path):
    """The TOML blocks of the pages are read by the code that they document."""
    from specinn_teff_bias.correction import TeffBias

    from specinn.instruments import Instrument

    def block(page, word):
        return next(b for b in re.findall(r"```toml\n(.*?)```", PAGES[page], flags=re.DOTALL) if word in b)

    (tmp_path / "a.toml").write_text(block("plugins.md", "[[arms]]"))
    assert testing.check_instrument(tmp_path / "a.toml") == Instrument.from_toml(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_text(block("files.md", "[labels.logg]"))
    assert TeffBias.load(tmp_path / "b.toml").n_stars == 84
