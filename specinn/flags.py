"""The bits of the catalogue's column ``flags`` and their two roll-ups."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Literal

import attrs
import numpy as np

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = [
    "BAD",
    "FLAGS",
    "WARN",
    "Flag",
    "FlagInfo",
    "Severity",
    "flags_of",
    "is_bad",
    "is_warn",
    "names",
    "raise_flag",
]

Severity = Literal["bad", "warn", "info"]


class Flag(enum.IntFlag):
    """One bit each of the catalogue's column ``flags``; :data:`FLAGS` says what it means.

    Examples
    --------
    >>> import numpy as np
    >>> from specinn.flags import Flag, is_bad, is_warn
    >>> flags = np.array([0, Flag.RV_MEASURED, Flag.RV_MEASURED | Flag.SNR_LOW, Flag.NOT_READ], np.uint32)
    >>> is_warn(flags).tolist(), is_bad(flags).tolist()
    ([False, False, True, True], [False, False, False, True])
    >>> (flags & Flag.RV_MEASURED != 0).tolist()
    [False, True, True, False]
    """

    NOT_READ = 1
    NO_OVERLAP = 2
    NO_SIGNAL = 4
    RESOLUTION_LOW = 8
    ALL_REJECTED = 16
    MANY_REJECTED = 32
    ARM_MISSING = 64
    MANY_MASKED = 128
    SNR_LOW = 256
    SNR_HIGH = 512
    SNR_ESTIMATED = 1024
    RV_UNCERTAIN = 2048
    RV_MEASURED = 4096
    AT_BOUNDS = 8192
    CORRECTION_OUT_OF_RANGE = 16384
    CONTINUUM_POOR = 32768
    OUT_OF_DISTRIBUTION = 65536
    STRANGER = OUT_OF_DISTRIBUTION  # its former name
    UPPER_LIMIT = 131072
    EPOCHS_DISAGREE = 262144
    RV_CONTRADICTED = 524288
    RV_TOPOCENTRIC = 1048576
    MEDIUM_SUSPECT = 2097152
    MODEL_MISFIT = 4194304
    ARMS_DISAGREE = 8388608
    PRIOR_DISAGREES = 16777216
    PRIOR_UNUSED = 33554432


@attrs.frozen
class FlagInfo:
    """A bit of the column ``flags``: its ``meaning`` and its ``severity`` (``bad``, ``warn``, ``info``)."""

    flag: Flag
    severity: Severity
    meaning: str


FLAGS: tuple[FlagInfo, ...] = (
    FlagInfo(
        Flag.NOT_READ, "bad", "the file or this spectrum of it could not be read; see the column message"
    ),
    FlagInfo(Flag.NO_OVERLAP, "bad", "no arm of the model is covered by good pixels"),
    FlagInfo(Flag.NO_SIGNAL, "bad", "the flux is constant, zero or negative in every arm"),
    FlagInfo(Flag.RESOLUTION_LOW, "bad", "the resolving power of the spectrum is below that of the model"),
    FlagInfo(
        Flag.ALL_REJECTED,
        "bad",
        "every posterior sample lies outside the training bounds: no values are given",
    ),
    FlagInfo(
        Flag.MANY_REJECTED, "warn", "more than half of the posterior samples lie outside the training bounds"
    ),
    FlagInfo(Flag.ARM_MISSING, "info", "at least one arm of the model has no usable pixels"),
    FlagInfo(Flag.MANY_MASKED, "warn", "more than half of the pixels of the arms that are there are masked"),
    FlagInfo(
        Flag.SNR_LOW, "warn", "the S/N is below 10 per Angstrom, the lowest that the model was trained on"
    ),
    FlagInfo(Flag.SNR_HIGH, "info", "the S/N is above the highest of the training and was taken as that"),
    FlagInfo(
        Flag.SNR_ESTIMATED, "info", "the file gives no errors; the noise was measured from the spectrum"
    ),
    FlagInfo(
        Flag.RV_UNCERTAIN,
        "warn",
        "no clear peak in the cross-correlation, two sets of lines, or an error above 5 km/s; the radial "
        "velocity is a guess",
    ),
    FlagInfo(Flag.RV_MEASURED, "info", "the radial velocity was measured by cross-correlation"),
    FlagInfo(Flag.AT_BOUNDS, "warn", "the MAP of a label lies within 1 % of its range from a training bound"),
    FlagInfo(
        Flag.CORRECTION_OUT_OF_RANGE, "warn", "outside the range of the correction, which was not applied"
    ),
    FlagInfo(Flag.CONTINUUM_POOR, "warn", "the continuum rests on less than 5 % of the pixels of an arm"),
    FlagInfo(
        Flag.OUT_OF_DISTRIBUTION,
        "bad",
        "the spectrum is unlike those of the training; the column message says in what",
    ),
    FlagInfo(
        Flag.UPPER_LIMIT, "info", "at least one label is not detected: its column <label>_upper has a limit"
    ),
    FlagInfo(Flag.EPOCHS_DISAGREE, "warn", "the combined spectra disagree: chi-square with p below 0.001"),
    FlagInfo(
        Flag.RV_CONTRADICTED,
        "warn",
        "the radial velocity that was given or stated is not that of the spectrum; see the column message",
    ),
    FlagInfo(
        Flag.RV_TOPOCENTRIC,
        "info",
        "the radial velocity is in the frame of the observer, up to 30 km/s from the barycentric one",
    ),
    FlagInfo(
        Flag.MEDIUM_SUSPECT,
        "warn",
        "the wavelengths seem to be in vacuum where air was taken, or the other way round: try --medium",
    ),
    FlagInfo(
        Flag.MODEL_MISFIT,
        "warn",
        "an arm does not look like the model spectrum of what was inferred from all",
    ),
    FlagInfo(
        Flag.ARMS_DISAGREE,
        "warn",
        "the arms, each by itself, give values that differ by more than 4 sigma; see the column message",
    ),
    FlagInfo(
        Flag.PRIOR_DISAGREES,
        "warn",
        "the spectrum and what the user knows of the star disagree (p below 0.001); see the column message",
    ),
    FlagInfo(
        Flag.PRIOR_UNUSED,
        "warn",
        "something that the user knows of the star could not be used; see the column message",
    ),
)

BAD = int(sum(info.flag for info in FLAGS if info.severity == "bad"))
WARN = int(sum(info.flag for info in FLAGS if info.severity == "warn"))


def is_bad(flags: np.ndarray) -> np.ndarray:
    """``flag_bad`` of ``flags (n_spec,)``: the row has no trustworthy values.

    >>> is_bad(np.array([Flag.NO_SIGNAL, Flag.SNR_LOW])).tolist()
    [True, False]
    """
    bad: np.ndarray = (np.asarray(flags) & BAD) != 0
    return bad


def is_warn(flags: np.ndarray) -> np.ndarray:
    """``flag_warn`` of ``flags (n_spec,)``: look before you use the row (every bad row warns too)."""
    warn: np.ndarray = (np.asarray(flags) & (WARN | BAD)) != 0
    return warn


def names(flags: int) -> list[str]:
    """The names of the bits that are set in ``flags``, in lower case.

    >>> names(4096 + 256)
    ['snr_low', 'rv_measured']
    """
    return [info.flag.name.lower() for info in FLAGS if int(flags) & info.flag and info.flag.name]


def flags_of(meta: Table) -> np.ndarray:
    """``(n_spec,)`` the bits in the table ``meta`` of a batch (a copy), 0 where no step has set any."""
    values = meta["flags"] if "flags" in meta.colnames else np.zeros(len(meta))
    return np.array(values, dtype=np.uint32)


def raise_flag(flags: np.ndarray, where: np.ndarray | np.bool_, flag: Flag) -> None:
    """Set a bit of ``flags (n_spec,)`` in place, in the rows ``where (n_spec,)`` is True."""
    flags[where] |= np.uint32(flag)
