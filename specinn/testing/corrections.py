"""The contract of corrections."""

from __future__ import annotations

import tempfile
from pathlib import Path

import attrs
import numpy as np

from specinn.plugins.interfaces import BenchmarkStars, Correction
from specinn.posterior import Posterior
from specinn.testing.rules import close, section

_require = section("corrections")


def check_correction(correction: Correction, posterior: Posterior) -> Posterior:
    """A correction, on a posterior of at least two stars: what it may move. Returns its result."""
    _require(len(posterior) > 1, "the check needs a posterior of at least two stars")
    kept = (posterior.samples.copy(), posterior.log_prob.copy(), posterior.inside.copy())
    out, applied = correction.apply(posterior)
    same = all(close(x, y, 0) for x, y in zip((posterior.samples, posterior.log_prob), kept, strict=False))
    _require(same and np.array_equal(posterior.inside, kept[2]), "the correction changed its input")
    _require(out.labels == posterior.labels, "the correction changed the labels")
    actual, shape = out.samples.shape, posterior.samples.shape
    _require(actual == shape, f"samples have shape {actual}: expected {shape}")
    ok = np.shape(applied) == (len(posterior),) and np.asarray(applied).dtype == bool
    _require(ok, "the second result is not one boolean per star")
    _require(np.array_equal(out.inside, posterior.inside), "the correction accepts or rejects samples")
    _require(close(out.log_prob, posterior.log_prob, 0), "the correction changed log_prob")
    _require(close(out.samples[~applied], kept[0][~applied], 0), "a star out of range was moved")
    lost = ~posterior.inside.any(axis=1)
    _require(not applied[lost].any(), "a star without an accepted sample counts as within range")
    _require(np.isfinite(out.samples[out.inside]).all(), "accepted samples are not finite")
    for row in range(len(posterior)):
        single, alone = correction.apply(posterior[row : row + 1])
        equal = alone[0] == applied[row] and close(single.samples[0], out.samples[row], 0)
        _require(equal, f"star {row} comes out differently alone and in its batch")
    return out


def check_fit(kind: type[Correction], stars: BenchmarkStars) -> Correction:
    """A ``kind`` of correction that can be fitted, on at least four stars: which stars count, and its file.
    Returns the correction."""
    _require(len(set(stars.star.tolist())) > 3, "the check needs at least four stars")
    kept, everyone = stars.posterior.samples.copy(), np.ones(len(stars), bool)
    correction = kind.fit(stars, everyone)
    _require(np.array_equal(stars.posterior.samples, kept), "fit changed its input")
    model = correction.model
    _require(model == stars.model, f"the correction is for the model {model}, not {stars.model}")
    out = check_correction(correction, stars.posterior)
    _require(correction.apply(stars.posterior)[1].all(), "a star of the fit is not within its range")
    left = stars.star == stars.star[0]
    literature = {name: np.where(left, values + 1, values) for name, values in stars.literature.items()}
    first, second = (kind.fit(each, ~left) for each in (stars, attrs.evolve(stars, literature=literature)))
    one, other = (each.apply(stars.posterior)[0].samples for each in (first, second))
    _require(close(one, other, 0), "a star that is not to be used influences the fit")
    _require(first.apply(stars.posterior)[1].all(), "the range is not that of all stars")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "correction.toml"
        correction.save(path)
        again = kind.load(path).apply(stars.posterior)[0].samples
    _require(close(again, out.samples, 0), "samples are corrected differently after save and load")
    return correction
