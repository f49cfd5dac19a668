"""How commands look and fail: help that fits a screen and ends in examples, mistakes in one sentence."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from specinn.errors import SpecinnError, near, nearest

# commands and options by their former names
_FORMER = {"benchmark": "timing", "calibrate": "fit-correction"}
_FORMER_OPTIONS = {"--with-calibrators": "--with-reference-stars"}
_OUTPUTS = ("output", "save_samples")  # parameters of commands that name what is written
_UsageError: Any = typer.BadParameter.__mro__[1]  # of the click that typer works with, which may be its own


class _Help:
    """Plain help: options and commands in their panels, and the lines of the epilog as examples."""

    def collect_usage_pieces(self: Any, ctx: Any) -> list[str]:
        pieces = [self.options_metavar]
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                name = _name(param) + ("..." if param.nargs != 1 else "")
                pieces.append(name if param.required else f"[{name}]")
        return [*pieces, *([self.subcommand_metavar] if hasattr(self, "subcommand_metavar") else [])]

    def format_options(self: Any, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                panels["Arguments"].append((_name(param), param.help or ""))
            elif record := param.get_help_record(ctx):
                panel = getattr(param, "rich_help_panel", None) or "Options"
                panels.setdefault(panel, []).append(record)
        _write(formatter, panels)
        if hasattr(self, "commands"):
            self.format_commands(ctx, formatter)

    def format_epilog(self: Any, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def _name(argument: Any) -> str:
    return argument.metavar or argument.name.rstrip("_").upper()


def _write(formatter: Any, panels: dict[str, list[tuple[str, str]]]) -> None:
    width = max((len(left) for rows in panels.values() for left, _ in rows), default=0)
    for panel, rows in panels.items():
        if rows:
            with formatter.section(panel):
                formatter.write_dl([(f"{left:{min(width, 28)}}", right) for left, right in rows])


class Command(_Help, TyperCommand):
    """A command, which never overwrites a file that it reads."""

    def invoke(self, ctx: Any) -> Any:
        _check_outputs(ctx.params)
        return super().invoke(ctx)


class Group(_Help, TyperGroup):
    """Commands grouped under one name."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            panels.setdefault(panel, []).append((name, command.get_short_help_str(100)))
        _write(formatter, panels)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            print(ctx.get_help())
            raise typer.Exit()
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not ctx.resilient_parsing and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r}; {near(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


class Commands(Group):
    """The root: a mistake of the user in any command becomes one sentence on standard error.

    The status is 2 where the command line is wrong, 1 for other mistakes, 130 after Ctrl-C.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        if "--debug" in args[:end]:  # before or after the command
            args = ["--debug", *(word for word in args[:end] if word != "--debug"), *args[end:]]
        at = next((i for i, word in enumerate(args) if not word.startswith("-")), None)
        if at is not None and args[at] in _FORMER and not ctx.resilient_parsing:
            today = _FORMER[args[at]]
            _say(f"specinn {args[at]} is now called specinn {today}")
            args = [*args[:at], today, *args[at + 1 :]]
        for former, today in _FORMER_OPTIONS.items():
            if former in args[:end] and not ctx.resilient_parsing:
                _say(f"{former} is now called {today}")
                args = [*(today if word == former else word for word in args[:end]), *args[end:]]
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            _say(_usage(error, ctx))
            raise typer.Exit(2) from None

    def invoke(self, ctx: Any) -> Any:
        debug = ctx.params.get("debug")
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            _say(_usage(error, ctx))
            raise typer.Exit(2) from None
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            _say("stopped")
            raise typer.Exit(130) from None
        except Exception as error:
            if debug:
                raise
            _say(_sentence(error))
        raise typer.Exit(1)


def _say(text: str) -> None:
    from specinn.texts import shown

    print(f"specinn: {shown(text)}", file=sys.stderr)


def _check_outputs(params: Mapping[str, Any]) -> None:
    """Raises ``OutputError`` where a file that a command writes is one that it was given to read."""
    from specinn.files import check_not_input

    inputs = [path for name, value in params.items() if name not in _OUTPUTS for path in _files_in(value)]
    for name in _OUTPUTS:
        if params.get(name) is not None:
            check_not_input(params[name], inputs)


def _files_in(value: Any) -> Iterator[Path]:
    """The files that a value of an option may mean: itself, @FILE, KIND:FILE, and those that TOML names."""
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _files_in(each)
    elif isinstance(value, (str, Path)):
        text = str(value)
        for name in {text, text.removeprefix("@"), text.partition(":")[2]} - {""}:
            path = Path(name)
            yield path
            if path.suffix == ".toml" and path.is_file():
                words = re.findall(
                    r"""["']([^"'\n]+)["']""", path.read_text(encoding="utf-8", errors="replace")
                )
                yield from (folder / word for word in words for folder in (Path(), path.parent))


def _sentence(error: Exception) -> str:
    if isinstance(error, SpecinnError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    if isinstance(error, MemoryError):
        return f"there is not enough memory: process fewer spectra at once ({error})"
    text = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {text} (--debug shows where it comes from; please report it)"


def _usage(error: Any, at: Any) -> str:
    """What is wrong with a command line; ``at`` is the context of the root."""
    ctx, param = error.ctx, getattr(error, "param", None)
    command = ctx.command_path if ctx else " ".join(filter(None, (at.command_path, at.invoked_subcommand)))
    text = error.format_message().rstrip(".")
    if hasattr(error, "possibilities"):  # no such option
        options = (name for p in ctx.command.get_params(ctx) for name in (*p.opts, *p.secondary_opts))
        close = nearest(error.option_name, (name for name in options if name.startswith("-")))
        text = f"no option {error.option_name}" + (f"; did you mean {close}?" if close else "")
    elif param is not None:
        name = _name(param) if param.param_type_name == "argument" else max(param.opts, key=len)
        details: Any = getattr(
            error.__cause__, "errors", list
        )()  # of pydantic, which keeps what it was given
        if details:
            name = f"{name} {details[0].get('input')!r}"
        message = error.message.rstrip(".")
        text = f"{name}: {message[0].lower()}{message[1:]}" if message else f"{name} is missing"
    else:
        text = text.removeprefix("Option ")
        text = text[0].lower() + text[1:]
    return f"{text} ({command} --help)"


def add(
    app: typer.Typer,
    name: str,
    function: Callable[..., Any],
    examples: Iterable[str],
    panel: str | None = None,
) -> None:
    """Turn a function into a command, whose help is its docstring and the ``examples``."""
    app.command(name, cls=Command, epilog="\n".join(examples), rich_help_panel=panel)(function)
