"""The abundance of every element, from the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from specinn.errors import ConfigError
from specinn.labels import ALPHA, SOLAR_LOG_EPS
from specinn_turbospectrum.linelists import ATOMIC_NUMBER

# log10(N_X / N_H) + 12. Magg et al. (2022, A&A 661, A140); from strontium on Asplund et al. (2009, ARA&A 47,
# 481). All others are Turbospectrum's own (Grevesse et al. 2007, Space Sci. Rev. 130, 105).
SOLAR = {
    **SOLAR_LOG_EPS,
    "F": 4.40, "Ne": 8.15, "Na": 6.29, "Al": 6.43, "P": 5.41, "S": 7.16, "Cl": 5.25, "Ar": 6.50, "K": 5.14,
    "Sc": 3.07, "V": 3.89, "Cr": 5.74, "Co": 4.95, "Ni": 6.24,
    "Sr": 2.87, "Y": 2.21, "Zr": 2.58, "Ba": 2.18, "Ce": 1.58, "Eu": 0.52,
}  # fmt: skip
SCALE = "Magg et al. 2022; Li 1.05; Sr Y Zr Ba Ce Eu Asplund et al. 2009; others Grevesse et al. 2007"
PARAMETERS = ("teff", "logg", "fe_h", "vmic")
LABELS = (
    *PARAMETERS,
    "ca_fe", "c_fe", "mg_fe", "mn_fe", "n_fe", "si_fe", "ti_fe", "a_li", "o_fe", "na_fe", "al_fe", "v_fe",
    "cr_fe", "co_fe", "ni_fe", "sr_fe", "y_fe", "zr_fe", "ba_fe", "ce_fe", "eu_fe",
)  # fmt: skip
_FOLLOW = ("O", "Ne", "S", "Ar")


def check_labels(labels: Sequence[str]) -> None:
    """Raises ``ConfigError`` for labels that the code does not understand, or that are insufficient."""
    if lacking := [name for name in PARAMETERS if name not in labels]:
        raise ConfigError(
            f"Turbospectrum needs the labels {', '.join(PARAMETERS)}: {', '.join(lacking)} is missing"
        )
    for name in labels:
        if name not in PARAMETERS and name != "a_li" and element_of(name) not in SOLAR:
            ratios = ", ".join(f"{element.lower()}_fe" for element in SOLAR if element not in ("Fe", "Li"))
            raise ConfigError(f"Turbospectrum does not know the label {name!r}: expected one of "
                              f"{', '.join(PARAMETERS)}, a_li, {ratios}")  # fmt: skip
    if {"a_li", "li_fe"} <= set(labels):
        raise ConfigError("a_li and li_fe are labels of one another: keep one")


def element_of(label: str) -> str:
    """``Mg`` for ``mg_fe``; "" for what is not an abundance ratio."""
    element, _, reference = label.partition("_")
    return element.capitalize() if reference == "fe" and element != "fe" else ""


def alpha_fe(labels: Mapping[str, float]) -> float:
    """The mean of the alpha elements among the labels of a star, 0 without any."""
    ratios = [labels[name] for name in ALPHA if name in labels]
    return float(np.mean(ratios)) if ratios else 0.0


def log_eps(labels: Mapping[str, float]) -> dict[int, float]:
    """By atomic number the abundances of all elements of :data:`SOLAR`; those that are not labels have
    [X/Fe] = 0, but O, Ne, S and Ar follow the mean of the alpha elements that are labels."""
    fe_h = labels["fe_h"]
    ratio = {element_of(name): value for name, value in labels.items() if element_of(name)}
    for element in _FOLLOW:
        ratio.setdefault(element, alpha_fe(labels))
    abundances = {ATOMIC_NUMBER[name]: sun + fe_h + ratio.get(name, 0.0) for name, sun in SOLAR.items()}
    if "a_li" in labels:
        abundances[ATOMIC_NUMBER["Li"]] = labels["a_li"]
    return abundances
