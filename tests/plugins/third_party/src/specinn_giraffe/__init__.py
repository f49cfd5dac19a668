"""GIRAFFE HR10 for specinn, with a neural spline flow."""

from pathlib import Path

from specinn.plugins import EstimatorRecord, InstrumentRecord, Record, hookimpl

HR10 = Path(__file__).with_name("hr10.toml")


@hookimpl
def specinn_instruments():
    return [InstrumentRecord(name="giraffe-hr10", summary="FLAMES/GIRAFFE, setup HR10, R 21500", toml=HR10)]


@hookimpl
def specinn_preprocessors():
    return [
        Record(
            name="trim-edges",
            summary="masks some Angstrom at both ends of every arm",
            factory="specinn_giraffe.edges:TrimEdges",
        )
    ]


@hookimpl
def specinn_estimators():
    return [
        EstimatorRecord(
            name="spline-flow",
            summary="neural spline flow under the principal components of a spectrum",
            factory="specinn_giraffe.flow:SplineFlow",
            trainer="specinn_giraffe.training:train",
        )
    ]


@hookimpl
def specinn_corrections():
    return [
        Record(
            name="zero-points",
            summary="subtracts a constant from labels of dwarfs",
            factory="specinn_giraffe.zero_points:ZeroPoints",
        )
    ]
