"""``specinn train``: train an estimator, or a synthesizer such as the emulator, as a TOML file says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress


def train(
    ctx: typer.Context,
    config: Annotated[Path, typer.Argument(help="The recipe: [estimator] or [synthesizer], with its kind.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The model to write (default: CONFIG.safetensors).")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="For checkpoints; an interrupted training goes on from there (default: CONFIG-training)."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model of that name.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")] = False,
) -> None:
    """Train an estimator or an emulator. Interrupt it at will: the same command goes on where it was."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from specinn.cli.context import plugins_of
    from specinn.config import read_toml
    from specinn.errors import ConfigError
    from specinn.output import check_output
    from specinn.recipes import parts

    what, kind, table = parts(read_toml(config), config)
    target = check_output(
        output or config.with_suffix(".safetensors"), (".safetensors",), overwrite=overwrite
    )
    trainable = plugins_of(ctx).load(what, kind)
    if not hasattr(trainable, "train"):
        raise ConfigError(f"{config}: the {what} {kind!r} is not one that is trained")
    folder = folder or config.with_name(f"{config.stem}-training")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} for checkpoints cannot be made: {error.strerror}") from None
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet) as bar:
        model = trainable.train(table, folder, _watcher(bar))
    model.save(target)
    print(f"wrote {target}" + (f"; see specinn models {target}" if what == "estimator" else ""))


def _watcher(bar: Progress) -> Callable[[dict[str, Any]], None]:
    """Shows what an estimator reports; the bar follows ``step`` of ``steps`` or ``epoch`` of ``epochs``."""
    task = bar.add_task("starting", total=None)

    def watch(state: dict[str, Any]) -> None:
        counts = ((state.get(name), state.get(f"{name}s")) for name in ("step", "epoch"))
        done, total = next(((n, of) for n, of in counts if n is not None and of is not None), (None, None))
        words = []
        for key, value in state.items():
            if isinstance(value, float):
                words.append(f"{key} {value:.4g}")
            elif (
                isinstance(value, (int, str))
                and not isinstance(value, bool)
                and key not in ("steps", "epochs")
            ):
                of = state.get(f"{key}s")
                words.append(f"{key} {value}/{of}" if of is not None else f"{key} {value}")
        bar.update(task, description=", ".join(words) or "training", completed=done, total=total)

    return watch
