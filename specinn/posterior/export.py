"""Posteriors as the objects of xarray and ArviZ."""

from __future__ import annotations

import importlib
import warnings
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

import specinn
from specinn.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import xarray

    from specinn.labels import Label
    from specinn.posterior.samples import Posterior

__all__ = ["optional", "posterior_to_arviz", "posterior_to_xarray", "some_accepted"]


def optional(package: str, what: str) -> Any:
    """The package, imported now. Raises ``ConfigError`` that says how to get it where it is not installed."""
    try:
        with warnings.catch_warnings():  # ArviZ announces its next version whenever it is imported
            warnings.simplefilter("ignore", FutureWarning)
            return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f"{what} needs {package} ({error}): pip install 'specinn[notebook]'") from error


def some_accepted(posterior: Posterior, star: int | str) -> int:
    """The row of a star that has accepted samples; ``ModelError`` for one without."""
    row = posterior.row(star)
    if not posterior.inside[row].any():
        raise ModelError(
            f"{posterior.name(row)} has no posterior to show: none of its {posterior.inside.shape[1]} "
            "samples was accepted; the columns flags and message of the catalogue say why"
        )
    return row


def posterior_to_xarray(posterior: Posterior) -> xarray.Dataset:
    """See :meth:`specinn.posterior.Posterior.to_xarray`."""
    xarray = optional("xarray", "to_xarray")
    inside, dims = posterior.inside, ("star", "draw")
    variables = {}
    for i, label in enumerate(posterior.labels):
        values = np.where(inside, posterior.samples[:, :, i], np.nan)
        variables[label.name] = (dims, values, _attributes(label))
    density = {"long_name": "Log density in the network's label space"}
    variables["log_prob"] = (dims, posterior.log_prob, density)
    variables["accepted"] = (dims, inside, {"long_name": "Within the bounds of the training set"})
    stars = np.arange(len(posterior)) if posterior.ids is None else np.array(posterior.ids, dtype=object)
    coordinates = {"star": stars, "draw": np.arange(inside.shape[1])}
    return xarray.Dataset(variables, coordinates, {"creator": f"specinn {specinn.__version__}"})


def posterior_to_arviz(posterior: Posterior, star: int | str) -> Any:
    """See :meth:`specinn.posterior.Posterior.to_arviz`."""
    arviz, xarray = optional("arviz", "to_arviz"), optional("xarray", "to_arviz")
    row = some_accepted(posterior, star)
    keep, dims = posterior.inside[row], ("chain", "draw")
    coordinates = {"chain": [0], "draw": np.arange(keep.sum())}
    attributes = {"creator": f"specinn {specinn.__version__}", "star": posterior.name(row)}
    groups = {
        "posterior": {label.name: (dims, posterior.samples[row, keep, i][None], _attributes(label))
                      for i, label in enumerate(posterior.labels)},
        "sample_stats": {"lp": (dims, posterior.log_prob[row, keep][None])},
    }  # fmt: skip
    datasets = {name: xarray.Dataset(of, coordinates, attributes) for name, of in groups.items()}
    if int(metadata.version("arviz").partition(".")[0]) < 1:
        return arviz.InferenceData(**datasets)
    return xarray.DataTree.from_dict(datasets)


def _attributes(label: Label) -> dict[str, str]:
    return {"units": label.unit, "long_name": label.description or label.name}
