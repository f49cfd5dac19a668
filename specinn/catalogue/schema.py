"""The columns of the catalogue: names, types, units, descriptions and the IVOA's words for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from specinn.catalogue.lithium import LITHIUM
from specinn.labels import Label, LabelSet, with_derived_labels
from specinn.posterior import QUANTILES
from specinn.posterior.summary import can_be_absent

__all__ = ["CARRIED", "UNDETERMINED", "Field", "schema", "statistics"]

UNDETERMINED = "undetermined"  # the column that names those labels


@attrs.frozen
class Field:
    """A column: ``dtype`` is a numpy one, ``unit`` in astropy's generic notation ("" for none), ``ucd`` the
    IVOA's word for what it is (UCD1+)."""

    name: str
    dtype: type
    unit: str
    description: str
    ucd: str = ""

    @property
    def column(self) -> dict[str, Any]:
        """Keywords of the astropy column."""
        meta = {"ucd": self.ucd} if self.ucd else {}
        return {"name": self.name, "unit": self.unit or None, "description": self.description, "meta": meta}


_UCDS = {
    "teff": "phys.temperature.effective",
    "logg": "phys.gravity",
    "fe_h": "phys.abund.Fe",
    "vmic": "phys.veloc.microTurb",
    "vbroad": "phys.veloc.rotat",
}
_RANGE_UCDS = {
    "p2_5": "stat.min",
    "p16": "stat.min",
    "median": "stat.median",
    "p84": "stat.max",
    "p97_5": "stat.max",
}

# What a file says of its object and its wavelengths; readers put it into ``meta`` under these names.
CARRIED = (
    Field("frame", str, "", "Rest frame of the wavelengths as read, and so of rv", "pos.frame"),
    Field("frame_from", str, "", "Where frame comes from", "meta.note"),
    Field("medium", str, "", "Medium of the wavelengths as read: air or vacuum", "em.wl"),
    Field("medium_from", str, "", "Where medium comes from", "meta.note"),
    Field("object", str, "", "Object as the file names it", "meta.id;src"),
    Field("survey_id", str, "", "Identifier of the target in its survey", "meta.id"),
    Field("programme", str, "", "Observing programme", "meta.id;obs.proposal"),
    Field("ra", np.float64, "deg", "Right ascension (ICRS) as the file states it", "pos.eq.ra;meta.main"),
    Field("dec", np.float64, "deg", "Declination (ICRS) as the file states it", "pos.eq.dec;meta.main"),
    Field(
        "mjd", np.float64, "d", "Modified Julian date of the observation as the file states it", "time.epoch"
    ),
    Field("exptime", np.float32, "s", "Exposure time", "time.duration;obs.exposure"),
)


def statistics(label: Label, *, corrected: bool = False, informed: bool = False) -> list[Field]:
    """The columns of one label: ``NAME`` (the MAP), ``NAME_median``, ``NAME_p2_5``, ..., ``NAME_std``.

    When corrections were applied all of them hold corrected values and ``NAME_raw`` the MAP before. Labels
    that may be undetected have ``NAME_upper`` (:attr:`specinn.posterior.Summary.undetected`). Of what is not
    determined (:attr:`specinn.posterior.Summary.undetermined`) only ``NAME_std`` and percentiles other than
    the median have values. With ``informed`` the same follow as ``NAME_informed``, ``NAME_informed_median``
    and so on.
    """
    if informed:
        also = attrs.evolve(label, description=f"{label.description or label.name} with outside knowledge")
        return [
            *statistics(label, corrected=corrected),
            *(
                attrs.evolve(
                    field,
                    name=f"{label.name}_informed{field.name.removeprefix(label.name)}",
                    ucd=field.ucd.removesuffix(";meta.main"),
                )
                for field in statistics(also)
            ),
        ]
    what = label.description or label.name
    ucd = _UCDS.get(label.name, "phys.abund.X")
    # astropy cannot mask a column in dex(cm s-2): the description says of what it is the logarithm
    unit = "dex" if label.unit.startswith("dex") else label.unit
    fields = [Field(label.name, np.float32, unit, f"{what}: maximum a posteriori", f"{ucd};meta.main")]
    if corrected:
        text = f"{what}: maximum a posteriori before correction"
        fields.append(Field(f"{label.name}_raw", np.float32, unit, text, f"{ucd};stat.uncalib"))
    for key, level in QUANTILES.items():
        if key == "upper":
            continue
        text = (
            f"{what}: median of the posterior"
            if key == "median"
            else f"{what}: {100 * level:g} percentile of the posterior"
        )
        fields.append(Field(f"{label.name}_{key}", np.float32, unit, text, f"{ucd};{_RANGE_UCDS[key]}"))
    text = f"{what}: standard deviation of the posterior"
    fields.append(Field(f"{label.name}_std", np.float32, unit, text, f"stat.stdev;{ucd}"))
    if can_be_absent(label.name):
        text = f"{what}: upper limit, 95 percentile of the posterior, where nothing is detected"
        fields.append(Field(f"{label.name}_upper", np.float32, unit, text, f"{ucd};stat.max"))
    return fields


_CHECKS = {
    "arms": Field(
        "arm_disagreement",
        np.float32,
        "",
        "How far apart the values of single arms are, in sigma, of the worst label; above 4: flag",
        "meta.code.qual",
    ),
    "model": Field(
        "misfit",
        np.float32,
        "",
        "How far the spectrum is from the model spectrum of the values, of the worst arm; above 1: flag",
        "meta.code.qual",
    ),
}


_INFORMED = (
    Field("prior", str, "", "The outside knowledge that was used: labels, parallax", "meta.note"),
    Field(
        "n_effective",
        np.float32,
        "",
        "Effective number of samples behind the informed values; below 20: none are given",
        "meta.code.qual",
    ),
)


def schema(
    labels: LabelSet,
    arms: Sequence[str],
    *,
    corrected: bool = False,
    informed: bool = False,
    lithium: bool = False,
    checks: Sequence[str] = (),
) -> tuple[Field, ...]:
    """All columns of a catalogue, in order.

    ``corrected`` and ``informed`` say whether there are corrections and outside knowledge, ``lithium``
    whether A(Li) is one in LTE, from which that in 3D NLTE follows; ``checks`` are those of the run
    (``arms``, ``model``).
    """
    fields = [
        Field("id", str, "", "Identifier of the spectrum", "meta.id;meta.main"),
        Field("path", str, "", "File of the spectrum", "meta.id;meta.file"),
        Field("instrument", str, "", "Instrument as named by the user", "meta.id;instr"),
        Field("row", np.int64, "", "Number of the row, from 0", "meta.record"),
    ]
    for arm in arms:
        text = f"Median S/N per Angstrom in the {arm} arm; 0 without pixels"
        fields.append(Field(f"snr_{arm}", np.float32, "", text, "stat.snr"))
    velocity = "spect.dopplerVeloc.opt"
    text = "Radial velocity by which the spectrum was shifted to rest"
    fields += [
        Field("rv", np.float32, "km s-1", text, velocity),
        Field(
            "rv_error",
            np.float32,
            "km s-1",
            "Uncertainty of rv, where it was measured",
            f"stat.error;{velocity}",
        ),
        *CARRIED,
    ]
    for label in with_derived_labels(labels):
        fields += statistics(label, corrected=corrected, informed=informed)
    if lithium and {"teff", "logg", "fe_h", "a_li"} <= set(labels.names):
        fields += statistics(LITHIUM, informed=informed)
    text = "Labels that the spectrum does not determine: their MAP and median are masked"
    fields.append(Field(UNDETERMINED, str, "", text, "meta.note"))
    ood_score = "How far out of the distribution of the training the spectrum is; above 1: flag"
    rejected = "Fraction of samples outside the bounds of the training set"
    return (
        *fields,
        Field("ood_score", np.float32, "", ood_score, "meta.code.qual"),
        *(_CHECKS[name] for name in checks),
        Field("rejected_fraction", np.float32, "", rejected, "meta.code.qual"),
        *(_INFORMED if informed else ()),
        # signed, because VOTable has no unsigned integers of 32 bits
        Field("flags", np.int32, "", "Bit mask; its bits are explained by: specinn flags VALUE", "meta.code"),
        Field(
            "flag_warn",
            np.bool_,
            "",
            "At least one bit of flags asks for a look before use",
            "meta.code.qual",
        ),
        Field("flag_bad", np.bool_, "", "The row has no trustworthy values", "meta.code.error"),
        Field("message", str, "", "What went wrong, in words", "meta.note"),
        Field("model", str, "", "Model and the start of the SHA-256 of its file", "meta.version"),
    )
