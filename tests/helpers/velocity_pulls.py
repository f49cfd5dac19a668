"""Velocities of simulated stars against the truth: do their errors hold?

    python tests/helpers/velocity_pulls.py [COUNT]

prints for each kind of star and S/N the median error in km/s, and the rms of differences over their errors,
of COUNT spectra (200) that are not flagged as uncertain. The table of docs/method.md is made so; six minutes
of a core.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from astropy.table import Table

import specinn
from specinn.flags import Flag
from specinn.plugins import Plugins
from specinn.simulation.disturbances import Disturbances, Noise
from specinn.simulation.mock_survey import SimulatedSurvey
from specinn.spectra import SpectrumBatch

Star = tuple[float, float, float, float]  # teff, logg, [Fe/H], vbroad
ALPHA = ("ca_fe", "mg_fe", "si_fe", "ti_fe", "o_fe")
SNR = (20.0, 50.0, 100.0)
STARS: dict[str, list[Star]] = {
    "slow": [(5800.0, 4.4, 0.0, 3.0), (4600.0, 4.6, 0.0, 3.0), (4800.0, 2.5, -0.1, 3.0),
             (4100.0, 1.2, -0.3, 4.0)],
    "rotators": [(5800.0, 4.4, 0.0, 30.0), (5800.0, 4.4, 0.0, 60.0), (6300.0, 4.3, 0.0, 100.0),
                 (4800.0, 2.5, -0.1, 30.0), (4800.0, 2.5, -0.1, 60.0), (4800.0, 2.5, -0.1, 90.0),
                 (4800.0, 2.5, -0.1, 100.0)],
    "metal-poor": [(4700.0, 1.4, -2.5, 4.0), (6200.0, 4.2, -2.5, 4.0), (5800.0, 4.5, -1.5, 4.0),
                   (4500.0, 1.5, -1.5, 4.0)],
}  # fmt: skip
_AT_ONCE = 50


@torch.no_grad()
def observe(
    survey: SimulatedSurvey,
    kinds: Sequence[Star],
    snr: float,
    n: int = 1,
    rv: float | None = None,
    seed: int = 0,
) -> tuple[SpectrumBatch, np.ndarray]:
    """``n`` stars of each of ``kinds`` with a scatter of all labels, and their velocities."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    teff, logg, fe_h, vbroad = np.repeat(np.array(kinds), n, axis=0).T
    size = len(teff)
    teff, logg, fe_h = (
        v + s * rng.standard_normal(size) for v, s in ((teff, 150.0), (logg, 0.15), (fe_h, 0.1))
    )
    values = {"teff": teff, "logg": logg, "fe_h": fe_h, "vmic": 1.1 + 0.3 * (4.4 - logg), "a_li": 1.0}
    columns = []
    for name, (low, high) in zip(survey.emulator.labels, survey.emulator.bounds, strict=True):
        usual = (-0.35 * fe_h).clip(0.0, 0.35) if name in ALPHA else 0.0
        value = values.get(name, usual + 0.08 * rng.standard_normal(size))
        columns.append(np.broadcast_to(np.clip(value, low, high), size))
    velocity = rng.uniform(-100.0, 100.0, size) if rv is None else np.full(size, rv)
    labels, vbroad, moved = (
        torch.as_tensor(np.array(v)).float() for v in (np.stack(columns, 1), vbroad, velocity)
    )
    clean = survey.observer(survey.emulator(labels), vbroad, moved)
    noise = Noise(survey.instrument, Disturbances(gaps=0, arm_loss=0.0, snr_arm_scatter=0.0))
    flux, sigma, mask, _ = noise(clean, generator, torch.full((size, len(survey.instrument.arms)), snr))
    meta = Table({"id": [str(i) for i in range(size)], "path": ["x"] * size})
    mask = mask.numpy() | ~survey.observer.inside
    batch = SpectrumBatch(survey.instrument.wavelength, flux.double().numpy(), sigma.double().numpy(), mask,
                          20_000.0, meta=meta, arms=survey.instrument.slices)  # fmt: skip
    return batch, velocity


def main() -> None:
    from specinn_preprocessing.rest_frame import RestFrame

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    survey, model = SimulatedSurvey(Plugins()), specinn.load_model("4most-hr")
    rest_frame = RestFrame(model.instrument, model.templates)
    print("kind         teff logg  fe_h vbroad   S/N  error   rms uncertain")
    for kind, stars in STARS.items():
        squares: dict[float, list[np.ndarray]] = {snr: [] for snr in SNR}
        for star in stars:
            for snr in SNR:
                pulls, errors = [], []
                for i, start in enumerate(range(0, count, _AT_ONCE)):
                    batch, truth = observe(survey, [star], snr, min(_AT_ONCE, count - start), seed=100 + i)
                    meta = rest_frame(batch).meta
                    sure = (np.asarray(meta["flags"]) & Flag.RV_UNCERTAIN) == 0
                    errors.append(np.asarray(meta["rv_error"])[sure])
                    pulls.append((np.asarray(meta["rv"]) - truth)[sure] / errors[-1])
                pull = np.concatenate(pulls)
                squares[snr].append(pull**2)
                print(f"{kind:11s} {star[0]:5.0f} {star[1]:4.1f} {star[2]:5.1f} {star[3]:6.0f} {snr:5.0f} "
                      f"{np.median(np.concatenate(errors)):6.2f} {np.sqrt(np.mean(pull**2)):5.2f} "
                      f"{count - pull.size:9d}", flush=True)  # fmt: skip
        print(f"{kind:11s} all:", *(f"{np.sqrt(np.mean(np.concatenate(squares[snr]))):.2f}" for snr in SNR))


if __name__ == "__main__":
    main()
