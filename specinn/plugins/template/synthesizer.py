"""From labels to spectra: in place of a code, one line whose depth depends on Teff and [Fe/H]."""

import numpy as np

from specinn.plugins import Synthesizer


class Synthesis(Synthesizer):
    labels = ("teff", "fe_h")
    bounds = np.array([[4000.0, 7000.0], [-2.0, 0.5]])
    wavelength = np.arange(5180.0, 5190.0, 0.02)
    resolving_power = 100_000.0
    medium = "air"
    provenance = {"code": "plugin-name", "version": "0.1", "nlte": {}}  # noqa: RUF012

    def __call__(self, labels):
        teff, fe_h = np.asarray(labels, float).T
        strength = 10 ** (0.3 * fe_h) * (5000 / teff) ** 2
        profile = np.exp(-0.5 * ((self.wavelength - 5183.6) / 0.2) ** 2)
        return np.exp(-strength[:, None] * profile)
