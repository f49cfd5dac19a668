"""What Ksoll et al. 2026 (A&A 708, A118; arXiv:2602.18340) report for their test set, to compare with.

Their grid differs: NLTE, [Fe/H] from -5 to 0.5, all metallicities together.
"""

from __future__ import annotations

__all__ = [
    "PUBLISHED_LEVELS",
    "PUBLISHED_NRMSE",
    "PUBLISHED_SNR",
    "PUBLISHED_STD",
    "published_nrmse",
    "published_std",
]

# Standard deviation of MAP minus truth at 250 per Angstrom, in K, dex and km/s; about, for vbroad and vmic.
PUBLISHED_SNR = 250.0
PUBLISHED_STD = {
    "teff": 33.0,
    "logg": 0.16,
    "fe_h": 0.12,
    "vbroad": 1.3,
    "vmic": 0.27,
    "ca_fe": 0.10,
    "mg_fe": 0.11,
    "li_fe": 0.51,
}

# Root mean square of MAP minus truth over the range of the label, by S/N per Angstrom (their Table 4), for
# the labels in the order of PUBLISHED_STD.
PUBLISHED_NRMSE = {
    10.0: (0.056, 0.120, 0.083, 0.096, 0.287, 0.170, 0.161, 0.105),
    12.0: (0.047, 0.112, 0.071, 0.083, 0.278, 0.165, 0.156, 0.099),
    14.0: (0.041, 0.102, 0.064, 0.076, 0.270, 0.162, 0.151, 0.094),
    16.0: (0.036, 0.096, 0.058, 0.073, 0.264, 0.155, 0.146, 0.091),
    18.0: (0.033, 0.091, 0.053, 0.064, 0.258, 0.151, 0.146, 0.089),
    20.0: (0.031, 0.086, 0.050, 0.059, 0.252, 0.148, 0.141, 0.086),
    23.0: (0.027, 0.079, 0.044, 0.050, 0.244, 0.144, 0.138, 0.083),
    26.0: (0.024, 0.073, 0.040, 0.044, 0.239, 0.138, 0.134, 0.082),
    30.0: (0.022, 0.070, 0.036, 0.039, 0.231, 0.132, 0.129, 0.078),
    35.0: (0.019, 0.064, 0.035, 0.037, 0.223, 0.126, 0.123, 0.075),
    40.0: (0.018, 0.059, 0.031, 0.031, 0.217, 0.120, 0.119, 0.073),
    45.0: (0.016, 0.058, 0.031, 0.029, 0.212, 0.115, 0.115, 0.071),
    50.0: (0.015, 0.054, 0.029, 0.026, 0.207, 0.111, 0.110, 0.069),
    80.0: (0.012, 0.043, 0.025, 0.018, 0.195, 0.094, 0.095, 0.063),
    100.0: (0.011, 0.039, 0.023, 0.016, 0.191, 0.090, 0.087, 0.060),
    130.0: (0.009, 0.035, 0.022, 0.015, 0.188, 0.084, 0.081, 0.059),
    180.0: (0.009, 0.033, 0.021, 0.013, 0.184, 0.079, 0.075, 0.057),
    250.0: (0.008, 0.031, 0.020, 0.013, 0.182, 0.076, 0.071, 0.056),
    1000.0: (0.008, 0.028, 0.020, 0.012, 0.180, 0.071, 0.066, 0.054),
}
PUBLISHED_LEVELS = tuple(PUBLISHED_NRMSE)  # the 19 values of S/N that their network knows


def published_std(label: str, snr: float) -> float | None:
    """Their standard deviation in physical units, at 250 per Angstrom as printed.

    At other S/N that value is scaled with the NRMSE (which is printed to 0.001, so good to a few per cent).
    None for another label or S/N.
    """
    nrmse = published_nrmse(label, snr)
    if nrmse is None:
        return None
    if snr == PUBLISHED_SNR:
        return PUBLISHED_STD[label]
    at_250 = published_nrmse(label, PUBLISHED_SNR)
    assert at_250 is not None
    return PUBLISHED_STD[label] * nrmse / at_250


def published_nrmse(label: str, snr: float) -> float | None:
    """Their NRMSE, or None for a label or an S/N that they do not report."""
    if label not in PUBLISHED_STD or snr not in PUBLISHED_NRMSE:
        return None
    return PUBLISHED_NRMSE[snr][list(PUBLISHED_STD).index(label)]
