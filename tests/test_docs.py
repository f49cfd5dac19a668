"""The documentation names every hook, record, public name, flag, label, column and TOML key."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import attrs
import pytest
from pages import FILES, PAGES, ROOT, layouts, reference, settings

from specinn import testing
from specinn.flags import FLAGS
from specinn.labels import _FIXED
from specinn.plugins import hookspecs, interfaces

README = FILES["README.md"]


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
    assert f"`specinn.plugins.interfaces.{interface.__name__}`" in text
    for name in interface.__abstractmethods__:
        assert f"`{name}({arguments(getattr(interface, name))})`" in text
    for name in getattr(interface, "__annotations__", {}):
        assert re.search(rf"`{name}[ `]", text), name


CHECKS = [value for name, value in vars(testing).items() if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract_checks(check):
    assert f"`{check.__name__}(" in PAGES["plugins.md"]


def test_rules_point_to_sections_that_exist():
    sources = [page.read_text(encoding="utf-8") for page in Path(testing.__file__).parent.glob("*.py")]
    named = {name for source in sources for name in re.findall(r'section\("([\w-]+)"\)', source)}
    assert len(named) == 9
    assert named <= anchors(PAGES["plugins.md"])


# names that plugins and scripts use -------------------------------------------------------------------


def public():
    """The objects that the pages of the reference show, with their names."""
    for page in ("hooks", "interfaces", "testing", "python", "core"):
        text = reference.fill(FILES[f"docs/reference/{page}.md"])
        for kind, name in re.findall(r"\.\. auto(module|class|function):: (\S+)", text):
            if kind == "module":
                module = importlib.import_module(name)
                names = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
                exports = [getattr(module, each) for each in names]
                defined = [each for each in exports if getattr(each, "__module__", "").startswith(name)]
                assert defined, name
            else:
                module, _, each = name.rpartition(".")
                defined = [getattr(importlib.import_module(module), each)]
            for each in defined:
                if inspect.isfunction(each) or inspect.isclass(each):
                    yield f"{each.__module__}.{each.__qualname__}", each


PUBLIC = dict(public())


def test_what_the_python_reference_shows():
    import specinn

    shown = {name.rpartition(".")[2] for name in PUBLIC}
    assert {name for name in specinn.__all__ if not name.startswith("__")} <= shown
    assert {value.__name__ for value in (*HOOKS, *INTERFACES, *CHECKS)} <= shown
    (sentence,) = re.findall(
        r"What plugins may use of the core, besides.*?\n\n", PAGES["plugins.md"], flags=re.DOTALL
    )
    mentioned = set(re.findall(r"`(specinn(?:\.\w+)+)", sentence))
    assert len(mentioned) > 10
    for path in mentioned:
        result = pkgutil.resolve_name(path)
        path = path if inspect.ismodule(result) else f"{result.__module__}.{result.__qualname__}"
        assert any(name == path or name.startswith(f"{path}.") for name in PUBLIC), path


def sections(text):
    """The sections of a docstring (a word, underlined), with the first lines of their entries."""
    head, *rest = re.split(r"^(\w+)\n-{3,}$", text, flags=re.MULTILINE)
    entries = [re.findall(r"^(?=\S).+", body, flags=re.MULTILINE) for body in rest[1::2]]
    return head, dict(zip(rest[::2], entries, strict=True))


@pytest.mark.parametrize(("name", "found"), PUBLIC.items(), ids=PUBLIC)
def test_sections_of_docstrings_are_those_of_numpydoc(name, found):
    """Napoleon shows a section that it does not know as a heading, and ``name : meaning`` as a type."""
    docs = [inspect.getdoc(found) or ""]
    if inspect.isclass(found):
        docs += [inspect.getdoc(value) or "" for key, value in vars(found).items() if not key.startswith("_")]
    for text in docs:
        _, parts = sections(text)
        assert set(parts) <= {"Attributes", "Parameters", "Returns", "Yields", "Raises", "Examples"}, name
        for heading in ("Attributes", "Parameters"):
            for entry in parts.get(heading, ()):
                assert re.match(r"\*{0,2}\w+(, \w+)*( : .+)?$", entry), f"{name}: {entry}"
        if inspect.isfunction(found) and "Parameters" in parts and text == docs[0]:
            heads = [line.split(" : ")[0].split(", ") for line in parts["Parameters"]]
            said = {each.strip("*") for head in heads for each in head}
            assert said == set(inspect.signature(found).parameters), name


def test_what_a_tutorial_prints_is_joined():
    nodes = pytest.importorskip("docutils.nodes")
    import outputs

    def block(text, *classes):
        return nodes.literal_block(text, text, classes=["output", *classes], language="myst-ansi")

    pieces = [
        block("one li", "stream"),
        block("error", "stderr"),
        block("ne\x1b[1m, bo\x1b[0mld\n", "stream"),
    ]
    cell = nodes.container("", *pieces, block("3", "text_plain"))
    outputs.join(cell)
    assert [each.astext() for each in cell] == ["one line, bold\n", "error", "3"]
    assert all(each.rawsource == each.astext() for each in cell)


# flags, columns, files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("info", FLAGS, ids=lambda info: info.flag.name)
def test_flags(info):
    row = f"| {int(info.flag)} | `{info.flag.name.lower()}` | {info.severity} | {info.meaning} |"
    assert row in PAGES["catalogue.md"]


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
    informed = schema(LabelSet((make_label("teff", (4000, 7000)),)), [], informed=True)
    for name in ("teff_informed", "teff_informed_median", "teff_informed_std", "prior", "n_effective"):
        assert name in [field.name for field in informed]
        assert f"`{name.replace('teff_', '<label>_')}`" in text, name
    columns = reference.columns()
    for field in schema(LabelSet((make_label("mg_fe", (-1, 1)),)), ["red"], corrected=True):
        name = field.name.replace("_red", "_<arm>").replace("mg_fe", "<label>")
        assert f"| `{name}` | {field.dtype.__name__} |" in columns, name
    assert reference.flags().count("\n") == len(FLAGS) + 1
    assert all(f"`{name}`" in reference.labels() for name in (*_FIXED, "li_fe"))


def test_every_toml_key_is_in_the_reference():
    text = reference.settings()  # a key without a meaning in the guide is a KeyError
    for file in settings.FILES:
        rows = settings.rows(file.guide, file.heading)
        for _, path, cls in settings.tables(file):
            for name, field in settings.keys(cls):
                key = f"{path}.{name}" if path else name
                assert key in file.inner or f"| `{name}` | " in text
                cells = rows.get(key) or rows.get(name)
                if cells is not None and re.fullmatch("`.*`", cells[0]) and len(cells) > 1 and not file.inner:
                    assert cells[0] == settings.default(field), f"{file.guide}: {key}"


def test_every_class_that_is_read_from_toml_is_in_the_reference():
    inner = {"Disturbances", "_Sizes", "_Table", "cls"}  # of a model's header; of tables that are listed
    listed = {file.cls.rpartition(":")[2] for file in settings.FILES} | inner
    result = set()
    for folder in ("specinn", "plugins", "instruments"):
        for path in (ROOT / folder).rglob("*.py"):
            if "skeleton" in path.parts:
                continue
            text = path.read_text(encoding="utf-8")
            for call in re.findall(r"(?<!def )(?<![.\w])structure\((.*)\)", text):
                cls = re.search(r", (\w+), ", call)[1]
                result.add(cls)
                assert cls in listed, f"{path}: {cls} is not in docs/_ext/settings.py"
    assert len(result) > 6


def test_layouts_of_files(tmp_path):
    text = layouts.hdf5(layouts.write_grid(tmp_path))
    for name in ("attribute format = specinn grid", "segments/green/flux (3, 5) uint16", "ids (3,) text"):
        assert name in text
    for path in ("values", "ids", "provenance", "segments/<arm>/flux", "segments/<arm>/wavelength"):
        assert path.replace("<arm>", "green") in text and f"`{path}" in PAGES["files.md"]


def test_everything_that_the_plugins_offer():
    plugins = reference.shipped()
    assert not plugins.failures, plugins.failures[0].details
    text = "\n".join(PAGES.values()) + README
    missing = [(o.kind, o.record.name) for o in plugins.offers() if f"`{o.record.name}`" not in text]
    assert missing == []
    readers = [offer.record.name for offer in plugins.offers("reader")]
    assert [name for name in readers if f"| `{name}` |" not in PAGES["files.md"]] == []


@pytest.mark.parametrize("name", [*FILES, "CONTRIBUTING.md"])
def test_links_lead_somewhere(name):
    page = ROOT / name
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


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_a_page_has_one_title(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert len(re.findall(r"^# ", text, flags=re.MULTILINE)) == 1
