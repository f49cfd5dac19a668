"""Every name that scripts and plugins may use is documented: parameters, shapes, units and errors.

The names are those of ``specinn.__all__``, ``specinn.plugins.interfaces``, ``specinn.plugins.hookspecs`` and
``specinn.testing``, and what docs/plugins.md says that plugins may use of the core.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import attrs
import numpy as np
import pytest

import specinn
from specinn import errors

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "plugins.md"
ELSEWHERE = {"cli", "plugins", "testing"}  # commands, and what a package exports and not its modules
ARRAY = re.compile(r"ndarray|Tensor")
SHAPE = re.compile(
    r"\((?:\d|n\w*|d|\.\.\.)(?:, (?:\d|n\w*|d|\.\.\.))*,?\)|of any shape|0 or 1|one number|a spectrum"
)
UNITS = {
    "wavelength": r"Angstrom|ln\(lambda\)",
    "vacuum": "Angstrom",
    "air": "Angstrom",
    "velocity": "km/s",
    "vbroad": "km/s",
    "teff": r"\bK\b",
    "snr": "per Angstrom",
    "snr_windows": "per Angstrom",
}  # what a docstring must say of an argument or a field of this name
RAISED = {name for name, each in vars(errors).items() if inspect.isclass(each)}


class Name(NamedTuple):
    """A function, class or field by its path, with all that is said of it: its docstring and its class's."""

    path: str
    value: Any
    text: str


def is_module(path: str) -> bool:
    """Whether it is the path of a module, not of a name in one."""
    package = path.rpartition(".")[0]
    return hasattr(importlib.import_module(package), "__path__") and bool(importlib.util.find_spec(path))


def promised() -> Iterator[tuple[str, str]]:
    """Module and name of everything that is public; the name is "" for all names of the module."""
    for name in specinn.__all__:
        value = getattr(specinn, name)
        if not name.startswith("__"):
            yield value.__module__, value.__name__
    yield "specinn.plugins.interfaces", ""
    yield "specinn.plugins.hookspecs", ""
    for name in importlib.import_module("specinn.testing").__all__:
        yield "specinn.testing", name
    page = PAGE.read_text(encoding="utf-8")
    (paragraph,) = re.findall(r"What plugins may use of the core(.*?)\n\n", page, flags=re.DOTALL)
    for path, inside in re.findall(r"`(specinn\.[\w.]+)`(?:\s\(([^)]*)\))?", paragraph):
        module, _, name = path.rpartition(".")
        if is_module(path):
            module, name = path, ""
        for each in [name] if name else re.findall(r"`(\w+)`", inside) or [""]:
            value = getattr(importlib.import_module(module), each) if each else None
            yield getattr(value, "__module__", module), each


def public() -> dict[str, Name]:
    """Every public function and class, with the public methods and properties of the classes."""
    out: dict[str, Name] = {}
    for module_name, wanted in promised():
        module = importlib.import_module(module_name)
        defined = {k: v for k, v in vars(module).items() if getattr(v, "__module__", None) == module_name}
        for name in [wanted] if wanted else [k for k in defined if not k.startswith("_")]:
            value = getattr(module, name)
            if not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            path = f"{module_name}.{name}"
            out[path] = Name(path, value, inspect.getdoc(value) or "")
            if inspect.isclass(value):
                out |= {each.path: each for each in members(path, value)}
    return out


def members(path: str, cls: type) -> Iterator[Name]:
    about = cls.__doc__ or ""
    for name, value in vars(cls).items():
        if isinstance(value, (classmethod, staticmethod)):
            value = value.__func__
        value = getattr(value, "fget", None) or getattr(value, "func", None) or value  # of a property
        inherited = any(hasattr(base, name) for base in cls.__mro__[1:] if base is not object)
        if isinstance(value, FunctionType) and not name.startswith("_") and not inherited:
            docstring = inspect.getdoc(value) or ""
            yield Name(f"{path}.{name}", value, f"{docstring}\n{about}" if docstring else "")
        elif name == "__call__" and isinstance(value, FunctionType):
            yield Name(f"{path}.{name}", value, f"{inspect.getdoc(value) or ''}\n{about}")


NAMES = public()
TYPES = {each.value.__name__ for each in NAMES.values() if inspect.isclass(each.value)} | {
    "Path",
    "str",
    "None",
}


def says_it_all(annotation: str) -> bool:
    """A type of which no more needs to be said: a class of specinn, or a path."""
    words = set(re.findall(r"\w+", annotation))
    return bool(words) and words <= TYPES and words != {"str"}


def parameters(function: FunctionType) -> list[inspect.Parameter]:
    every = inspect.signature(function).parameters.values()
    return [p for p in every if p.name not in ("self", "cls") and not p.name.startswith("_")]


def named(name: str, text: str) -> bool:
    """A parameter or field in the text, by its name or as words of a sentence."""
    plain = name.replace("_", "[_ ]")
    return re.search(rf"\b{plain}s?\b", text, flags=re.IGNORECASE) is not None


def raised(source: Any) -> set[str]:
    """The errors of specinn that the source raises itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(source)))
    calls = [n.exc for n in ast.walk(tree) if isinstance(n, ast.Raise)]
    heads = [c.func if isinstance(c, ast.Call) else c for c in calls]
    return {getattr(h, "id", None) or getattr(h, "attr", "") for h in heads} & RAISED


def lacks(name: Name) -> Iterator[str]:
    """What the docstrings do not say."""
    value, text = name.value, name.text
    if not text.strip():
        yield "a docstring"
        return
    if inspect.isclass(value):
        fields = attrs.fields(value) if attrs.has(value) else ()
        annotations = {f.name: str(f.type) for f in fields if not f.name.startswith("_")}
        results = [kind for kind in annotations.values() if ARRAY.search(kind)]
        checks = [f.validator for f in fields if isinstance(f.validator, FunctionType)]
        checks += [vars(value)[k] for k in ("__attrs_post_init__",) if k in vars(value)]
        if "__init__" in vars(value) and not attrs.has(value):
            checks.append(vars(value)["__init__"])
            annotations = {p.name: str(p.annotation) for p in parameters(vars(value)["__init__"])}
        text += "\n".join(base.__doc__ or "" for base in value.__mro__[1:] if attrs.has(base))
        if text.startswith(f"{value.__name__}("):
            yield "a docstring of its own"
    else:
        annotations = {p.name: str(p.annotation) for p in parameters(value)}
        results = [str(inspect.signature(value).return_annotation), *annotations.values()]
        checks = [value]
    for each, kind in annotations.items():
        if not says_it_all(kind) and not named(each, text):
            yield f"what {each} is"
    if any(ARRAY.search(kind) for kind in results) and not SHAPE.search(text):
        yield "shapes"
    for each in (name for name in UNITS if name in annotations or name == value.__name__):
        if not re.search(UNITS[each], text):
            yield f"the unit of {each}"
    for error in sorted({each for check in checks for each in raised(check)}):
        if error not in text:
            yield f"that it raises {error}"


def test_what_is_public() -> None:
    functions = [each for each in NAMES.values() if isinstance(each.value, FunctionType)]
    assert len(functions) > 100 and len(NAMES) - len(functions) > 30
    for path in (
        "specinn.api.infer",
        "specinn.simulation.observer.Observer.__call__",
        "specinn.weights.save_weights",
    ):
        assert path in NAMES, path


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_docstring(name: Name) -> None:
    assert list(lacks(name)) == []


def test_what_a_poor_docstring_lacks() -> None:
    def poor(wavelength: np.ndarray, snr: float) -> np.ndarray:
        """The flux at a wavelength."""
        raise errors.ConfigError("never")

    assert list(lacks(Name("poor", poor, poor.__doc__))) == [
        "what snr is",
        "shapes",
        "the unit of wavelength",
        "the unit of snr",
        "that it raises ConfigError",
    ]


# Exports


def modules() -> dict[str, ast.Module]:
    """The public modules of the core by their path."""
    paths = [path.relative_to(ROOT / "specinn") for path in (ROOT / "specinn").rglob("*.py")]
    public = [path for path in paths if not path.name.startswith("_") and path.parts[0] not in ELSEWHERE]
    return {str(path): ast.parse((ROOT / "specinn" / path).read_text(encoding="utf-8")) for path in public}


def exports(tree: ast.Module) -> list[str] | None:
    """``__all__``, which is the first statement after the imports; None where it is not."""
    for node in tree.body[1:]:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
        if not isinstance(node, (ast.Import, ast.ImportFrom, ast.If)):
            break
    return None


def definitions(tree: ast.Module) -> set[str]:
    """The functions, classes and constants of a module whose names have no underscore; not its logger."""
    out: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            out.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            out |= {name.id for each in targets for name in ast.walk(each) if isinstance(name, ast.Name)}
    return {name for name in out if not name.startswith("_")} - {"log"}


MODULES = modules()


@pytest.mark.parametrize("path", sorted(MODULES))
def test_public_names_are_the_exports(path: str) -> None:
    names = exports(MODULES[path])
    assert names is not None, "__all__ is missing after the imports"
    assert set(names) == definitions(MODULES[path]) and len(names) == len(set(names))


def test_exports_that_are_wrong_are_noticed() -> None:
    tree = ast.parse('"""."""\nimport math\n__all__ = ["a", "b"]\n\nA, _c = 1, 2\ndef a(): ...\n')
    assert exports(tree) == ["a", "b"] and definitions(tree) == {"A", "a"}
    assert exports(ast.parse('"""."""\na = 1\n__all__ = ["a"]\n')) is None
    assert len(MODULES) > 80
