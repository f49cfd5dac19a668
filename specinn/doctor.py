"""What a specinn installation has, what it lacks, and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import attrs

from specinn import models
from specinn.plugins import Plugins

State = Literal["ok", "missing", "broken"]
_LIBRARIES = ("torch", "numpy", "scipy", "astropy", "specutils", "h5py", "safetensors")
_OPTIONAL = {"distributed": "cluster", "dask-jobqueue": "cluster", "optuna": "tune"}  # -> extra of specinn


@attrs.frozen
class Finding:
    """One thing that was looked at; ``remedy`` is what to do where it is not in order ("" for nothing).

    ``missing`` is what one may do without, ``broken`` what needs mending.
    """

    group: str
    name: str
    state: State
    detail: str
    remedy: str = ""


def examine(plugins: Plugins) -> list[Finding]:
    """Versions, device, plugins, models, write access and synthesis codes, in this order. Raises nothing:
    what cannot be looked at is a finding."""
    out: list[Finding] = []
    for group, look in _GROUPS.items():
        try:
            out += look(plugins)
        except Exception as error:
            out.append(Finding(group, "", "broken", f"{type(error).__name__}: {error}", "please report it"))
    return out


def _versions(plugins: Plugins) -> list[Finding]:
    import specinn

    version = platform.python_version()
    out = [
        Finding("versions", "specinn", "ok", specinn.__version__),
        Finding(
            "versions",
            "python",
            "ok",
            f"{version} on {platform.system()} {platform.machine()} ({sys.executable})",
        ),
    ]
    for name in _LIBRARIES:
        if found := _version(name):
            out.append(Finding("versions", name, "ok", found))
        else:
            out.append(Finding("versions", name, "broken", "not installed", f"pip install {name}"))
    for name, extra in _OPTIONAL.items():
        if found := _version(name):
            out.append(Finding("versions", name, "ok", found))
        else:
            out.append(
                Finding("versions", name, "missing", "not installed", f'pip install "specinn[{extra}]"')
            )
    return out


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _device(plugins: Plugins) -> list[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    out = [Finding("device", "cpu", "ok", f"{cores} cores for this process")]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(number)
            memory = f"{found.total_memory / 2**30:.0f} GiB"
            out.append(Finding("device", f"cuda:{number}", "ok", f"{found.name}, {memory}"))
    else:
        out.append(Finding("device", "cuda", "missing", "torch sees no GPU: everything runs on the CPU"))
    return out


def _plugins(plugins: Plugins) -> list[Finding]:
    kinds: dict[str, list[str]] = {}
    for offer in plugins.offers():
        kinds.setdefault(offer.kind, []).append(offer.record.name)
    out = [Finding("plugins", kind, "ok", ", ".join(names)) for kind, names in kinds.items()]
    for failure in plugins.failures:
        what = f"of {failure.distribution} could not be loaded: {failure.reason}"
        out.append(Finding("plugins", failure.plugin, "broken", what, "specinn plugins --failed"))
    if not out:
        out.append(
            Finding(
                "plugins", "", "broken", "no plugin is installed", "pip install --force-reinstall specinn"
            )
        )
    return out


def _models(plugins: Plugins) -> list[Finding]:
    found = models.installed(plugins)
    out = [
        Finding("models", model.name, "ok", f"{model.instrument}, {model.size / 1e6:.0f} MB")
        for model in found
    ]
    whole = {model.path for model in found}
    for offer in plugins.offers("estimator"):
        for name, path in offer.record.models.items():
            if Path(path) not in whole:
                remedy = f"install {offer.distribution} again"
                out.append(Finding("models", name, "broken", f"{path} is no model", remedy))
    return out or [Finding("models", "", "missing", "no trained model is installed", "specinn train")]


def _writing(plugins: Plugins) -> list[Finding]:
    out = []
    for name, folder in (("working folder", Path.cwd()), ("temporary folder", Path(tempfile.gettempdir()))):
        try:
            with tempfile.TemporaryFile(dir=folder):
                out.append(Finding("write access", name, "ok", str(folder)))
        except OSError as error:
            remedy = (
                "set TMPDIR to a folder of yours" if name.startswith("temp") else "work in another folder"
            )
            out.append(Finding("write access", name, "broken", f"{folder}: {error.strerror}", remedy))
    return out


def _synthesis(plugins: Plugins) -> list[Finding]:
    out = []
    for offer in plugins.offers("synthesizer"):
        factory = plugins.load("synthesizer", offer.record.name)
        parts = factory.components() if hasattr(factory, "components") else []
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
