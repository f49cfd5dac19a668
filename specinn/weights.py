"""Weights on disk: one safetensors file with a JSON header. Nothing here unpickles."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specinn.errors import ModelError, OutputError

if TYPE_CHECKING:
    import torch

__all__ = [
    "KEY",
    "MODEL_FORMAT",
    "MODEL_VERSION",
    "file_hash",
    "fitting",
    "load_weights",
    "read_header",
    "save_weights",
]

KEY = "specinn"
_FORMER = {"strangers": "ood", "calibrators": "reference_stars"}  # keys of headers by their former names
MODEL_FORMAT = "specinn model"  # the format in the header of a trained model
MODEL_VERSION = 1
_MAX_HEADER = 64 * 2**20


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a weights file, without its tensors and without torch.

    Raises ``ModelError`` for anything that is not a safetensors file written by specinn.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= _MAX_HEADER:
                raise ModelError(f"{path} is not a safetensors file: give a model that specinn train wrote")
            parts = json.loads(file.read(length))
            metadata = parts.pop("__metadata__", {})
            header = json.loads(metadata[KEY]) if KEY in metadata else None
            end = 8 + length + max((part["data_offsets"][1] for part in parts.values()), default=0)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise ModelError(f"{path}: no such model file") from None
    except IsADirectoryError:
        raise ModelError(f"{path} is a folder: give a model that specinn train wrote") from None
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise ModelError(f"{path} cannot be read as a safetensors file ({error})") from None
    if size != end:
        raise ModelError(f"{path} is damaged: it has {size} bytes, expected {end}: copy or train it again")
    if not isinstance(header, dict):
        raise ModelError(f"{path} has no specinn header: give a model that specinn train wrote")
    header = _with_present_names(header)
    if isinstance(header.get("training"), dict):
        header["training"] = _with_present_names(header["training"])
    return header


def _with_present_names(table: Mapping[str, Any]) -> dict[str, Any]:
    return {_FORMER.get(key, key): value for key, value in table.items()}


def save_weights(path: Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a header under a temporary name, then rename.

    Parameters
    ----------
    path : Path
        The file, which is replaced where it exists.
    tensors : mapping of str to torch.Tensor
        Tensors of any shape by name.
    header : mapping
        JSON values; ``format`` is checked by :func:`load_weights`.

    Raises
    ------
    OutputError
        Where that cannot be written.

    Examples
    --------
    >>> from pathlib import Path
    >>> import torch
    >>> from specinn.weights import load_weights, save_weights
    >>> save_weights(Path("my.safetensors"), {"scale": torch.ones(3)}, {"format": "mine", "epochs": 7})
    >>> tensors, header = load_weights(Path("my.safetensors"), "mine")
    >>> tensors["scale"], header["epochs"]
    (tensor([1., 1., 1.]), 7)
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None
    try:
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(whole, temporary, metadata={KEY: json.dumps(dict(header), allow_nan=False)})
        temporary.chmod(0o644)  # safetensors makes it private to the user
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # the latter for a full disk
        raise OutputError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def load_weights(path: Path, expected: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and header of a file that :func:`save_weights` wrote.

    Parameters
    ----------
    path : Path
        The file.
    expected : str
        The required ``format`` in its header.

    Returns
    -------
    tensors : dict of str to torch.Tensor
        Tensors of any shape by name.
    header : dict
        JSON values.

    Raises
    ------
    ModelError
        For any other file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = read_header(path)
    if header.get("format") != expected:
        raise ModelError(f"{path} holds a {header.get('format')!r}, expected a {expected!r}")
    try:
        return load_file(path), header
    except SafetensorError as error:
        raise ModelError(f"{path} is damaged ({error}): copy or train it again") from None


@contextlib.contextmanager
def fitting(path: Path) -> Iterator[None]:
    """For a body that uses the tensors and the header of the file ``path``: errors because they do not match
    become a ``ModelError`` that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path}: its weights do not fit its header ({error})") from None


def file_hash(path: Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
