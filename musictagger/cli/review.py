"""`musictagger review`: go through a plan and decide file by file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from musictagger.cli.changes import apply_plan, wanted_plan
from musictagger.cli.options import ANY_PATH, opened_writer, pass_settings, safety_options, view_options, write_options
from musictagger.errors import printable

if TYPE_CHECKING:
    from musictagger.config import Settings
    from musictagger.library.reader import TrackRow
    from musictagger.library.store import Store
    from musictagger.tags.plan import FileChange, Plan

Key = Literal["a", "s", "e", "l", "r", "q"]
KEYS: Mapping[Key, str] = {
    "a": "accept",
    "s": "skip",
    "e": "edit genre",
    "l": "accept this album",
    "r": "accept this artist",
    "q": "quit, keep what was decided",
}


@dataclass
class Decisions:
    """The changes accepted so far, and the albums and artists whose changes are all accepted."""

    accepted: list[FileChange] = field(default_factory=list)
    edited: list[FileChange] = field(default_factory=list)
    albums: set[tuple[str | None, str | None]] = field(default_factory=set)
    artists: set[str | None] = field(default_factory=set)


@click.command("review")
@click.argument("plan_or_query", nargs=-1, metavar="[PLAN.json|QUERY]")
@click.option("--out", type=ANY_PATH, metavar="FILE", help="Save what was accepted as a plan instead of writing it.")
@safety_options
@write_options
@view_options
@pass_settings
def command(plan_or_query: tuple[str, ...], out: Path | None, settings: Settings) -> int:
    """Go through a plan and decide file by file.

    You can accept, skip or edit each change, accept the rest of an album or artist, or quit. Accepted changes are
    written at the end, also after quitting; `musictagger undo --last` takes them back. A genre that you edit is
    remembered as your own choice, like `musictagger fix --genre`.
    """
    from musictagger.tags.plan import save_plan

    plan = wanted_plan(plan_or_query, settings)
    # Opened before the first question, so that a running scan is reported at once and not after all decisions.
    with opened_writer(settings) as writer:
        decisions = _walk(plan, _rows(plan, writer.store))
        _remember(decisions, writer.store)
        accepted = replace(plan, changes=tuple(decisions.accepted))
        click.echo(f"{len(accepted.changes)} of {len(plan.changes)} accepted")
        if out:
            save_plan(accepted, out)
            click.echo(f"saved; `musictagger apply {printable(out)}` writes them")
            return 0
        return apply_plan(accepted, "review", False, writer) if accepted.changes else 0


def _rows(plan: Plan, store: Store) -> dict[Path, TrackRow]:
    """The rows of the library for the files of a plan."""
    paths = [change.path for change in plan.changes]
    # Artist, album and digest do not depend on the model.
    return {row.path: row for rows in store.tracks(0, paths) for row in rows}


def _walk(plan: Plan, rows: Mapping[Path, TrackRow]) -> Decisions:
    from musictagger.cli import render

    decisions = Decisions()
    console = render.console()
    for number, change in enumerate(plan.changes, 1):
        row = rows.get(change.path)
        artist, album = (row.artist, row.album) if row else (None, None)
        known_artist = artist is not None and artist in decisions.artists
        if known_artist or (album is not None and (artist, album) in decisions.albums):
            decisions.accepted.append(change)
            continue
        console.print(f"\n{number} of {len(plan.changes)}", style="dim")
        console.print(render.change_text(change), soft_wrap=True)
        try:
            key = _ask(artist, album)
            change = _edited(change) if key == "e" else change
        except click.Abort:
            # Ctrl-C, or the end of the input: the decisions up to here are kept.
            click.echo()
            break
        if key == "q":
            break
        if key == "e":
            decisions.edited.append(change)
        if key == "l":
            decisions.albums.add((artist, album))
        if key == "r":
            decisions.artists.add(artist)
        if key != "s":
            decisions.accepted.append(change)
    return decisions


def _ask(artist: str | None, album: str | None) -> Key:
    """Ask for one key; Enter accepts. Raises click.Abort at the end of the input."""
    offered = {key: text for key, text in KEYS.items() if (key != "l" or album) and (key != "r" or artist)}
    question = ", ".join(f"[{key}] {text}" for key, text in offered.items())
    while True:
        answer = click.prompt(question, default="a", show_default=False, prompt_suffix=": ").strip().lower()
        for key in offered:
            if answer == key:
                return key
        click.echo(f"{answer!r} is not one of {', '.join(offered)}")


def _edited(change: FileChange) -> FileChange:
    """The change with genres typed by the user; several are separated by semicolons."""
    now = "; ".join(change.after.get("genre", ()))
    genres: tuple[str, ...] = ()
    while not genres:
        typed = click.prompt("Genres, separated by ;", default=now)
        genres = tuple(dict.fromkeys(genre for text in typed.split(";") if (genre := text.strip())))
    before = {"genre": change.before.get("genre", ()), **change.before}
    return replace(
        change, before=before, after={**change.after, "genre": genres}, why={**change.why, "genre": "your own choice"}
    )


def _remember(decisions: Decisions, store: Store) -> None:
    """Store edited genres as the user's own choice."""
    genres = {change.path: list(change.after["genre"]) for change in decisions.edited}
    for rows in store.tracks(0, list(genres)):
        for row in rows:
            if row.digest:
                store.choose(row.digest, genres[row.path], list(row.excluded_genres or []), bool(row.locked))
    store.commit()
