"""The command line: one file per command, options and output only. Nothing heavy is imported before a command runs."""

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
    """A group whose command NAME is `command` in musictagger/cli/NAME.py."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names in the order in which users need them."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import and return the command."""
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"musictagger.cli.{name}").command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=CommandFiles, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="musictagger")
def cli() -> None:
    """Tag a music collection by what it sounds like.

    Scan a folder once, then search it:

    \b
      musictagger scan ~/Music
      musictagger query 'genre:jazz mood:mellow -tag:vocals'

    Settings are read from config.toml in the user's configuration folder, from MUSICTAGGER_* environment variables
    and from options; the later ones win. Exit codes: 0 success, 1 error, 2 wrong usage, 3 done, but some files failed,
    130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line. An error ends in one line and an exit code; --debug adds the traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that can only show ASCII gets `?` for other characters.
            stream.reconfigure(errors="replace")
    try:
        code = cli(list(arguments), prog_name="musictagger", standalone_mode=False, obj=tuple(arguments))
    except (BrokenPipeError, SystemExit):
        # click and rich end like this if the reader of the output (`head`, a pager) has quit, which is not an error.
        if not _reader_has_quit():
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
        code = _report(str(error), error.exit_code, debug)
    except OSError as error:
        where = f"{error.filename!r}: " if error.filename else ""
        code = _report(f"{where}{error.strerror or error} (--debug shows where)", EXIT_ERROR, debug)
    except MemoryError:
        code = _report("out of memory; use a smaller --batch-size or fewer --workers", EXIT_ERROR, debug)
    except Exception as error:
        code = _report(f"internal error: {type(error).__name__}: {error} (--debug shows where)", EXIT_ERROR, debug)
    sys.exit(code or 0)


def _reader_has_quit() -> bool:
    """Return whether standard output is a pipe whose reading end is closed."""
    try:
        watcher = select.poll()
        watcher.register(sys.stdout.fileno(), 0)
        return any(flags & select.POLLERR for _, flags in watcher.poll(0))
    except (AttributeError, OSError, ValueError):
        # Windows has no poll; a captured output has no file number.
        return False


def _report(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    # A library's message may have several lines, or characters that cannot be encoded.
    line = " ".join(message.split()).encode("utf-8", "replace").decode()
    click.echo(f"musictagger: {line}", err=True)
    return code
