"""The tree of genres: spellings of the same genre, and the genres that each implies. The data is in genres.toml.

A genre may have several parents: Indie Rock is Rock and Indie. A user's own genres.toml changes names and parents.
"""

from __future__ import annotations

import functools
import graphlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from musictagger.errors import BadRequestError, hint, hint_by_key
from musictagger.paths import read_toml

BUNDLED_FILE = Path(__file__).with_name("genres.toml")
TYPO_LIKENESS = 0.9
"""Similarity (difflib's ratio) to a known name from which a new one counts as a typo: one letter in ten."""
HINT_LIKENESS = 0.75
"""Similarity from which a known name is suggested for an unknown one: one letter of a short word."""


@dataclass(frozen=True, eq=False)
class GenreTree:
    """Names and ancestors of genres, created by `load_tree`. Lookups are dictionary accesses."""

    names: Mapping[str, str]
    """The name to write, by the `genre_key` of each spelling."""
    above: Mapping[str, frozenset[str]]
    """By name of a genre, the names of all genres that it implies."""

    def canonical(self, name: str) -> str:
        """The name to write for a genre; a name that is not in the tree is returned unchanged."""
        return self.names.get(genre_key(name), name)

    def ancestors(self, name: str) -> frozenset[str]:
        """The names of all genres that this one implies; none for a name that is not in the tree."""
        return self.above.get(self.canonical(name), frozenset())

    def key(self, name: str) -> str:
        """A key that is equal for two names of the same genre, even one that is not in the tree."""
        return genre_key(self.canonical(name))


def genre_key(name: str) -> str:
    """A name without case, spaces, punctuation and accents, with `and` for `&`: `Forró` = `forro`, `R & B` = `r and b`.

    Marks that are part of the letters of a script, as in Hindi or Japanese, are kept.
    """
    folded = unicodedata.normalize("NFKD", name).casefold().replace("&", "and")
    return "".join(c for c in folded if _is_significant(c)) or folded


def load_tree(user_file: Path | None = None) -> GenreTree:
    """The bundled tree, modified by the user's genres.toml if it exists. Cached until the file changes.

    Raises BadRequestError, with the path, for a file that cannot be read, an unknown table (with a suggestion), a name
    that looks like a typo, and genres that would imply each other.
    """
    if user_file is None:
        return _load(None, None)
    try:
        stat = user_file.stat()
    except FileNotFoundError:
        return _load(None, None)
    except OSError as error:
        raise BadRequestError(f"{user_file}: cannot be read: {error.strerror}") from error
    return _load(user_file.absolute(), (stat.st_mtime_ns, stat.st_size))


@functools.lru_cache(maxsize=8)
def _load(user_file: Path | None, stamp: tuple[int, int] | None) -> GenreTree:
    """`stamp` is part of the cache's key."""
    draft = _bundled()
    if user_file is not None:
        tables = _tables(user_file, ("aliases", "parents"))
        _apply_aliases(draft, tables["aliases"], user_file)
        _apply_parents(draft, tables["parents"], user_file)
    return _tree_of(draft, user_file or BUNDLED_FILE)


@dataclass
class _Draft:
    """A tree under construction. Genres are identified by the `genre_key` of their first name, even when renamed."""

    names: dict[str, str] = field(default_factory=dict)
    parents: dict[str, set[str]] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> str:
        key = genre_key(name)
        return self.same.get(key, key)

    def under(self, key: str) -> set[str]:
        return self.parents.setdefault(key, set())


def _bundled() -> _Draft:
    draft = _Draft()
    tables = _tables(BUNDLED_FILE, ("children", "aliases"))
    for parent, children in tables["children"].items():
        for name in (parent, *children):
            draft.names.setdefault(genre_key(name), name)
        for child in children:
            draft.under(genre_key(child)).add(genre_key(parent))
    _apply_aliases(draft, tables["aliases"], BUNDLED_FILE)
    return draft


def _apply_aliases(draft: _Draft, aliases: Mapping[str, Any], path: Path) -> None:
    """Apply [aliases]: each line is a genre, in any spelling, and its new name, which may be that of another genre."""
    known, lines = frozenset(draft.names), dict[str, str]()
    into: dict[str, str] = {}
    for left, value in aliases.items():
        right = _name(value, path, left)
        old, new = draft.find(_name(left, path, "aliases")), draft.find(right)
        if old in lines:
            raise BadRequestError(f"{path}: {lines[old]!r} and {left!r} are the same genre: keep one of the two lines")
        lines[old] = left
        if old == new:
            draft.names[new] = right
        else:
            draft.names.setdefault(new, right)
            into[old] = new
    ends: dict[str, str] = {}
    for key in _sorted({old: {new} for old, new in into.items()}, lines, "=", path):
        ends[key] = ends[into[key]] if key in into else key
    _merge(draft, known, {old: ends[old] for old in into}, into)


def _sorted(above: Mapping[str, set[str]], names: Mapping[str, str], relation: str, path: Path) -> list[str]:
    """All keys, each after those above it. Raises BadRequestError, with the `names`, for a circle."""
    try:
        # Sorted, so that the circle named is always the same one.
        return list(graphlib.TopologicalSorter({key: sorted(keys) for key, keys in above.items()}).static_order())
    except graphlib.CycleError as error:
        circle = f" {relation} ".join(repr(names[key]) for key in reversed(error.args[1]))
        raise BadRequestError(f"{path}: {circle} leads in a circle") from error


def _merge(draft: _Draft, known: frozenset[str], ends: Mapping[str, str], into: Mapping[str, str]) -> None:
    """Make each genre an alias of its end, which gets its children and, if it is a new genre, its parents."""
    for old, end in ends.items():
        if end not in known and into[old] not in known:
            draft.under(end).update(draft.under(old))
    for old in ends:
        draft.names.pop(old, None)
        draft.parents.pop(old, None)
    draft.same = {key: ends.get(target, target) for key, target in draft.same.items()} | dict(ends)
    draft.parents = {key: {ends.get(one, one) for one in above} - {key} for key, above in draft.parents.items()}


def _apply_parents(draft: _Draft, parents: Mapping[str, Any], path: Path) -> None:
    """Apply [parents]: each line is a genre and its parents: a name, a list of names, or "" for none."""
    lines: dict[str, str] = {}
    for child in parents:
        key = draft.find(_name(child, path, "parents"))
        if key in lines:
            raise BadRequestError(f"{path}: {lines[key]!r} and {child!r} are the same genre: keep one of the two lines")
        if key not in draft.names and (known := _hint(draft, child, TYPO_LIKENESS)):
            otherwise = f'if it is a genre of its own, add "{child}" = "{child}" to [aliases]'
            _refuse(path, f"unknown genre {child!r}{known} {otherwise}")
        lines[key] = child
    for key, child in lines.items():
        draft.names.setdefault(key, child)
    for key, child in lines.items():
        value = parents[child]
        names = value if isinstance(value, list) else [value] if value != "" else []
        draft.parents[key] = {_parent(draft, _name(name, path, child), path) for name in names}


def _parent(draft: _Draft, name: str, path: Path) -> str:
    key = draft.find(name)
    if key not in draft.names:
        known = _hint(draft, name, HINT_LIKENESS) or f'; to add it, write "{name}" = ""'
        _refuse(path, f"unknown genre {name!r} as a parent{known}")
    return key


def _hint(draft: _Draft, name: str, likeness: float) -> str:
    same = {key: draft.names[target] for key, target in draft.same.items()}
    return hint_by_key(genre_key(name), draft.names | same, likeness)


def _tree_of(draft: _Draft, path: Path) -> GenreTree:
    above: dict[str, frozenset[str]] = dict.fromkeys(draft.names, frozenset())
    for key in _sorted(draft.parents, draft.names, "under", path):
        direct = draft.parents.get(key, set())
        above[key] = frozenset(direct).union(*(above[parent] for parent in direct))
    other_spellings = {key: draft.names[target] for key, target in draft.same.items()}
    return GenreTree(
        draft.names | other_spellings,
        {draft.names[key]: frozenset(draft.names[one] for one in ancestors) for key, ancestors in above.items()},
    )


def _tables(path: Path, wanted: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    content = read_toml(path)
    for name, table in content.items():
        if name not in wanted:
            known = hint(name, wanted) or f"; known are: {', '.join(wanted)}"
            _refuse(path, f"unknown table {name!r}{known}")
        if not isinstance(table, dict):
            _refuse(path, f'{name} must be a table: a line [{name}], and below it lines like "Hip-Hop" = "Hip Hop"')
    return {name: content.get(name, {}) for name in wanted}


def _name(value: object, path: Path, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        _refuse(path, f"{where}: {value!r} is not the name of a genre")
    return value.strip()


def _is_significant(char: str) -> bool:
    return unicodedata.category(char)[0] in "LNM" and not "\u0300" <= char <= "\u036f"


def _refuse(path: Path, message: str) -> NoReturn:
    raise BadRequestError(f"{path}: {message}")


def read_allowed(path: Path) -> frozenset[str]:
    """The names in a list of genres, one per line. Raises BadRequestError for an empty list.

    A `#` at the start of a word starts a comment; one inside a word belongs to it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise BadRequestError(f"{path}: cannot be read as a list of genres: {error}") from error
    names = {f" {line}".replace("\t", " ").partition(" #")[0].strip() for line in lines} - {""}
    if not names:
        _refuse(path, "contains no genre; write one per line")
    return frozenset(names)
