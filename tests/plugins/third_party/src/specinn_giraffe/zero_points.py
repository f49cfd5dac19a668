"""Constants that are subtracted from the labels of dwarfs."""

import attrs

from specinn.plugins import Correction, ModelError, Posterior, read_toml, structure


@attrs.frozen
class ZeroPoints(Correction):
    """``offsets``: by label, what is subtracted from every sample of a star whose MAP of logg is at least
    ``logg_min``. ``model`` is the SHA-256 of the model that they belong to (None: any)."""

    offsets: dict[str, float]
    logg_min: float = 3.5
    model: str | None = None

    @classmethod
    def load(cls, path):
        return structure(read_toml(path), cls, str(path))

    def apply(self, posterior):
        for name in ("logg", *self.offsets):
            if name not in posterior.labels:
                raise ModelError(f"the correction needs {name}, which this model does not infer")
        applied = posterior.map[:, posterior.labels.index("logg")] >= self.logg_min  # False for NaN
        samples = posterior.samples.copy()
        for name, offset in self.offsets.items():
            samples[applied, :, posterior.labels.index(name)] -= offset
        return Posterior(posterior.labels, samples, posterior.log_prob, posterior.inside), applied
