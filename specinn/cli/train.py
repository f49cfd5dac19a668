"""``specinn train``: train an estimator, or a synthesizer such as the emulator, as a TOML file says."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specinn.cli._options import Overwrite, Quiet

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress


EXAMPLES = (
    "specinn train recipe.toml -o my-model.safetensors",
    "specinn run spectra/*.fits --model my-model.safetensors",
)


def train(
    ctx: typer.Context,
    config: Annotated[
        Path,
        typer.Argument(metavar="RECIPE.toml", help="With a table [estimator] or [synthesizer]."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The model.  [default: RECIPE.safetensors]"),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for checkpoints.  [default: RECIPE-training]")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train an estimator or an emulator as a recipe says.

    Interrupt it at will: the same command resumes from the last checkpoint.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from specinn.cli._console import echo, plugins_of, stderr_console
    from specinn.config import read_toml
    from specinn.errors import ConfigError
    from specinn.files import check_output
    from specinn.training.recipe import parts

    what, kind, table = parts(read_toml(config), config)
    target = check_output(
        output or config.with_suffix(".safetensors"), (".safetensors",), overwrite=overwrite
    )
    train = plugins_of(ctx).trainer(what, kind)
    folder = folder or config.with_name(f"{config.stem}-training")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} for checkpoints cannot be made: {error.strerror}") from None
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    try:
        with contextlib.ExitStack() as stack:
            bar = Progress(*columns, console=stderr_console(), disable=quiet)
            model = train(table, folder, _watcher(bar, stack))
    except ConfigError as error:
        said = str(error).removeprefix("training configuration: ")
        raise ConfigError(f"{config}, table [{what}]: {said}") from error
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # where no checkpoint was kept
    model.save(target)
    echo(f"wrote {target}" + (f"; see specinn models {target}" if what == "estimator" else ""))


def _watcher(bar: Progress, stack: contextlib.ExitStack) -> Callable[[dict[str, Any]], None]:
    """Show what an estimator reports; the bar follows ``step`` of ``steps`` or ``epoch`` of ``epochs``.

    It appears with the first report, so that a mistake in a recipe is printed without it."""
    task = None

    def watch(state: dict[str, Any]) -> None:
        nonlocal task
        if task is None:
            task = stack.enter_context(bar).add_task("", total=None)
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
