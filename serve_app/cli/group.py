"""The group of all commands: it imports the module of a command when that is called, and prints
Darkroom's own errors as sentences.

All modules together take a second of CPU to import, most of which no single command needs.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from serve_app.cli.connection.answered import answering_url
from serve_app.cli.connection.command_group import CommandGroup
from serve_app.cli.connection.suggestions import option_advice
from serve_app.cli.connection.text import echo, in_lines, shorten
from serve_app.domain.errors import DarkroomError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells report it."""

ENDING = (signal.SIGTERM, signal.SIGHUP)  # SIGHUP: the terminal was closed


class Ended(KeyboardInterrupt):
    """A signal that ends the command, which tidies up as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def interrupted_status(interrupt: KeyboardInterrupt) -> int:
    """Exit status after Ctrl-C or another signal, as shells report it."""
    return 128 + interrupt.number if isinstance(interrupt, Ended) else INTERRUPTED


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 the signal's calling convention
    raise Ended(number)


@contextmanager
def _ending_by_signals() -> Generator[None]:
    """Raise ``Ended`` for signals within this context. Ignored ones stay ignored, as `nohup` asks
    for, and those of a program that calls a command in a thread are its own."""
    is_main = threading.current_thread() is threading.main_thread()
    ours = [n for n in ENDING if is_main and signal.getsignal(n) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def open_streams() -> None:
    """Give standard streams that are closed a place, as after `<&- >&- 2>&-`: there is nothing to
    read, what a command says is lost, and the command works."""
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def ensure_unicode() -> None:
    """Run the command again in UTF-8 where Python reads and writes ASCII, as with LC_ALL=C and
    PYTHONUTF8=0: no path or prompt with other letters would work, here or in a child process."""
    if sys.getfilesystemencoding() == "ascii":
        os.environ["PYTHONUTF8"] = "1"  # noqa: TID251 of Python, not a setting
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606


class LazyGroup(CommandGroup):
    """``places``: heading → name of a command → ``module:attribute``. Its help imports all of
    them."""

    def __init__(
        self, *arguments: Any, places: Mapping[str, Mapping[str, str]], **more: Any
    ) -> None:
        super().__init__(*arguments, sections=places, **more)
        self._places = {name: place for some in places.values() for name, place in some.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        module, _, name = self._places.get(cmd_name, "").partition(":")
        return getattr(importlib.import_module(module), name) if module else None


class InheritingGroup(CommandGroup):
    """Group that is a command too. Its options hold for a subcommand that has them and does not set
    them itself. For one that does not have them, they are an error: they would have no effect."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            ctx.default_map = {
                str(name): _parent_options(ctx, command, f"{ctx.command_path} {name}")
            }
        return name, command, rest


def _parent_options(ctx: click.Context, command: click.Command, path: str) -> dict[str, Any]:
    """Options that were set in ``ctx``, by their names in ``command``. Raises ``UsageError``."""
    known = {option: param.name for param in command.params for option in param.opts}
    values: dict[str, Any] = {}
    for parameter in ctx.command.params:
        if ctx.get_parameter_source(parameter.name or "") is not ParameterSource.COMMANDLINE:
            continue
        name = next((known[option] for option in parameter.opts if option in known), None)
        if name is not None:
            values[name] = ctx.params[parameter.name or ""]
        elif not ctx.resilient_parsing:
            raise click.UsageError(f"`{path}` does not have the option {parameter.opts[-1]}.", ctx)
    return values


NOT_UNDERSTOOD = (
    *(ArithmeticError, AttributeError, LookupError, RecursionError),
    *(TypeError, ValueError),
)
"""What code raises that reads an answer which is not as it should be."""


UNANSWERED = (
    "Standard input ended before the answer, so nothing was done. In a script, use the option that "
    "answers, such as --yes."
)
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors of a disk without room."""


class ErrorReportingGroup(LazyGroup):
    """Prints an error of Darkroom's own, of a file or of an argument's encoding in one sentence and
    exits with status 1. Any other exception is a bug and keeps its traceback, unless a server has
    answered, which may be none of ours."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        if args is None:  # else a program calls it
            ensure_unicode()
        return super().main(args, *more, **options)

    def invoke(self, ctx: click.Context) -> Any:
        open_streams()
        try:
            with _ending_by_signals():
                return super().invoke(ctx)
        except click.NoSuchOption as error:
            # Without the context, which would print the usage before the sentence.
            raise click.UsageError(option_advice(error)) from None
        except KeyboardInterrupt as interrupt:
            _exit_interrupted(interrupt)
        except click.Abort as abort:  # of a question
            if isinstance(abort.__context__, KeyboardInterrupt):
                _exit_interrupted(abort.__context__)
            if isinstance(abort.__context__, EOFError):
                echo(f"\ndarkroom: {UNANSWERED}", err=True)
                sys.exit(1)
            raise
        except Exception as error:
            sentence = _sentence(error, answering_url(ctx))
            if sentence is None:
                raise
            echo(f"darkroom: {sentence}", err=True)
            sys.exit(1)


def _exit_interrupted(interrupt: KeyboardInterrupt) -> NoReturn:
    echo("\nStopped.", err=True)
    sys.exit(interrupted_status(interrupt))


def _sentence(error: Exception, url: str | None) -> str | None:
    """What is printed in place of a traceback. None: it is a bug, or an error of click's own.
    ``url``: of the server that has answered."""
    match error:
        case DarkroomError():
            return in_lines(error.message)
        case OSError() if error.errno in FULL:
            # What its buffer still holds would be tried again at the end.
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
            where = f" to {error.filename}" if error.filename else ""
            return f"The output cannot be written{where}: {error.strerror}."
        case OSError() if error.filename is not None:
            return f"{error.filename}: {error.strerror}."
        case UnicodeEncodeError() if url is None:
            return "An argument is not text in UTF-8, so it cannot be sent. Nothing was done."
        case Exception() if url is not None and isinstance(error, NOT_UNDERSTOOD):
            place = traceback.extract_tb(error.__traceback__)[-1]
            return (
                f"{url} answered something that this command does not understand "
                f"({type(error).__name__}: {shorten(str(error))}; {place.filename}:"
                f"{place.lineno}). Check that a Darkroom of this version is running there."
            )
        case _:
            return None
