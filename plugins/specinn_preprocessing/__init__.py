"""The steps from spectra as they were read to the pixels of a model."""

from __future__ import annotations

from specinn.plugins import Record, hookimpl


@hookimpl
def specinn_preprocessors() -> list[Record]:
    steps = {
        "mask": (
            "masks bad pixels, cosmic rays, sky lines and telluric bands; measures missing noise",
            "mask:Mask",
        ),
        "rest-frame": (
            "removes the radial velocity, stated or measured by cross-correlation",
            "rest_frame:RestFrame",
        ),
        "to-arms": ("degrades to the model's resolving power and pixels", "to_arms:ToArms"),
        "degrade-snr": ("adds noise to reach a stated S/N per Angstrom", "degrade_snr:DegradeSNR"),
        "continuum": ("divides by an iterative continuum fit, arm by arm", "continuum:Continuum"),
    }
    return [
        Record(name=name, summary=summary, factory=f"specinn_preprocessing.{factory}")
        for name, (summary, factory) in steps.items()
    ]
