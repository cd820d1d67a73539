"""The command line: one file a command, grammar and output only. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import importlib
import io
import os
import select
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from musictagger.errors import EXIT_ERROR, EXIT_INTERRUPTED, MusictaggerError
from musictagger.version import __version__

COMMANDS = (
    *("scan", "query", "show", "tags"),
    *("plan", "review", "apply", "undo", "history", "fix"),
    *("failed", "models", "weights", "plugins"),
    *("train", "recipes", "evaluate", "compare"),
)


class CommandFiles(click.Group):
    """A group whose command NAME is the object `command` of musictagger.cli.NAME."""

    def list_commands(self, context: click.Context) -> list[str]:
        """In the order a user meets them, not the alphabet's."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import the command's file."""
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"musictagger.cli.{name}").command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=CommandFiles, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="musictagger")
def cli() -> None:
    """Tag a music collection by what it sounds like.

    Scan a folder once, then ask for what you want to hear:

    \b
      musictagger scan ~/Music
      musictagger query 'genre:jazz mood:mellow -tag:vocals'

    Settings are read from config.toml in the user's configuration folder, then from MUSICTAGGER_* in the
    environment, then from options. Exit codes: 0 done, 1 it could not be done, 2 wrong usage, 3 done but some
    files failed, 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; every error ends as one line and an exit code, with `--debug` as a traceback too."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that takes no more than ASCII sees `?`.
            stream.reconfigure(errors="replace")
    try:
        code = cli(list(arguments), prog_name="musictagger", standalone_mode=False)
    except (BrokenPipeError, SystemExit):
        # So click and rich end when the reader (`head`, a pager) has gone: what it did not read, it did not want.
        if not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = EXIT_INTERRUPTED
    except MusictaggerError as error:
        code = _tell(str(error), error.exit_code, debug)
    except OSError as error:
        where = f"{error.filename!r}: " if error.filename else ""
        code = _tell(f"{where}{error.strerror or error} (--debug shows where)", EXIT_ERROR, debug)
    except MemoryError:
        code = _tell("out of memory; use a smaller --batch-size or fewer --workers", EXIT_ERROR, debug)
    except Exception as error:
        code = _tell(f"internal error: {type(error).__name__}: {error} (--debug shows where)", EXIT_ERROR, debug)
    sys.exit(code or 0)


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    try:
        watcher = select.poll()
        watcher.register(sys.stdout.fileno(), 0)
        return any(flags & select.POLLERR for _, flags in watcher.poll(0))
    except (AttributeError, OSError, ValueError):
        # Windows has no poll; a captured output has no file number.
        return False


def _tell(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    # One line whatever a library put into its message, and no byte a terminal chokes on.
    line = " ".join(message.split()).encode("utf-8", "replace").decode()
    click.echo(f"musictagger: {line}", err=True)
    return code
