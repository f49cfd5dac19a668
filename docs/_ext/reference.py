"""The parts of the reference that autodoc cannot make, from the code: a comment ``<!-- reference: NAME -->``
in a page becomes what NAME returns.

All functions return Markdown (MyST). Tests call them without Sphinx.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import typer
from layouts import layouts
from settings import settings

from specinn.catalogue import schema
from specinn.catalogue.schema import Field
from specinn.cli import app
from specinn.flags import FLAGS
from specinn.instruments import Instrument
from specinn.labels import LabelSet, make_label, with_derived_labels
from specinn.models import find
from specinn.plugins import Plugins

ROOT = Path(__file__).resolve().parents[2]


def plain(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return re.sub(r"([\\`*_<>\[\]$|])", r"\\\1", text)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def command_tree(above: Any = None, name: str = "specinn", command: Any = None) -> Iterator[Any]:
    """The contexts of every group and command."""
    command = typer.main.get_command(app) if command is None else command
    context = typer.Context(command, info_name=name, parent=above, **command.context_settings)
    yield context
    for word, below in getattr(command, "commands", {}).items():
        yield from command_tree(context, word, below)


def commands() -> str:
    """Usage, arguments and options of every command, as ``--help`` has them."""
    return "\n\n".join(_command(context) for context in command_tree() if not context.command.hidden)


def path_of(context: Any) -> str:
    """The words of a command, without the arguments of those above it."""
    return f"{path_of(context.parent)} {context.info_name}" if context.parent else str(context.info_name)


def _command(context: Any) -> str:
    command, path = context.command, path_of(context)
    parts = [f"{'#' * (1 + len(path.split()))} {path}", *_paragraphs(command.help)]
    parts.append(f"```text\n{' '.join([path, *command.collect_usage_pieces(context)])}\n```")
    if below := getattr(command, "commands", None):
        links = [f"* [{path} {name}](#{f'{path} {name}'.replace(' ', '-')})" for name in below]
        parts.append("\n".join(links))
    parts.append(f"```{{program}} {path}\n```")
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None:  # hidden
            continue
        name, text = record
        if parameter.param_type_name == "argument":
            parts.append(f"`{name}`\n: {plain(text)}")
        else:
            # Sphinx separates names by commas only
            parts.append(f"```{{option}} {name.replace(' / ', ', ')}\n{plain(text)}\n```")
    if command.epilog:
        parts.append(f"Examples:\n\n```sh\n{command.epilog}\n```")
    return "\n\n".join(parts)


def _paragraphs(text: str | None) -> list[str]:
    return [plain(paragraph) for paragraph in re.split(r"\n\s*\n", (text or "").strip()) if paragraph]


def flags() -> str:
    rows = [
        (str(int(info.flag)), f"`{str(info.flag.name).lower()}`", info.severity, plain(info.meaning))
        for info in FLAGS
    ]
    return table(("bit", "name", "severity", "meaning"), rows)


def columns() -> str:
    """Every column of a catalogue; those of a label and of an arm once for all."""
    labels = LabelSet((make_label("vbroad", (0.5, 100.0)),))
    what = labels["vbroad"].description

    def row(field: Field) -> tuple[str, ...]:
        of_label = field.name.startswith("vbroad")
        text = field.description.replace(what, "the label") if of_label else field.description
        text = text[0].upper() + text[1:]
        unit = "of the label" if of_label else field.unit
        name = re.sub("^vbroad", "<label>", field.name)
        return f"`{name}`", field.dtype.__name__, unit, plain(text)

    fields = schema(labels, ["<arm>"], corrected=True, informed=True, lithium=True, checks=["arms", "model"])
    return table(("column", "type", "unit", "meaning"), [row(field) for field in fields])


def labels() -> str:
    """The labels of the bundled model, and the derived ones."""
    model = find(shipped(), None)
    derived = with_derived_labels(LabelSet.from_dicts(model.labels))
    rows = [
        (
            f"`{label.name}`",
            label.unit,
            plain(label.description),
            label.transform,
            f"{label.bounds[0]:.4g} to {label.bounds[1]:.4g}",
        )
        for label in derived
    ]
    return table(("label", "unit", "meaning", "learnt as", f"bounds of {model.name}"), rows)


def shipped() -> Plugins:
    """The plugins that pyproject.toml declares, whatever else is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = project["entry-points"]["specinn"].items()
    return Plugins([EntryPoint(name, value, "specinn") for name, value in points])


def offers() -> str:
    """What the shipped plugins offer, by kind."""
    kinds: dict[str, list[tuple[str, ...]]] = {}
    for offer in shipped().offers():
        where = getattr(offer.record, "factory", "").partition(":")[0]
        source = f"`{where}`" if where else f"`{Path(offer.record.toml).name}`"
        kinds.setdefault(offer.kind, []).append(
            (f"`{offer.record.name}`", plain(offer.record.summary), source)
        )
    return "\n\n".join(
        f"## {kind.capitalize()}s\n\n{table(('name', 'what it is', 'where'), rows)}"
        for kind, rows in kinds.items()
    )


def instruments() -> str:
    """The arms of the instruments that ship."""
    rows = []
    for offer in shipped().offers("instrument"):
        instrument = Instrument.from_toml(offer.record.toml)
        for arm in instrument.arms:
            pixels = str(arm.pixels.n) if arm.pixels else ""
            span = f"{arm.range[0]:g} to {arm.range[1]:g}"
            name, medium = f"`{instrument.name}`", instrument.medium
            rows.append((name, arm.name, span, medium, str(arm.resolving_power), pixels))
    return table(("instrument", "arm", "range (Angstrom)", "medium", "resolving power", "pixels"), rows)


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part for part in (commands, flags, columns, labels, offers, instruments, settings, layouts)
}


def fill(text: str) -> str:
    """A page with its marks replaced."""
    return re.sub(r"<!-- reference: (\w+) -->", lambda found: PARTS[found[1]](), text)


def setup(sphinx: Any) -> dict[str, bool]:
    def read(_app: Any, _page: str, source: list[str]) -> None:
        source[0] = fill(source[0])

    def outdated(_app: Any, env: Any, *_changed: Any) -> set[str]:
        return {page for page in env.found_docs if page.startswith("reference/")}  # the code may have changed

    def signature(_app: Any, *said: Any) -> tuple[str, str] | None:
        *_, arguments, returned = said  # attrs says NOTHING of a default that is made anew for each object
        return arguments and (arguments.replace("=NOTHING", "=..."), returned)

    sphinx.connect("env-get-outdated", outdated)
    sphinx.connect("source-read", read)
    sphinx.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True}
