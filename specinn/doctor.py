"""What a specinn installation has, what it lacks, and how to get it."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs

from specinn import models
from specinn.models import Model
from specinn.plugins import Plugins

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["Finding", "State", "examine"]

State = Literal["ok", "missing", "broken"]
_OF_DEVELOPERS = ("test", "docs")  # extras for developers, not for users
_AGAIN = "install {} again"


@attrs.frozen
class Finding:
    """One thing that was checked; ``remedy`` is what to do where something is wrong ("" for nothing).

    ``missing`` is optional, ``broken`` needs fixing.
    """

    group: str
    name: str
    state: State
    detail: str
    remedy: str = ""


def examine(plugins: Plugins) -> list[Finding]:
    """Versions, device, plugins, models, write access and synthesis codes, in this order. Never raises: what
    cannot be checked is a finding."""
    out: list[Finding] = []
    for group, look in _GROUPS.items():
        try:
            out += look(plugins)
        except Exception as error:
            out.append(Finding(group, "", "broken", f"{type(error).__name__}: {error}", "please report it"))
    return out


def _versions(plugins: Plugins) -> list[Finding]:
    import specinn

    system = f"{platform.python_version()} on {platform.system()} {platform.machine()} ({sys.executable})"
    out = [
        Finding("versions", "specinn", "ok", f"{specinn.__version__} ({Path(specinn.__file__).parent})"),
        Finding("versions", "python", "ok", system),
    ]
    from packaging.requirements import Requirement

    try:
        stated = [Requirement(line) for line in metadata.requires("specinn") or ()]
    except metadata.PackageNotFoundError:
        remark = "only its source is there, so that the versions it needs are not known"
        return [*out, Finding("versions", "package specinn", "broken", remark, "pip install . in its folder")]
    out += [_library(needed, "") for needed in stated if needed.marker is None]
    extras = metadata.metadata("specinn").get_all("Provides-Extra") or ()
    for extra in (extra for extra in extras if extra not in _OF_DEVELOPERS):
        for needed in stated:
            if needed.marker is not None and needed.marker.evaluate({"extra": extra}):
                out.append(_library(needed, extra))
    return out


def _library(needed: Requirement, extra: str) -> Finding:
    """A library in the version that specinn asks for; that of an ``extra`` may be missing."""
    remedy = f'pip install "specinn[{extra}]"' if extra else f'pip install "{needed.name}{needed.specifier}"'
    try:
        version = metadata.version(needed.name)
    except metadata.PackageNotFoundError:
        state: State = "missing" if extra else "broken"
        return Finding("versions", needed.name, state, "not installed", remedy)
    if not needed.specifier.contains(version, prereleases=True):
        detail = f"{version}, but specinn needs {needed.specifier}"
        return Finding("versions", needed.name, "broken", detail, remedy)
    return Finding("versions", needed.name, "ok", version)


def _device(plugins: Plugins) -> list[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    out = [Finding("device", "cpu", "ok", f"{cores} cores for this process, {threads} threads of torch")]
    with warnings.catch_warnings(record=True) as said:  # a driver that is too old is a warning
        warnings.simplefilter("always")
        gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    for number in gpus:
        about = torch.cuda.get_device_properties(number)
        detail = f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
        try:
            torch.ones(1, device=f"cuda:{number}").add_(1).cpu()
            out.append(Finding("device", f"cuda:{number}", "ok", detail))
        except (RuntimeError, AssertionError) as error:  # the latter where torch has no CUDA
            detail += f": {str(error).splitlines()[0]}"
            out.append(Finding("device", f"cuda:{number}", "broken", detail, "run on --device cpu"))
    if not gpus:
        detail = "torch sees no GPU: everything runs on the CPU"
        if torch.version.cuda is None:
            detail = "this torch is built without GPU support: everything runs on the CPU"
        detail += "".join(f" ({str(warning.message).splitlines()[0]})" for warning in said[:1])
        out.append(Finding("device", "cuda", "missing", detail))
    return out


def _plugins(plugins: Plugins) -> list[Finding]:
    """Names by kind, and offers that cannot be loaded."""
    names: dict[str, list[str]] = {}
    broken = []
    for offer in plugins.offers():
        name = offer.record.name
        if name in names.setdefault(offer.kind, []):
            continue  # a name that is claimed twice
        names[offer.kind].append(name)
        try:
            if offer.kind == "instrument":
                from specinn.instruments import Instrument

                Instrument.from_toml(plugins.record(offer.kind, name).toml)
            else:
                plugins.load(offer.kind, name)
        except Exception as error:
            remedy = _AGAIN.format(offer.distribution)
            broken.append(Finding("plugins", f"{offer.kind} {name}", "broken", str(error), remedy))
    for failure in plugins.failures:
        what = f"of {failure.distribution} could not be loaded: {failure.reason}"
        broken.append(Finding("plugins", failure.plugin, "broken", what, "specinn plugins --failed"))
    if not names and not broken:
        remedy = "pip install --force-reinstall specinn"
        broken.append(Finding("plugins", "", "broken", "no plugin is installed", remedy))
    return [*(Finding("plugins", kind, "ok", ", ".join(of)) for kind, of in names.items()), *broken]


def _models(plugins: Plugins) -> list[Finding]:
    """Those that are installed, each loaded once."""
    out = []
    for offer in plugins.offers("estimator"):
        for name, path in sorted(offer.record.models.items()):
            try:
                model = Model(name, Path(path), models.read_header(path))
                models.load(plugins, model)
                about = f"{model.instrument}, {model.size / 1e6:.0f} MB, SHA-256 {model.sha256()[:12]}"
                out.append(Finding("models", name, "ok", about))
            except Exception as error:
                remedy = _AGAIN.format(offer.distribution)
                out.append(Finding("models", name, "broken", str(error), remedy))
    none = "no trained model is installed"
    return out or [Finding("models", "", "missing", none, "specinn train, or --model FILE.safetensors")]


def _writing(plugins: Plugins) -> list[Finding]:
    """The temporary folder is needed; caches (of astropy and matplotlib) save time; results go anywhere."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    while not cache.exists():  # it is made when it is needed
        cache = cache.parent
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError:  # it looks for one that can be written to
        temporary = Path(os.environ.get("TMPDIR", "/tmp"))
    folders: tuple[tuple[str, Path, State, str], ...] = (
        ("working folder", Path.cwd(), "missing", "work in another folder, or give one with --output"),
        ("temporary folder", temporary, "broken", "set TMPDIR to a folder of yours"),
        ("cache folder", cache, "missing", "set XDG_CACHE_HOME to a folder of yours"),
    )
    out = []
    for name, folder, state, remedy in folders:
        try:
            with tempfile.TemporaryFile(dir=folder):
                out.append(Finding("write access", name, "ok", str(folder)))
        except OSError as error:
            out.append(Finding("write access", name, state, f"{folder}: {error.strerror}", remedy))
    return out


def _synthesis(plugins: Plugins) -> list[Finding]:
    out = []
    for offer in plugins.offers("synthesizer"):
        factory = plugins.load("synthesizer", offer.record.name)
        parts = factory.components()
        for part in parts:
            state: State = "ok" if part.present else "missing"
            out.append(Finding("synthesis", part.name, state, part.detail, part.remedy))
        if not parts:
            out.append(Finding("synthesis", offer.record.name, "ok", "comes with its plugin"))
    return out


_GROUPS: dict[str, Callable[[Plugins], list[Finding]]] = {
    "versions": _versions, "device": _device, "plugins": _plugins, "models": _models,
    "write access": _writing, "synthesis": _synthesis,
}  # fmt: skip
