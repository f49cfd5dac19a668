"""What set-up changes in the sources of Turbospectrum: only the time that it takes, not the result."""

from __future__ import annotations

from pathlib import Path

from specinn.errors import SynthesisError

# The occupation probabilities of the 100 levels of hydrogen depend on depth alone. The code keeps those of
# its last call only, and goes through all depths at each wavelength. This keeps those of 200 depths.
_HYDROGEN_BEFORE = """\
      IF ((ABS(NH-NHL).LT.1E-3*NH).AND.(ABS(NHE-NHEL).LT.1E-3*NHE).AND.
     +   (ABS(NE-NEL).LT.1E-3*NE).AND.(ABS(T-TL).LT.1E-3*T))
     *   GOTO 16
      Z = 0.
"""
_HYDROGEN_AFTER = """\
      DO 5 J = 1, KEPT
      KEY = MOD(KEY, KEPT) + 1
      IF (NH.EQ.KEYS(1,KEY) .AND. NHE.EQ.KEYS(2,KEY) .AND.
     +    NE.EQ.KEYS(3,KEY) .AND. T.EQ.KEYS(4,KEY)) THEN
        KT = K*T
        DO 6 I = 1, NLEVELS
        W(I) = KEPTW(I,KEY)
 6      NLTE(I) = KEPTN(I,KEY)
        GOTO 16
      ENDIF
 5    CONTINUE
      Z = 0.
"""
_KEEP_BEFORE = """\
      NHL = NH
      NHEL = NHE
      NEL = NE
      TL = T
 16   CONTINUE
"""
_KEEP_AFTER = """\
      NEWEST = MOD(NEWEST, MAXKEPT) + 1
      KEPT = MAX(KEPT, NEWEST)
      KEY = NEWEST
      KEYS(1,KEY) = NH
      KEYS(2,KEY) = NHE
      KEYS(3,KEY) = NE
      KEYS(4,KEY) = T
      DO 7 I = 1, NLEVELS
      KEPTW(I,KEY) = W(I)
 7    KEPTN(I,KEY) = NLTE(I)
 16   CONTINUE
"""
_DECLARE_BEFORE = """\
      LOGICAL FIRST,contonly,lineonly
      SAVE
      DATA FIRST/.TRUE./
"""
_DECLARE_AFTER = """\
      LOGICAL FIRST,contonly,lineonly
      INTEGER MAXKEPT, KEPT, KEY, NEWEST
      PARAMETER (MAXKEPT = 200)
      REAL*8 KEPTW(NLEVELS,MAXKEPT)
      REAL KEPTN(NLEVELS,MAXKEPT), KEYS(4,MAXKEPT)
      SAVE
      DATA FIRST/.TRUE./, KEPT/0/, KEY/0/, NEWEST/0/
"""
PATCHES = {
    "hbop.f": [
        (_DECLARE_BEFORE, _DECLARE_AFTER),
        (_HYDROGEN_BEFORE, _HYDROGEN_AFTER),
        (_KEEP_BEFORE, _KEEP_AFTER),
    ]
}


def apply(folder: Path) -> None:
    """Change the sources in ``folder``. Raises ``SynthesisError`` if they are not as expected."""
    for name, changes in PATCHES.items():
        path = folder / name
        lines = path.read_text(encoding="latin-1").splitlines()
        text = "".join(f"{line.rstrip()}\n" for line in lines)
        for before, after in changes:
            if text.count(before) != 1:
                raise SynthesisError(f"{name} of Turbospectrum is not the version that specinn speeds up")
            text = text.replace(before, after)
        path.write_text(text, encoding="latin-1")
