"""The tables of docs/tags.md are generated from the code: `uv run python tests/test_tags_page.py` updates them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from musictagger.config import Settings
from musictagger.tags.containers.genrevalues import genre_names
from musictagger.tags.containers.systems import DEFAULT_JOIN, FIELDS, LOCATIONS, System
from musictagger.tags.containers.table import CONTAINERS

PAGE = Path(__file__).parent.parent / "docs" / "tags.md"
BEGIN = "<!-- made from the code by tests/test_tags_page.py: {} -->"
END = "<!-- end -->"

SEVERAL_VALUES: Mapping[System, str] = {
    "ID3v2.2": "one frame, values joined (default `; `)",
    "ID3v2.3": "one frame, values joined (default `; `)",
    "ID3v2.4": "one frame, values separated by NUL",
    "Vorbis comments": "the field repeated",
    "MP4": "one atom, a `data` atom for each value",
    "ASF": "the attribute repeated",
    "APEv2": "one item, values separated by NUL",
}


def fields_table() -> list[str]:
    """Containers with the same tag systems share rows, one for each system; untagged files get the first."""
    groups: dict[tuple[System, ...], list[str]] = {}
    for container in CONTAINERS.values():
        if container.systems:
            groups.setdefault(container.systems, []).append(container.title)
    rows = [
        (", ".join(titles), system, *(code(LOCATIONS[system][field]) for field in FIELDS), SEVERAL_VALUES[system])
        for systems, titles in groups.items()
        for system in systems
    ]
    return list(table(("files", "tags", *FIELDS, "several values"), rows))


def refusals_table() -> list[str]:
    rows = [(container.title, container.refusal) for container in CONTAINERS.values() if not container.systems]
    return list(table(("files", "why they are left alone"), rows))


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield "| " + " | ".join(row) + " |"


def code(text: str) -> str:
    return f"`{text}`"


def with_tables(page: str) -> str:
    """`page` with the text between the markers generated again."""
    for name, lines in {"fields": fields_table(), "refusals": refusals_table()}.items():
        begin = BEGIN.format(name)
        before, between, after = page.partition(begin + "\n")
        _, end, rest = after.partition(END)
        assert between and end, f"{PAGE}: markers of {name} are missing: {begin} ... {END}"
        page = before + between + "\n".join(lines) + "\n" + end + rest
    return page


def test_the_tables_match_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_tables(page), "run: uv run python tests/test_tags_page.py"


def test_every_container_is_in_the_tables() -> None:
    made = "\n".join(fields_table() + refusals_table())
    assert all(container.title in made for container in CONTAINERS.values())
    assert all(key in made for keys in LOCATIONS.values() for key in keys.values())
    assert all(rule in made for rule in SEVERAL_VALUES.values())
    assert set(SEVERAL_VALUES) == set(LOCATIONS)


def test_the_text_states_the_defaults() -> None:
    page = PAGE.read_text(encoding="utf-8")
    settings = Settings()
    assert settings.id3v23_join == DEFAULT_JOIN
    assert f"`{DEFAULT_JOIN}`" in page
    assert f"`--write {settings.write}` (the default)" in page
    assert (settings.moods, settings.provenance) == (False, False)


def test_the_numbered_genres_are_read_as_the_page_says() -> None:
    lines = re.findall(r"^\| `([^`]+)` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) >= 6
    for stored, meant in lines:
        assert ", ".join(genre_names(stored)) == meant


def test_the_example_of_provenance_is_one_line_of_json() -> None:
    (line,) = re.findall(r"```json\n(.*)\n```", PAGE.read_text(encoding="utf-8"))
    assert list(json.loads(line)) == ["model", "version", "time", "scores"]


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
