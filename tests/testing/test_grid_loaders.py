"""The checks of grid loaders and synthesizers pass what keeps the rules, and name what is broken."""

import numpy as np
from contracts import broken

from specinn import testing
from specinn.grids import Grid
from specinn.plugins.interfaces import GridLoader, Synthesizer


class Folder(GridLoader):
    """A folder with one text file of fluxes."""

    provenance: dict = {"code": "none"}  # noqa: RUF012
    factor = 1.0

    def recognises(self, path):
        return (path / "flux.txt").is_file()

    def load(self, path):
        flux = np.loadtxt(path / "flux.txt").astype("f4") * self.factor
        ids = np.array([str(i) for i in range(len(flux))])
        wavelength = 5000 + np.arange(flux.shape[1], dtype=float)
        arms = {"all": slice(0, flux.shape[1])}
        values = np.full((len(flux), 1), 5000.0)
        return Grid(("teff",), values, ids, wavelength, arms, self.source(flux), 1e5, "air", self.provenance)

    def source(self, flux):
        return lambda rows: flux[rows]


class Anonymous(Folder):
    provenance: dict = {}  # noqa: RUF012


class Negative(Folder):
    factor = -1.0


class Unsorted(Folder):
    def source(self, flux):
        return lambda rows: flux[np.sort(rows)]


class Greedy(Folder):
    def recognises(self, path):
        return path.is_dir()


def test_grid_loader(tmp_path):
    np.savetxt(tmp_path / "flux.txt", np.random.default_rng(0).uniform(0.2, 1, (5, 20)))
    assert len(testing.check_grid_loader(Folder(), tmp_path)) == 5
    for loader, rule in [
        (Anonymous, "provenance does not say which code"),
        (Negative, "negative flux was not rejected"),
        (Unsorted, "rows asked for in another order differ"),
        (Greedy, "a strange folder is recognised"),
    ]:
        with broken(rule, "grid-loaders"):
            testing.check_grid_loader(loader(), tmp_path)


class Lines(Synthesizer):
    labels = ("teff", "logg")
    bounds = np.array([[4000.0, 7000.0], [1.0, 5.0]])
    wavelength = np.linspace(5000, 5010, 60)
    resolving_power = 60000.0
    medium = "air"

    def depths(self, t, g):
        return 0.3 * t / 5000.0, 0.1 * g

    def __call__(self, labels):
        import torch

        is_tensor = isinstance(labels, torch.Tensor)
        x = labels if is_tensor else torch.tensor(np.array(labels), dtype=torch.float32)
        wave = torch.tensor(self.wavelength, dtype=torch.float32) - 5000.0
        first, second = self.depths(x[:, :1], x[:, 1:])
        flux = 1 - first * torch.exp(-((wave - 3) ** 2)) - second * torch.exp(-((wave - 7) ** 2))
        return flux if is_tensor else flux.numpy()


class Deaf(Lines):
    def depths(self, t, g):
        return 0.3 * t / 5000.0, 0.0 * g + 0.2


class Detached(Lines):
    def depths(self, t, g):
        return 0.3 * t.detach() / 5000.0, 0.1 * g.detach()


class Secretive(Lines):
    provenance = {"line_lists": {"lines.txt"}}  # noqa: RUF012 (a set is no JSON)


class Bright(Lines):
    def depths(self, t, g):
        return -t, g


class Sociable(Lines):
    def depths(self, t, g):
        return 0.3 * t / t.mean(), 0.1 * g


def test_synthesizer():
    assert testing.check_synthesizer(Lines(), differentiable=True).shape == (3, 60)
    for synthesizer, rule in [
        (Deaf, "the flux does not depend on logg"),
        (Detached, "the flux has no gradient"),
        (Bright, "not normalised"),
        (Secretive, "the provenance does not consist of JSON values"),
        (Sociable, "a spectrum alone differs"),
    ]:
        with broken(rule, "synthesizers"):
            testing.check_synthesizer(synthesizer(), differentiable=True)
