"""The correction ``teff-bias``: a linear function of Teff is subtracted from labels."""

from specinn.plugins import Record, hookimpl


@hookimpl
def specinn_corrections() -> list[Record]:
    return [
        Record(
            name="teff-bias",
            summary="subtracts a * Teff + b from each label, as fitted on benchmark stars",
            factory="specinn_teff_bias.correction:TeffBias",
        )
    ]
