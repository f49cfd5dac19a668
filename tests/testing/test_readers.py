"""The checks of instruments, readers and steps pass what keeps the rules, and name what is broken."""

import attrs
import numpy as np
import pytest
from astropy.table import Table
from contracts import broken, spectra

from specinn import testing
from specinn.errors import ReadError
from specinn.plugins.interfaces import Preprocessor, Reader
from specinn.spectra import SpectrumBatch


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("range = [5160", "range = [4160", "do not reach over its range"),
        ('summary = "', 'summary = " " #', "the summary is empty"),
        ("[[arms]]", "[[arms]]\nsnr_windows = [[1, 2]]", "S/N window 1.0-2.0 is not within arm"),
    ],
)
def test_instrument(tmp_path, old, new, rule):
    text = """name = "x"
summary = "for tests"
[[arms]]
name = "green"
range = [5160, 5170]
resolving_power = 20000
pixels = {n = 101, polynomial = [5160.0, 10.0]}
"""
    path = tmp_path / "x.toml"
    path.write_text(text)
    assert testing.check_instrument(path).name == "x"
    path.write_text(text.replace(old, new, 1))
    with broken(rule, "instruments"):
        testing.check_instrument(path)


class Text(Reader):
    """Two columns under a first line that says so."""

    def recognises(self, path):
        with path.open("rb") as file:
            return file.read(9) == b"# two col"

    def read(self, path):
        try:
            table = np.loadtxt(path, ndmin=2).T
        except ValueError as error:
            raise ReadError(f"{path}: {error}") from None
        yield SpectrumBatch.from_arrays(*table, path=str(path))


class Eager(Text):
    def recognises(self, path):
        return True


class Shy(Text):
    def recognises(self, path):
        return False


class Forgetful(Text):
    def read(self, path):
        for batch in super().read(path):
            batch.mask[:] = False
            batch.flux[0, 1] = np.nan
            yield batch


class Nameless(Text):
    def read(self, path):
        for batch in super().read(path):
            batch.meta = Table({"id": ["a"]})
            yield batch


class Fickle(Text):
    count = 0

    def read(self, path):
        for batch in super().read(path):
            self.count += 1
            batch.flux += self.count
            yield batch


class Rough(Text):
    def read(self, path):
        if len(path.read_text().splitlines()) < 30:
            raise KeyError("FLUX")
        yield from super().read(path)


def write_text(tmp_path):
    path = tmp_path / "star.txt"
    np.savetxt(path, np.stack([5000 + np.arange(40.0), np.ones(40)], axis=1), header="two columns")
    return path


def test_reader(tmp_path):
    (batch,) = testing.check_reader(Text(), write_text(tmp_path))
    assert batch.flux.shape == (1, 40)


@pytest.mark.parametrize(
    ("reader", "rule"),
    [
        (Eager, "a file of nothing is recognised"),
        (Shy, "star.txt is not recognised"),
        (Forgetful, "flux that is not finite was not masked"),
        (Nameless, "meta has no column 'path'"),
        (Fickle, "the same file read twice gives different spectra"),
        (Rough, "a truncated file raised KeyError"),
    ],
)
def test_reader_that_breaks_a_rule(tmp_path, reader, rule):
    with broken(rule, "readers"):
        testing.check_reader(reader(), write_text(tmp_path))


class Scale(Preprocessor):
    def __call__(self, batch):
        return attrs.evolve(batch, flux=2 * batch.flux)


class InPlace(Preprocessor):
    def __call__(self, batch):
        batch.flux *= 2
        return batch


class Meddling(Preprocessor):
    def __call__(self, batch):
        batch.meta["flags"] = 1
        return batch


class Dropping(Preprocessor):
    def __call__(self, batch):
        return batch[: max(1, len(batch) - 1)]


class Sorting(Preprocessor):
    def __call__(self, batch):
        return batch[::-1]


class Unmasking(Preprocessor):
    def __call__(self, batch):
        return attrs.evolve(batch, mask=np.zeros_like(batch.mask))


class Gregarious(Preprocessor):
    def __call__(self, batch):
        return attrs.evolve(batch, flux=batch.flux / np.nanmean(batch.flux))


def test_preprocessor():
    assert (testing.check_preprocessor(Scale(), spectra()).flux[0] == 2 * spectra().flux[0]).all()


@pytest.mark.parametrize(
    ("step", "rule"),
    [
        (InPlace, "the step changed its input"),
        (Meddling, "the step changed its input"),
        (Dropping, "3 spectra became 2"),
        (Sorting, "changed their order"),
        (Unmasking, "flux that is not finite came out unmasked"),
        (Gregarious, "comes out differently alone and in its batch"),
    ],
)
def test_preprocessor_that_breaks_a_rule(step, rule):
    with broken(rule, "preprocessors"):
        testing.check_preprocessor(step(), spectra())
