"""A plugin that loads, and of which every part is broken."""

from pathlib import Path

from specinn.plugins.hookspecs import EstimatorRecord, InstrumentRecord, Record, hookimpl

HERE = Path(__file__).parent


@hookimpl
def specinn_instruments():
    return [InstrumentRecord(name="typo", summary="its TOML has a wrong value", toml=HERE / "typo.toml")]


@hookimpl
def specinn_preprocessors():
    return [
        Record(name="loses", summary="loses a spectrum", factory="specinn_broken.parts:Loses"),
        Record(name="not-there", summary="its class is not there", factory="specinn_broken.parts:NotThere"),
    ]


@hookimpl
def specinn_estimators():
    kinds = {"nan": "Nan", "fewer": "Fewer", "flat": "Flat"}
    return [
        EstimatorRecord(
            name=name,
            summary="for tests",
            factory=f"specinn_broken.parts:{kind}",
            models={f"{name}-model": HERE / "not-there.safetensors"},
        )
        for name, kind in kinds.items()
    ]


@hookimpl
def specinn_corrections():
    return [Record(name="loses", summary="loses a star", factory="specinn_broken.parts:LosesStar")]
