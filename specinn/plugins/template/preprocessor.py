"""A step from spectra to spectra."""

import attrs

from specinn.plugins import Preprocessor


class Step(Preprocessor):
    """Masks pixels brighter than ``limit`` times the continuum: put it after the step ``continuum``."""

    stage = "mask"  # where the step belongs: see docs/plugins.md

    def __init__(self, instrument, templates=None, limit=1.5):
        self.limit = limit

    def __call__(self, batch):
        return attrs.evolve(batch, mask=batch.mask | (batch.flux > self.limit))
