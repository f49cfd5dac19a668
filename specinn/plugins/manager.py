"""Loading of plugins, one entry point at a time: a broken one is reported and costs nothing else."""

from __future__ import annotations

import importlib
import operator
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pluggy

from specinn.errors import PluginError, near
from specinn.plugins import hookspecs
from specinn.plugins.hookspecs import (
    API_VERSION,
    PROJECT,
    EstimatorRecord,
    InstrumentRecord,
    ReaderRecord,
    Record,
    SynthesizerRecord,
)

if TYPE_CHECKING:
    from specinn.instruments import Instrument

Trainer = Callable[[Mapping[str, Any], Path, Callable[[dict[str, Any]], None]], Any]

KINDS = {
    "instrument": "specinn_instruments",
    "reader": "specinn_instruments",
    "preprocessor": "specinn_preprocessors",
    "grid loader": "specinn_grid_loaders",
    "synthesizer": "specinn_synthesizers",
    "estimator": "specinn_estimators",
    "correction": "specinn_corrections",
}

EXPECTED: dict[str, Any] = {
    "specinn_instruments": (InstrumentRecord, ReaderRecord),
    "specinn_estimators": EstimatorRecord,
}  # where a plain Record does not suffice


@attrs.frozen
class Offer:
    """A record of a plugin, with the distribution that makes it."""

    kind: str
    record: Any
    plugin: str
    distribution: str


@attrs.frozen
class Failure:
    """A plugin that could not be loaded; ``names`` (the entry point) identify it."""

    plugin: str
    distribution: str
    cause: BaseException

    @property
    def reason(self) -> str:
        """The cause in one line."""
        return f"{type(self.cause).__name__}: {self.cause}"

    @property
    def details(self) -> str:
        """The cause with its traceback."""
        return "".join(traceback.format_exception(self.cause))


class Plugins:
    """The plugins of one process or one test: there may be any number, since there is no global state.

    Parameters
    ----------
    entry : iterable of importlib.metadata.EntryPoint, optional
        Those to load; by default all that are installed.
    extra : dict of str to object, optional
        Plugin objects or modules by name, for tests and notebooks.

    Examples
    --------
    A plugin that was written in a notebook:

    >>> from pathlib import Path
    >>> from specinn.plugins import Plugins
    >>> from specinn.plugins.hookspecs import InstrumentRecord, hookimpl
    >>> class Mine:
    ...     @hookimpl
    ...     def specinn_instruments(self):
    ...         return [InstrumentRecord(name="mine", summary="My spectrograph", toml=Path("mine.toml"))]
    >>> plugins = Plugins(extra={"mine": Mine()})
    >>> plugins.record("instrument", "mine").summary
    'My spectrograph'
    """

    def __init__(
        self, entry: Iterable[EntryPoint] | None = None, extra: dict[str, Any] | None = None
    ) -> None:
        self.failures: list[Failure] = []
        self._offers: list[Offer] = []
        entries = entry_points(group=PROJECT) if entry is None else entry
        for point in sorted(entries, key=lambda p: p.name):
            self._load(point.name, _distribution(point), point.load)
        for name, plugin in (extra or {}).items():
            self._load(name, name, lambda plugin=plugin: plugin)

    def _load(self, name: str, distribution: str, load: Any) -> None:
        """Load one plugin through its own manager, so that its mistakes affect no other."""
        try:
            manager = pluggy.PluginManager(PROJECT)
            manager.add_hookspecs(hookspecs)
            manager.register(load(), name)
            manager.check_pending()
            offers = []
            for hook in dict.fromkeys(KINDS.values()):
                for records in getattr(manager.hook, hook)():
                    offers += [Offer(_kind(hook, record), record, name, distribution) for record in records]
            for offer in offers:
                if offer.record.api_version > API_VERSION:
                    raise PluginError(
                        f"{offer.record.name} needs version {offer.record.api_version} of specinn's plugin "
                        f"interface, but this specinn has {API_VERSION}: upgrade specinn"
                    )
        except (Exception, SystemExit) as cause:  # a plugin may do anything on import
            self.failures.append(Failure(name, distribution, cause))
        else:
            self._offers += offers

    def report_failures(self) -> None:
        """One line for every broken plugin on standard error."""
        for failure in self.failures:
            print(
                f"specinn: plugin {failure.plugin!r} of {failure.distribution} could not be loaded "
                f"({failure.reason}); see specinn plugins --failed",
                file=sys.stderr,
            )

    def offers(self, kind: str | None = None) -> list[Offer]:
        """The offers of one kind or of all, sorted by kind and name."""
        chosen = [offer for offer in self._offers if kind in (None, offer.kind)]
        return sorted(chosen, key=lambda offer: (list(KINDS).index(offer.kind), offer.record.name))

    def record(self, kind: str, name: str) -> Any:
        """The record of that name and ``kind`` (``"instrument"``, ``"reader"``, ``"preprocessor"``, ...).

        Raises ``PluginError`` that names near misses, conflicts and broken plugins.
        """
        claims = [offer for offer in self.offers(kind) if offer.record.name == name]
        if len(claims) > 1:
            sources = " and ".join(sorted({offer.distribution for offer in claims}))
            raise PluginError(f"the {kind} {name!r} is claimed twice, by {sources}: uninstall one of them")
        if claims:
            return claims[0].record
        names = [offer.record.name for offer in self.offers(kind)]
        hint = f"; {near(name, names)}"
        broken = [f for f in self.failures if name in (f.plugin, f.distribution)] or self.failures
        if broken:
            first = broken[0]
            hint += f"; plugin {first.plugin!r} of {first.distribution} failed to load: {first.reason}"
        raise PluginError(f"no {kind} is called {name!r}{hint}") from (broken[0].cause if broken else None)

    def instrument(self, name: str) -> Instrument:
        """The instrument of that ``name``, or of that TOML file. Raises ``PluginError``, and ``ConfigError``
        for a wrong file."""
        path = Path(name if name.endswith(".toml") else self.record("instrument", name).toml)
        try:
            changed = path.stat().st_mtime_ns
        except OSError:
            changed = 0  # reading it says what is wrong
        return _instrument(path, changed)

    def load(self, kind: str, name: str) -> Any:
        """The class that the factory of the record of that ``kind`` names, imported now. Raises
        ``PluginError``, also where it neither is a subclass of that kind's interface nor has its methods."""
        from specinn.plugins.interfaces import INTERFACES  # numpy, which a list of plugins does not need

        record, interface = self.record(kind, name), INTERFACES[kind]
        factory = load_factory(record)
        if isinstance(factory, type) and issubclass(factory, interface):
            return factory
        abstract: frozenset[str] = getattr(interface, "__abstractmethods__", frozenset())
        lacking = sorted(each for each in abstract if not hasattr(factory, each))
        if lacking or not isinstance(factory, type):
            what = f"it lacks {', '.join(lacking)}" if lacking else "it is not a class"
            raise PluginError(
                f"{name} cannot be used: {record.factory} is not a subclass of "
                f"specinn.plugins.{interface.__name__}, from which every {kind} is derived, and {what}"
            )
        # A class that has all that is abstract gets the defaults of the rest.
        return type(factory.__name__, (factory, interface), {"__module__": factory.__module__})

    def trainer(self, kind: str, name: str) -> Trainer:
        """The function that trains the estimator or synthesizer (``kind``) of that ``name``: called with the
        table of a recipe, a folder for checkpoints, and a function that receives the progress.

        Raises ``PluginError`` where it cannot be imported.
        """
        record = self.record(kind, name)
        if isinstance(record, (EstimatorRecord, SynthesizerRecord)) and record.trainer:
            trainer: Trainer = load_factory(attrs.evolve(record, factory=record.trainer))
        else:  # older records without a trainer; by default an error that says so
            trainer = self.load(kind, name).train
        return trainer


@lru_cache(maxsize=64)  # lists of files may state one for every spectrum
def _instrument(path: Path, _changed: int) -> Instrument:
    from specinn.instruments import Instrument

    return Instrument.from_toml(path)


def load_factory(record: Any) -> Any:
    """Import ``package.module:Name`` (or ``:Class.method``) of a record; a failure is a ``PluginError`` with
    the cause."""
    module, _, name = record.factory.partition(":")
    try:
        return operator.attrgetter(name)(importlib.import_module(module))
    except Exception as cause:
        raise PluginError(
            f"{record.name} cannot be used: {record.factory} failed to import "
            f"({type(cause).__name__}: {cause})"
        ) from cause


def _kind(hook: str, record: Any) -> str:
    if not isinstance(record, EXPECTED.get(hook, Record)):
        raise PluginError(
            f"{hook} returned {record!r}, which is not a record of that hook (see docs/plugins.md)"
        )
    if isinstance(record, ReaderRecord):
        return "reader"
    if isinstance(record, InstrumentRecord):
        return "instrument"
    return next(kind for kind, name in KINDS.items() if name == hook)


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown distribution"
