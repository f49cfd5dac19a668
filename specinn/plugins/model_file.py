"""The file of a trained model: what every estimator stores there, and its own tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from specinn.instruments import Instrument
from specinn.labels import LabelSet
from specinn.plugins.interfaces import Estimator, Templates
from specinn.weights import MODEL_FORMAT, MODEL_VERSION, fitting, load_weights, save_weights


@attrs.frozen(eq=False)
class ModelParts:
    """What the file of a model holds: the attributes that every :class:`~specinn.plugins.Estimator` has
    (``labels``, ``instrument``, ``preprocessing``, ``templates``, ``header``), and by name the ``tensors`` of
    torch that are the estimator's own, of any shape."""

    labels: LabelSet
    instrument: Instrument
    preprocessing: tuple[tuple[str, dict[str, Any]], ...]
    templates: Templates
    header: dict[str, Any]
    tensors: dict[str, Any]


def save_model(
    path: Path, estimator: Estimator, kind: str, tensors: Mapping[str, Any], **header: Any
) -> None:
    """Write the file of a model, whole or not at all.

    Parameters
    ----------
    path : Path
        Of the safetensors file.
    estimator : Estimator
        Its attributes go into the file.
    kind : str
        The name of the estimator's record.
    tensors : mapping of str to array or tensor
        The estimator's own, of any shape. Those of the templates, ``templates.wavelength`` and
        ``templates.flux``, may be among them, to be kept with less precision.
    **header : JSON values
        Added to the estimator's header.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    import torch

    templates = {"templates.wavelength": estimator.templates.wavelength,
                 "templates.flux": estimator.templates.flux}  # fmt: skip
    arms = {name: [arm.start, arm.stop] for name, arm in estimator.templates.arms.items()}
    whole = {
        **estimator.header,
        "format": MODEL_FORMAT,
        "version": MODEL_VERSION,
        "estimator": kind,
        "labels": estimator.labels.to_dicts(),
        "instrument": estimator.instrument.to_dict(),
        "preprocessing": [[name, options] for name, options in estimator.preprocessing],
        "templates": {"arms": arms, "resolving_power": estimator.templates.resolving_power},
        **header,
    }
    every = {name: torch.as_tensor(values) for name, values in (templates | dict(tensors)).items()}
    save_weights(path, every, whole)


@contextlib.contextmanager
def open_model(path: Path) -> Iterator[ModelParts]:
    """The parts of the model in the file ``path``, for a ``with`` statement that makes an estimator of them.

    Raises ``ModelError`` for a file that :func:`save_model` did not write, and converts into one what the
    body of the statement raises where tensors and header do not match.
    """
    tensors, header = load_weights(Path(path), MODEL_FORMAT)
    with fitting(path):
        wavelength, flux = (tensors.pop(f"templates.{n}").double().numpy() for n in ("wavelength", "flux"))
        about = header["templates"]
        arms = {name: slice(*ends) for name, ends in about["arms"].items()}
        yield ModelParts(
            LabelSet.from_dicts(header["labels"]),
            Instrument.from_dict(header["instrument"], str(path)),
            tuple((name, dict(options)) for name, options in header["preprocessing"]),
            Templates(wavelength, flux, arms, about["resolving_power"]),
            header,
            tensors,
        )
