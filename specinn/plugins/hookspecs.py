"""The hooks of specinn. Each returns light records; the code they name is imported when first used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
import pluggy

API_VERSION = 1
PROJECT = "specinn"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@attrs.frozen(kw_only=True)
class Record:
    """What a plugin offers: ``factory`` is ``"package.module:Name"``, imported when it is first used.

    ``name`` is of small letters, digits and hyphens, ``summary`` one line; ``api_version`` is the version of
    this interface that the plugin needs.
    """

    name: str
    summary: str
    factory: str
    api_version: int = API_VERSION


@attrs.frozen(kw_only=True)
class InstrumentRecord:
    """An instrument by its file ``toml``; ``name`` and ``summary`` are those of the file, ``api_version`` as
    in :class:`Record`."""

    name: str
    summary: str
    toml: Path
    api_version: int = API_VERSION


@attrs.frozen(kw_only=True)
class ReaderRecord(Record):
    """A :class:`Record` of a file format. Formats are tried in order of ``priority``, highest first;
    catch-alls have the lowest."""

    priority: int = 0


@attrs.frozen(kw_only=True)
class SynthesizerRecord(Record):
    """A :class:`Record` of a synthesizer that can be trained, as that of an estimator: see
    :class:`EstimatorRecord` for ``trainer``. Others need no more than a :class:`Record`."""

    trainer: str = ""


@attrs.frozen(kw_only=True)
class EstimatorRecord(Record):
    """A :class:`Record` of a kind of estimator, and the trained models that come with it (name -> file); the
    first for an instrument is its default.

    ``trainer`` is ``"package.module:name"`` of the function that ``specinn train`` calls, with the table of a
    recipe without its ``kind``, a folder for checkpoints, from which an interrupted training resumes, and a
    function that is called with the state from time to time; it returns the estimator. ``speed`` is
    ``"package.module:name"`` of what ``specinn timing`` should compare, if there is anything. ``doubtful``
    has, by name of a model, a reason for each label whose values for real spectra are not to be trusted:
    they become part of the model's header.
    """

    models: Mapping[str, Path] = attrs.field(factory=dict)
    doubtful: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict)
    trainer: str = ""
    speed: str = ""


@hookspec
def specinn_instruments() -> list[InstrumentRecord | ReaderRecord]:  # type: ignore[empty-body]
    """Instrument models, and readers of their file formats."""


@hookspec
def specinn_preprocessors() -> list[Record]:  # type: ignore[empty-body]
    """Steps on spectra: factories called with ``instrument``, ``templates`` and options by name."""


@hookspec
def specinn_grid_loaders() -> list[Record]:  # type: ignore[empty-body]
    """Layouts of grids of synthetic spectra."""


@hookspec
def specinn_synthesizers() -> list[Record | SynthesizerRecord]:  # type: ignore[empty-body]
    """Codes that turn labels into model spectra."""


@hookspec
def specinn_estimators() -> list[EstimatorRecord]:  # type: ignore[empty-body]
    """Kinds of posterior estimators, with the trained models that ship with them."""


@hookspec
def specinn_corrections() -> list[Record]:  # type: ignore[empty-body]
    """Corrections of posteriors."""
