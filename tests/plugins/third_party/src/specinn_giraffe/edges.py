"""The ends of a GIRAFFE spectrum, where the flat field is poor and the arc has no lines."""

import attrs
import numpy as np

from specinn.plugins import Preprocessor


class TrimEdges(Preprocessor):
    """Masks ``angstrom`` beyond the first and before the last good pixel of every arm of every spectrum."""

    stage = "mask"

    def __init__(self, instrument, templates=None, angstrom=1.0):
        self.angstrom = float(angstrom)

    def __call__(self, batch):
        mask = batch.mask.copy()
        for arm in batch.arms.values():
            wave, good = batch.wavelength[arm], ~batch.mask[:, arm]
            first = np.where(good, wave, np.inf).min(axis=1, keepdims=True)
            last = np.where(good, wave, -np.inf).max(axis=1, keepdims=True)
            mask[:, arm] |= (wave < first + self.angstrom) | (wave > last - self.angstrom)
        return attrs.evolve(batch, mask=mask)
