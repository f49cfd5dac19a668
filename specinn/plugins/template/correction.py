"""A correction of posteriors."""

import attrs

from specinn.plugins import Correction, ModelError, Posterior, read_toml, structure


@attrs.frozen
class Offset(Correction):
    """Subtracts ``by`` from every sample of ``label``, for stars whose MAP of teff is within ``teff``."""

    label: str
    by: float
    teff: tuple[float, float]
    model: str | None = None

    @classmethod
    def load(cls, path):
        return structure(read_toml(path), cls, str(path))

    def apply(self, posterior):
        for name in ("teff", self.label):
            if name not in posterior.labels:
                raise ModelError(f"the correction needs {name}, which this model does not infer")
        teff = posterior.map[:, posterior.labels.index("teff")]  # NaN for a star without a sample
        applied = (teff >= self.teff[0]) & (teff <= self.teff[1])
        samples = posterior.samples.copy()
        samples[applied, :, posterior.labels.index(self.label)] -= self.by
        return Posterior(posterior.labels, samples, posterior.log_prob, posterior.inside), applied
