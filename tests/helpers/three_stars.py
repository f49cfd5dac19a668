"""A result of three stars, the last of which has no values, for tests of catalogues."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from specinn.catalogue.result import Result
from specinn.flags import Flag
from specinn.labels import LabelSet, make_label
from specinn.posterior import Posterior

LABELS = LabelSet(
    (
        make_label("teff", (4000, 7000)),
        make_label("logg", (0, 5)),
        make_label("fe_h", (-3, 0.5)),
        make_label("vbroad", (0.5, 100)),
        make_label("a_li", (0, 4)),
    )
)
SUFFIXES = (".fits", ".ecsv", ".parquet", ".h5", ".vot", ".xml")


def result(n: int = 3, n_samples: int = 500) -> Result:
    """Two stars with values and, last, one without."""
    rng = np.random.default_rng(3)
    centre = np.array([5772.0, 4.44, -0.1, 3.0, 1.05])
    samples = (centre + rng.normal(size=(n, n_samples, 5)) * [30, 0.05, 0.03, 0.2, 0.1]).astype(np.float32)
    samples[:, :50, 0] = 9000.0  # one in ten outside the bounds
    log_prob = rng.normal(size=(n, n_samples)).astype(np.float32)
    samples[-1], log_prob[-1] = np.nan, -np.inf
    meta = Table(
        {"id": ["a", "spectrum é", "c"], "path": ["x/a.fits", "x/b.fits", "x/c.fits"], "row": [0, 1, 2]}
    )
    meta["rv"] = [12.3456, -4.5, np.nan]
    meta["snr_green"] = [120.0, 35.5, np.nan]
    meta["flags"] = np.array([0, Flag.RV_MEASURED | Flag.MANY_MASKED, Flag.NOT_READ], np.uint32)
    meta["message"] = np.array(["", "", "x/c.fits: no such file"], dtype=object)
    posterior = Posterior(LABELS, samples, log_prob)
    return Result(meta, posterior.summary(), None, posterior)
