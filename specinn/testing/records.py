"""The contract of plugins as a whole: every record refers to something that exists."""

from __future__ import annotations

import inspect
import re
from typing import Any

import attrs

from specinn.errors import PluginError, SpecinnError
from specinn.models import read_header
from specinn.plugins import Plugins, load_factory
from specinn.plugins.hookspecs import EstimatorRecord, SynthesizerRecord
from specinn.plugins.interfaces import INTERFACES
from specinn.plugins.manager import Offer
from specinn.testing.instruments import check_instrument
from specinn.testing.rules import failure, section

_require = section("hooks-and-records")
_CALLED_WITH: dict[str, tuple[str, ...]] = {
    "reader": (),
    "grid loader": (),
    "preprocessor": ("instrument", "templates"),
}


def check_plugin(plugin: Any) -> list[Offer]:
    """A plugin, by its module (or object) with the hooks: it loads, and everything that its records name
    exists. Imports all that the records name. Returns the offers.
    """
    plugins = Plugins(entry=[], extra={"plugin": plugin})
    for broken in plugins.failures:
        _require(False, f"the plugin does not load: {broken.reason}")
    offers = plugins.offers()
    _require(offers, "the plugin offers nothing: is a hook without @hookimpl?")
    seen = set()
    for offer in offers:
        record = offer.record
        what = f"{offer.kind} {record.name!r}"
        plain = re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", record.name)
        _require(plain, f"{what}: a name is of small letters, digits and hyphens")
        _require((offer.kind, record.name) not in seen, f"{what} is there twice")
        seen.add((offer.kind, record.name))
        one_line = record.summary.strip() and "\n" not in record.summary
        _require(one_line, f"{what}: the summary is not one line")
        if offer.kind == "instrument":
            instrument = check_instrument(record.toml)
            _require(instrument.name == record.name, f"{what} is {instrument.name!r} in its TOML")
        else:
            _check_factory(record, offer.kind, what)
    return offers


def _check_factory(record: Any, kind: str, what: str) -> None:
    try:
        factory = load_factory(record)
    except PluginError as cause:
        raise AssertionError(f"{what}: {cause} (the rule: docs/plugins.md#hooks-and-records)") from cause
    interface = INTERFACES[kind]
    require = section(f"{kind.replace(' ', '-')}s")
    good = isinstance(factory, type) and issubclass(factory, interface)
    require(good, f"{what}: {record.factory} is not a specinn.plugins.interfaces.{interface.__name__}")
    missing = ", ".join(sorted(getattr(factory, "__abstractmethods__", ())))
    require(not missing, f"{what}: {record.factory} lacks {missing}")
    if kind in _CALLED_WITH:
        arguments = _CALLED_WITH[kind]
        error = failure(lambda: inspect.signature(factory).bind(**dict.fromkeys(arguments)))
        names = " and ".join(arguments) or "no arguments"
        require(error is None, f"{what}: {record.factory} cannot be called with {names} ({error})")
    if isinstance(record, (EstimatorRecord, SynthesizerRecord)) and record.trainer:
        try:
            trainer = load_factory(attrs.evolve(record, factory=record.trainer))
        except PluginError as cause:
            raise AssertionError(f"{what}: {cause} (the rule: docs/plugins.md#hooks-and-records)") from cause
        require(callable(trainer), f"{what}: its trainer {record.trainer} is not a function")
    for name, path in (record.models if isinstance(record, EstimatorRecord) else {}).items():
        try:
            owner = read_header(path)["estimator"]
        except SpecinnError as cause:
            raise AssertionError(
                f"{what}: its model {name!r}: {cause} (the rule: docs/plugins.md#hooks-and-records)"
            ) from cause
        require(owner == record.name, f"{what}: its model {name!r} is one of {owner!r}")
