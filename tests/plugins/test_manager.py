"""Loading of plugins: whatever one of them does, the others work and the user is told."""

import re
import sys
import textwrap
from importlib.metadata import EntryPoint

import pytest

from specinn.errors import ConfigError, PluginError
from specinn.plugins import Plugins, load_factory
from specinn.plugins.hookspecs import (
    API_VERSION,
    PROJECT,
    EstimatorRecord,
    InstrumentRecord,
    ReaderRecord,
    Record,
    hookimpl,
)
from specinn.plugins.manager import KINDS


class Correction:
    """A plugin that offers one correction."""

    def __init__(self, name="shift", factory="fractions:Fraction", **fields):
        self.record = Record(name=name, summary="for tests", factory=factory, **fields)

    @hookimpl
    def specinn_corrections(self):
        return [self.record]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of that name and text; its entry point comes back."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        names.append(name)
        return EntryPoint(name=name, value=name, group=PROJECT)

    yield write
    for name in names:
        sys.modules.pop(name, None)


GOOD = """
from specinn.plugins import Preprocessor, Record, hookimpl

@hookimpl
def specinn_preprocessors():
    return [Record(name="smooth", summary="for tests", factory="good_plugin:Smooth")]

class Smooth(Preprocessor): ...
"""


def test_a_good_plugin_is_found_and_its_code_imported_when_it_is_used(module):
    plugins = Plugins([module("good_plugin", GOOD)])
    assert not plugins.failures
    (offer,) = plugins.offers("preprocessor")
    assert (offer.kind, offer.record.name, offer.plugin) == ("preprocessor", "smooth", "good_plugin")
    assert plugins.load("preprocessor", "smooth").__name__ == "Smooth"


def test_registering_imports_no_factory(module):
    text = GOOD.replace("good_plugin:Smooth", "a_module_that_is_not_there:Smooth")
    plugins = Plugins([module("lazy_plugin", text)])
    assert not plugins.failures
    with pytest.raises(
        PluginError, match=r"smooth cannot be used: a_module_that_is_not_there:Smooth"
    ) as error:
        plugins.load("preprocessor", "smooth")
    assert isinstance(error.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import a_module_that_is_not_there", "ModuleNotFoundError: .*a_module_that_is_not_there"),
        ("def broken(:", "SyntaxError"),
        (
            GOOD.replace("specinn_preprocessors", "specinn_preprocesors"),
            "unknown hook 'specinn_preprocesors'",
        ),
        (GOOD.replace("processors()", "processors(colour)"), "colour"),
        (GOOD.replace("return [", "raise ValueError('later') if 1 else ["), "ValueError: later|SyntaxError"),
        (GOOD.replace("return [Record", "return [dict"), "is not a record of that hook"),
        (GOOD.replace("specinn_preprocessors", "specinn_estimators"), "is not a record of that hook"),
        (GOOD.replace("specinn_preprocessors", "specinn_instruments"), "is not a record of that hook"),
        (GOOD.replace('summary="for tests", ', ""), "TypeError: .*summary"),
        (
            GOOD.replace("factory=", f"api_version={API_VERSION + 1}, factory="),
            f"needs version {API_VERSION + 1} of specinn's plugin interface, "
            f"but this specinn has {API_VERSION}",
        ),
    ],
)
def test_a_broken_plugin_is_reported_and_costs_nothing_else(module, capsys, text, reason):
    points = [module("broken_plugin", text), module("good_plugin", GOOD)]
    plugins = Plugins(points)
    (failure,) = plugins.failures
    assert failure.plugin == "broken_plugin"
    assert re.search(reason, failure.reason)
    assert "Traceback" in failure.details
    assert [offer.plugin for offer in plugins.offers()] == ["good_plugin"]
    plugins.report_failures()
    lines = capsys.readouterr().err.rstrip("\n")
    assert lines.startswith("specinn: plugin 'broken_plugin' of an unknown distribution could not be loaded")
    assert lines.endswith("see specinn plugins --failed")


def test_choosing_a_broken_plugin_carries_its_cause(module):
    plugins = Plugins([module("broken_plugin", "raise RuntimeError('no licence')")])
    with pytest.raises(
        PluginError, match=r"no correction is called 'x'.*'broken_plugin'.*no licence"
    ) as error:
        plugins.record("correction", "x")
    assert isinstance(error.value.__cause__, RuntimeError)


def test_two_plugins_that_claim_one_name_are_both_named():
    plugins = Plugins([], {"first": Correction(), "second": Correction(), "third": Correction("other")})
    assert not plugins.failures
    with pytest.raises(PluginError, match="the correction 'shift' is claimed twice, by first and second"):
        plugins.record("correction", "shift")
    assert plugins.record("correction", "other").name == "other"


@pytest.mark.parametrize(
    ("asked", "hint"),
    [("shfit", "did you mean 'shift'"), ("zzz", "there are bend, shift"), ("", "there are bend, shift")],
)
def test_an_unknown_name_is_met_with_names(asked, hint):
    plugins = Plugins([], {"a": Correction(), "b": Correction("bend")})
    with pytest.raises(PluginError, match=f"no correction is called '{asked}'; {hint}"):
        plugins.record("correction", asked)


def test_nothing_installed_says_so():
    with pytest.raises(PluginError, match="no estimator is called 'cinn'; there are none"):
        Plugins([]).record("estimator", "cinn")


def test_managers_are_fresh():
    first = Plugins([], {"a": Correction()})
    assert [offer.record.name for offer in first.offers()] == ["shift"]
    assert Plugins([]).offers() == []
    assert [offer.record.name for offer in Plugins([], {"a": Correction()}).offers()] == ["shift"]


def test_older_interfaces_are_welcome():
    assert not Plugins([], {"a": Correction(api_version=API_VERSION - 1)}).failures


def test_offers_are_sorted_by_kind_and_name(tmp_path):
    class Many:
        @hookimpl
        def specinn_instruments(self):
            return [
                ReaderRecord(name="r", summary="", factory="a:b", priority=3),
                InstrumentRecord(name="z", summary="", toml=tmp_path / "z.toml"),
                InstrumentRecord(name="a", summary="", toml=tmp_path / "a.toml"),
            ]

        @hookimpl
        def specinn_estimators(self):
            return [EstimatorRecord(name="e", summary="", factory="a:b")]

        @hookimpl
        def specinn_corrections(self):
            return None

    plugins = Plugins([], {"many": Many()})
    assert not plugins.failures
    assert [(o.kind, o.record.name) for o in plugins.offers()] == [
        ("instrument", "a"),
        ("instrument", "z"),
        ("reader", "r"),
        ("estimator", "e"),
    ]


@pytest.mark.parametrize("factory", ["fractions:Nothing", "fractions", "no_such_module:X", ""])
def test_a_factory_that_cannot_be_imported(factory):
    record = Record(name="it", summary="", factory=factory)
    with pytest.raises(PluginError, match=r"it cannot be used: .* failed to import") as error:
        load_factory(record)
    assert error.value.__cause__ is not None


def test_every_kind_has_its_hook():
    from specinn.plugins import hookspecs

    hooks = {name for name in vars(hookspecs) if name.startswith("specinn_")}
    assert set(KINDS.values()) == hooks


TRAINED = """
from specinn.plugins import Estimator, EstimatorRecord, Synthesizer, Record, hookimpl

@hookimpl
def specinn_estimators():
    return [
        EstimatorRecord(name="new", summary="x", factory="nowhere:X", trainer="trained_plugin:train"),
        EstimatorRecord(name="old", summary="x", factory="trained_plugin:Old"),
        EstimatorRecord(name="never", summary="x", factory="trained_plugin:Never"),
        EstimatorRecord(name="lost", summary="x", factory="trained_plugin:Old", trainer="nowhere:train"),
        EstimatorRecord(name="duck", summary="x", factory="trained_plugin:Duck"),
    ]

@hookimpl
def specinn_synthesizers():
    return [Record(name="code", summary="x", factory="trained_plugin:Code")]

def train(config, folder, progress):
    return "new", config

class Old(Estimator):
    @classmethod
    def train(cls, config, folder, progress):
        return "old", config

class Never(Estimator): ...

class Code(Synthesizer): ...

class Duck: ...
"""


def test_a_record_names_its_trainer(module, tmp_path):
    """Without the estimator being imported; the method ``train`` of before is called where it names none."""
    plugins = Plugins([module("trained_plugin", TRAINED)])
    assert not plugins.failures
    assert plugins.trainer("estimator", "new")({"a": 1}, tmp_path, print) == ("new", {"a": 1})
    assert plugins.trainer("estimator", "old")({"a": 1}, tmp_path, print) == ("old", {"a": 1})
    for kind, name, cls in (("estimator", "never", "Never"), ("synthesizer", "code", "Code")):
        with pytest.raises(ConfigError, match=f"the {kind} {cls} is not one that is trained"):
            plugins.trainer(kind, name)({}, tmp_path, print)
    with pytest.raises(PluginError, match="lost cannot be used: nowhere:train failed to import"):
        plugins.trainer("estimator", "lost")


def test_what_is_of_no_interface_says_so(module):
    plugins = Plugins([module("trained_plugin", TRAINED)])
    with pytest.raises(PluginError, match=r"trained_plugin:Duck is not a subclass of .*\.Estimator"):
        plugins.load("estimator", "duck")
