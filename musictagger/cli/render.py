"""Tables, bars and texts for the terminal, and the formats of numbers, sizes and times."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from musictagger.errors import printable

if TYPE_CHECKING:
    from musictagger.library.view import TrackView
    from musictagger.tags.plan import FileChange

BAR_CELLS = 30
_EIGHTHS = " ▏▎▍▌▋▊▉█"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to `main`, where a closed pipe is not an error; rich would exit with 1."""
        raise BrokenPipeError


def console() -> Console:
    """Return standard output: styled on a terminal, else plain and, without COLUMNS, 160 cells wide."""
    # Emoji codes are off, because a file may be called `:smile:.mp3`.
    plain = _Console(highlight=False, emoji=False)
    if plain.is_terminal or os.environ.get("COLUMNS", "").strip("0").isdigit():
        return plain
    return _Console(highlight=False, emoji=False, width=160)


def table(*titles: str, right: Collection[str] = ()) -> Table:
    """Return an empty table with these columns; those in `right` are right-aligned and never wrapped."""
    empty = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        flush = title in right
        empty.add_column(title, justify="right" if flush else "left", no_wrap=flush, overflow="fold")
    return empty


def bar(score: float, cells: int = BAR_CELLS) -> str:
    """Return a horizontal bar for a score 0..1, in steps of an eighth of a cell."""
    eighths = round(max(0.0, min(1.0, score)) * cells * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(cells)


def is_number(value: object) -> bool:
    """Return whether `value` is an int or a float; a bool is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def metric_text(name: str, value: float) -> str:
    """("windows_per_s", 35.2) -> `35.2 windows/s`, ("loss", 0.21337) -> `loss 0.2134`: four significant digits."""
    number, label = f"{value:.4g}", name.removesuffix("_per_s").replace("_", " ")
    if name in ("seconds", "audio_s"):
        return duration(value) if name == "seconds" else f"{value / 3600:,.1f} h of audio"
    if name.endswith("_per_s"):
        return f"{number} {label}/s"
    return f"{label} {number}"


def duration(seconds: float) -> str:
    """42 -> `42 s`, 400 -> `7 min`, 9000 -> `2 h 30 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def size(bytes_: int) -> str:
    """12_345_678 -> `12.3 MB`, 4_096 -> `4.1 kB`."""
    return f"{bytes_ / 1e6:,.1f} MB" if bytes_ >= 1e6 else f"{bytes_ / 1e3:.1f} kB"


def amount(done: int, total: int, unit: str) -> str:
    """`40 of 100 windows`, `3.1 MB of 45.2 MB`; `40 windows` where the total is not known (0)."""
    if unit == "bytes":
        return f"{size(done)} of {size(total)}" if total else size(done)
    return f"{done:,} of {total:,} {unit}" if total else f"{done:,} {unit}"


def clock(seconds: float | None) -> str:
    """215.4 -> `3:35`; empty for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def listing(columns: Mapping[str, Sequence[str]], width: int, right: Collection[str] = ()) -> list[str]:
    """Return the lines of a table, titles first, at most `width` cells wide.

    columns: the cells by title, the most important column first. Columns that are empty or do not fit are left out;
    cells are shortened to 40, in the middle. Cells of the first column are never shortened: a long one gets a line of
    its own. right: titles of right-aligned columns.
    """
    cells = {title: [printable(cell) for cell in each] for title, each in columns.items()}
    first, *others = cells
    width = max(width, 40)
    short = [cell_len(cell) for cell in (first, *cells[first]) if cell_len(cell) <= width // 3]
    sizes = {first: max(short)}
    for title in others:
        size = max(cell_len(title), min(40, max(map(cell_len, cells[title]), default=0)))
        if any(cells[title]) and sum(sizes.values()) + 2 * len(sizes) + size <= width:
            sizes[title] = size
    lines: list[str] = []
    for row in zip(*([title, *cells[title]] for title in sizes), strict=True):
        name, *rest = row
        if cell_len(name) > sizes[first]:
            lines, name = [*lines, name], ""
        padded = [_padded(cell, sizes[title], title in right) for title, cell in zip(sizes, (name, *rest), strict=True)]
        lines.append("  ".join(padded).rstrip())
    return lines


def _padded(cell: str, size: int, right: bool) -> str:
    room = size - cell_len(cell)
    if room < 0:
        end = set_cell_size(cell[::-1], size // 2)[::-1]
        return f"{set_cell_size(cell, size - 1 - size // 2)}…{end}"
    return " " * room + cell if right else cell + " " * room


def track_table(tracks: Sequence[TrackView], width: int, written: Collection[Path] = ()) -> Table:
    """A row for each track: name, length, genre in the file (+ if just written), predicted genre, strongest tags."""
    rows = table()
    # rich leaves out whole columns if there is no room; these shares leave some of each.
    room = max(40, width - 14)
    for name, share in (("Track", 0.3), ("Length", 0), ("Genre in file", 0.2), ("Predicted genre", 0.2), ("Tags", 0.3)):
        if share:
            rows.add_column(name, overflow="ellipsis", no_wrap=True, max_width=max(len(name), int(room * share)))
        else:
            rows.add_column(name, justify="right", no_wrap=True, width=6)
    for track in tracks:
        strongest = ", ".join(f"{tag.name} {score:.2f}" for tag, score in track.tags[:4]) or track.status
        predicted = ", ".join(track.genres) or ("-" if track.scores is not None else "")
        rows.add_row(
            escape(label(track)),
            clock(track.row.duration_s),
            escape(("+ " if track.row.path in written else "") + printable(", ".join(track.row.genres))),
            escape(printable(predicted)),
            escape(printable(strongest)),
        )
    return rows


def label(track: TrackView) -> str:
    """Return artist and title if the file has both, else the file's name."""
    row = track.row
    if row.artist and row.title:
        return printable(f"{row.artist} - {row.title}")
    return printable(row.path.name)


def score_table(track: TrackView) -> Table:
    """A row with a bar for each tag of a track; tags that reach their thresholds are bold, genres to write green."""
    own = {tag.name for tag, _ in track.own_tags}
    genres = track.genres
    rows = Table(box=None, pad_edge=False, show_header=False)
    for style in ("", "dim", "", ""):
        rows.add_column(no_wrap=True, style=style)
    for tag, score in track.tags:
        written = tag.category == "genre" and track.written_as(tag) in genres
        style = "bold green" if written else "bold" if tag.name in own else "dim"
        marked = f"{tag.name} *" if written else tag.name
        rows.add_row(Text(marked, style), tag.category, Text(bar(score), style), Text(f"{score:.3f}", style))
    return rows


def facts(track: TrackView) -> list[tuple[str, str]]:
    """Return the lines above the bars: label and value."""
    row = track.row
    frames = f"{row.frames or 0} of {track.view.card.front_end.frame_s:.2f} s"
    return [
        ("File", printable(row.path)),
        ("Track", " - ".join(printable(text) for text in (row.artist, row.title) if text)),
        ("Album", printable(row.album or "")),
        ("Status", track.status + (f": {printable(row.failure)}" if row.failure else "")),
        ("Model", printable(track.view.card.name)),
        ("Length", clock(row.duration_s)),
        ("Frames", frames + (" (a short track, repeated to fill one)" if row.padded else "")),
        ("Genre in file", printable("; ".join(row.genres)) or "none"),
        ("Predicted genre", printable("; ".join(track.genres)) or "none reaches its threshold"),
    ]


def change_text(change: FileChange) -> Text:
    """Return the text for a changed file: a line for each field, before and after, with the reason."""
    text = Text(printable(change.path))
    for name, after in change.after.items():
        before = "; ".join(change.before.get(name, ())) or "(none)"
        text.append(f"\n  {name}: {printable(before)} -> ")
        text.append(printable("; ".join(after)) or "(none)", style="bold green")
        if change.why.get(name):
            text.append(f"   {printable(change.why[name])}", style="dim")
    return text


def home_short(path: Path) -> str:
    """Return a path with `~` for the user's home folder."""
    try:
        return printable(Path("~") / path.relative_to(Path.home()))
    except ValueError:
        return printable(path)
