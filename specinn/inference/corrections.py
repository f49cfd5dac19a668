"""The corrections of a run: which kind of correction reads a file, and whether it is of the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from specinn.errors import ConfigError, SpecinnError, near

if TYPE_CHECKING:
    from specinn.plugins import Plugins
    from specinn.plugins.interfaces import Correction

__all__ = ["load_correction"]


def load_correction(plugins: Plugins, source: str | Path, sha256: str | None = None) -> Correction:
    """A correction from ``FILE``, of the kind that reads it, or from ``KIND:FILE``.

    Raises ``ConfigError`` where no kind or more than one reads the file, and where the correction was fitted
    for another model than that of the hash.
    """
    kinds = [offer.record.name for offer in plugins.offers("correction")]
    kind, _, path = str(source).partition(":")
    hint = ""
    if kind in kinds:
        kinds = [kind]
    else:
        hint = f"; no correction is called {kind!r}, {near(kind, kinds)}" if path else ""
        path = str(source)
    if not Path(path).is_file():
        what = "is a folder: give a file" if Path(path).is_dir() else "no such file"
        raise ConfigError(f"{path}: {what}{hint}")
    read: dict[str, Correction] = {}
    reasons = []
    for name in kinds:
        try:
            read[name] = plugins.load("correction", name).load(Path(path))
        except Exception as error:  # of a plugin, which may not know the file of another
            if len(kinds) == 1:
                raise
            said = str(error) if isinstance(error, SpecinnError) else f"{type(error).__name__}: {error}"
            reasons.append(f"{name} says: {said}")
    if len(read) > 1:
        first = next(iter(read))
        raise ConfigError(f"{path} is read by {' and by '.join(read)}: choose one, as in {first}:{path}")
    if not read:
        raise ConfigError(
            f"{path} is not read by any installed correction ({'; '.join(reasons) or 'there is none'})"
        )
    (correction,) = read.values()
    model = correction.model
    if model and sha256 and not sha256.startswith(str(model)):
        raise ConfigError(
            f"{path} was fitted for the model {str(model)[:12]}, this is {sha256[:12]}: fit it again"
        )
    return correction
