"""Trained models: found by name or path; their headers are read without the library that runs them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from specinn import weights
from specinn.errors import ModelError, near
from specinn.labels import DERIVED, with_derived_labels

if TYPE_CHECKING:
    from specinn.labels import LabelSet
    from specinn.plugins import EstimatorRecord, Plugins
    from specinn.plugins.interfaces import Estimator, Synthesizer

__all__ = [
    "FORMAT",
    "VERSION",
    "Model",
    "check_device",
    "doubtful",
    "find",
    "in_lte",
    "installed",
    "load",
    "physics",
    "read_header",
    "shifts",
    "synthesizer",
]

FORMAT, VERSION = weights.MODEL_FORMAT, weights.MODEL_VERSION
_COMMON_INSTRUMENT = "4most-hr"  # spectra of every archive are degraded to its arms


@attrs.frozen
class Model:
    """A trained model on disk: ``header`` holds what its training recorded (JSON values)."""

    name: str
    path: Path
    header: Mapping[str, Any] = attrs.field(repr=False)

    @property
    def estimator(self) -> str:
        """The plugin that runs it."""
        return str(self.header["estimator"])

    @property
    def instrument(self) -> str:
        return str(self.header.get("instrument", {}).get("name", ""))

    @property
    def arms(self) -> list[str]:
        return [str(arm["name"]) for arm in self.header.get("instrument", {}).get("arms", [])]

    @property
    def labels(self) -> list[dict[str, Any]]:
        """Name, unit and bounds of each label."""
        return [dict(label) for label in self.header.get("labels", [])]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def sha256(self) -> str:
        """Of the whole file, in hexadecimal."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of a model file, without its tensors and without torch. Raises ``ModelError``."""
    header = weights.read_header(Path(path))
    if not isinstance(header, dict) or header.get("format") != FORMAT or "estimator" not in header:
        kind = header.get("format") if isinstance(header, dict) else header
        raise ModelError(f"{path} is not a model of specinn: its header says format {kind!r}")
    if header.get("version") != VERSION:
        raise ModelError(
            f"{path} has version {header.get('version')} of the model format, but this specinn reads "
            f"{VERSION}: upgrade specinn or train again"
        )
    return header


def doubtful(header: Mapping[str, Any], labels: LabelSet) -> tuple[str, ...]:
    """The labels whose values for real spectra the header of a model calls doubtful, and those derived from
    them: ``header["doubtful"]`` has a reason for each. Catalogues have them masked."""
    known = set(header.get("doubtful", {}))
    derived = {name for name, parts in DERIVED.items() if known.intersection(parts)}
    return tuple(name for name in with_derived_labels(labels).names if name in known | derived)


_PHYSICS = {  # names of the provenance of grids, and FITS keywords
    "code": "code",
    "version": "codever",
    "nlte": "nlte",
    "atmospheres": "atmosph",
    "line_lists": "linelist",
    "line_corrections": "linecorr",
    "solar_scale": "solar",
}
_DIGITS = 12  # of a checksum in the header of a catalogue; those of the grid and the model are complete


def physics(header: Mapping[str, Any]) -> dict[str, str]:
    """What the header of a model says about the physics of its grid, one line each, for the header of a
    catalogue."""
    grid = header.get("grid")
    provenance = grid.get("provenance", grid) if isinstance(grid, Mapping) else {}
    return {
        key: line
        for name, key in _PHYSICS.items()
        if name in provenance and (line := _line(provenance[name]))
    }


def shifts(header: Mapping[str, Any]) -> str:
    """How far labels of real stars are from those of the model spectra that look like theirs, by the header
    of a model, as one line: standard deviations by label; "" where nothing is said.

    >>> shifts({"training": {"physics": {"shifts": [{"teff": 30.0, "logg": 0.1}, {"teff": 40.0}]}}})
    'teff 50, logg 0.1'
    """
    variance: dict[str, float] = {}
    for shift in header.get("training", {}).get("physics", {}).get("shifts", ()):
        for name, size in shift.items():
            variance[name] = variance.get(name, 0.0) + float(size) ** 2
    return ", ".join(f"{name} {square**0.5:.3g}" for name, square in variance.items())


def in_lte(header: Mapping[str, Any], element: str) -> bool:
    """Whether the header of a model says that an element was in LTE in the spectra of its grid.

    >>> in_lte({"grid": {"provenance": {"nlte": {"Ca": "model atom"}}}}, "Li")
    True
    >>> in_lte({"grid": {"provenance": {"nlte": {"Li": "model atom"}}}}, "Li"), in_lte({}, "Li")
    (False, False)
    """
    grid = header.get("grid")
    provenance = grid.get("provenance", grid) if isinstance(grid, Mapping) else {}
    if isinstance(nlte := provenance.get("nlte"), Mapping):
        return element not in nlte
    return re.search(r"\bLTE\b", str(provenance.get("code", ""))) is not None


def _line(value: Any) -> str:
    """ASCII, as FITS needs it."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{name} {_line(inner)}" for name, inner in value.items()) or "none"
    elif isinstance(value, (list, tuple)):
        value = ", ".join(map(_line, value))
    text = " ".join(str(value).split()).encode("ascii", "backslashreplace").decode()
    return re.sub(rf"\b([0-9a-f]{{{_DIGITS}}})[0-9a-f]{{{64 - _DIGITS}}}\b", r"\1", text)


def _offered(record: EstimatorRecord, name: str) -> Model:
    """One of the models that come with a plugin, with what its record adds to the header."""
    path = Path(record.models[name])
    header = read_header(path)
    if name in record.doubtful:
        header["doubtful"] = {**header.get("doubtful", {}), **record.doubtful[name]}
    return Model(name, path, header)


def installed(plugins: Plugins) -> list[Model]:
    """The models that come with the estimator plugins, by name. Other files are left out."""
    return sorted(_offers(plugins), key=lambda model: model.name)


def _offers(plugins: Plugins) -> list[Model]:
    """The same in the order of the plugins and their records."""
    models = []
    for offer in plugins.offers("estimator"):
        for name in offer.record.models:
            try:
                models.append(_offered(offer.record, name))
            except ModelError:
                continue
    return models


def find(plugins: Plugins, name: str | Path | None, instrument: str = _COMMON_INSTRUMENT) -> Model:
    """The model of that name or path; without one the installed model that suits the instrument.

    That is the first in its plugin's record of those trained for the instrument, else for the arms of 4MOST
    HR, to which the spectra of every other instrument can be degraded. Raises ``ModelError`` that lists what
    there is.
    """
    if name is not None:
        for offer in plugins.offers("estimator"):
            for offered, path in offer.record.models.items():
                if str(name) == offered or Path(name).resolve() == Path(path).resolve():
                    return _offered(offer.record, offered)
        path = Path(name)
        if path.suffix == ".safetensors" or path.exists():
            header = read_header(path)
            return Model(str(header.get("name") or path.stem), path, header)
    models = _offers(plugins)
    names = sorted(model.name for model in models)
    if name is not None:
        raise ModelError(f"no model or file is called {str(name)!r}; {near(str(name), names)}")
    for wanted in (instrument, _COMMON_INSTRUMENT):
        for model in models:
            if model.instrument == wanted:
                return model
    raise ModelError(f"no installed model suits {instrument!r} (installed are {', '.join(names) or 'none'}): "
                     "give one with --model FILE.safetensors")  # fmt: skip


def synthesizer(plugins: Plugins, header: Mapping[str, Any], name: str = "emulator") -> Synthesizer:
    """The synthesizer of that name for the spectra of the model with this header: if the model says so, the
    bundled emulator from which it has learnt. Raises ``ModelError``."""
    factory = plugins.load("synthesizer", name)
    learnt = header.get("emulator") if name == "emulator" else None
    loaded: Synthesizer = factory.load(Path(learnt)) if learnt else factory.load()
    return loaded


def check_device(device: str) -> None:
    """Raises ``ModelError`` for a device that is not available; ``cpu``, ``cuda`` and ``cuda:N`` may be."""
    import torch

    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ModelError(f"no device is called {device!r}: expected cpu, cuda, or cuda:N")
    there = torch.cuda.device_count()
    if device != "cpu" and int(device.partition(":")[2] or 0) >= there:
        raise ModelError(
            f"there is no device {device!r}: torch sees {there or 'no'} GPU{'s' * (there > 1)}; "
            "specinn doctor says more"
        )


def load(plugins: Plugins, model: Model, device: str = "cpu") -> Estimator:
    """The estimator of a model, its weights on ``device``. Raises ``ModelError``."""
    if device != "cpu":
        check_device(device)
    factory = plugins.load("estimator", model.estimator)
    try:
        estimator: Estimator = factory.load(model.path, device=device)
    except (RuntimeError, AssertionError) as error:  # what torch raises for a device that it cannot use
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{model.path} cannot be loaded on the device {device!r}: {reason}") from error
    if "doubtful" in model.header:
        estimator.header = {**estimator.header, "doubtful": model.header["doubtful"]}
    return estimator
