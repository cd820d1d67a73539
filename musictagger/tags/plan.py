"""Plans: the changes that would be written and their reasons, as pure values that can be saved as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from musictagger.errors import BadRequestError
from musictagger.records import MergeMode
from musictagger.tags.containers.genrevalues import merge_genres
from musictagger.tags.containers.systems import Field, Values, stored_values
from musictagger.values import load

SCHEMA = "musictagger.plan/1"


@dataclass(frozen=True)
class Proposal:
    """New values for one field. `mode` decides how they are combined with the present ones, `why` is for the user."""

    field: Field
    values: tuple[str, ...]
    mode: MergeMode
    why: str


@dataclass(frozen=True)
class FileChange:
    """The fields of one file that would change. It is refused once size or modification time of the file differ."""

    path: Path
    size: int
    mtime_ns: int
    digest: str | None
    before: Values
    after: Values
    why: Mapping[Field, str]


@dataclass(frozen=True)
class Plan:
    """Changes of any number of files."""

    changes: tuple[FileChange, ...]
    model: str = ""
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def to_json(self) -> dict[str, Any]:
        """The document that `plan --out` saves (docs/json.md)."""
        return {
            "schema": SCHEMA,
            "created_at": self.created_at.isoformat(timespec="seconds"),
            "model": self.model,
            "files": [dataclasses.asdict(_File.of(change)) for change in self.changes],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`. Raises BadRequestError for anything else."""
        if document.get("schema") != SCHEMA:
            raise BadRequestError(f"is {document.get('schema')!r}, not a {SCHEMA}")
        parsed: _Document = load(document, _Document, "not a complete plan", extra=True)
        return cls(tuple(map(_file_from_json, parsed.files)), parsed.model, parsed.created_at)


def save_plan(plan: Plan, path: Path) -> None:
    """Write a plan as JSON. Raises BadRequestError when it cannot be written there."""
    try:
        path.write_text(json.dumps(plan.to_json(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadRequestError(f"{path}: cannot be written: {error.strerror}") from error


def load_plan(path: Path) -> Plan:
    """Read a saved plan. Raises BadRequestError with the path and the fault."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadRequestError(f"{path}: cannot be read as a plan: {error}") from error
    except RecursionError as error:
        raise BadRequestError(f"{path}: is not a plan: it is nested too deeply") from error
    if not isinstance(document, dict):
        raise BadRequestError(f"{path}: is not a {SCHEMA}")
    try:
        return Plan.from_json(document)
    except BadRequestError as error:
        raise BadRequestError(f"{path}: {error}") from error


def changes(
    present: Mapping[str, Sequence[str]], proposals: Iterable[Proposal], *, system: str | None, join: str
) -> tuple[Values, Values, Mapping[Field, str]]:
    """The proposals that would change a field: raw values before, raw values after, and reasons, each by field.

    `present` holds raw values as found in the file; `system` is its tag system, and `join` separates several values
    where that holds only one. A field without new values is never emptied.
    """
    before: dict[Field, tuple[str, ...]] = {}
    after: dict[Field, tuple[str, ...]] = {}
    why: dict[Field, str] = {}
    for proposal in proposals:
        field_ = proposal.field
        old = tuple(present.get(field_, ()))
        new = stored_values(system, merge_genres(old, proposal.values, proposal.mode, join=join), join)
        if new != old:
            before[field_], after[field_], why[field_] = old, new, proposal.why
    return before, after, why


@dataclass(frozen=True)
class _Change:
    """A field of a file in a saved plan."""

    field: Field
    before: tuple[str, ...]
    after: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class _File:
    """A file in a saved plan."""

    path: str
    size: int
    mtime_ns: int
    audio_digest: str | None
    changes: tuple[_Change, ...]

    @classmethod
    def of(cls, change: FileChange) -> _File:
        before, why = change.before, change.why
        changes = tuple(_Change(name, before[name], new, why.get(name, "")) for name, new in change.after.items())
        return cls(str(change.path), change.size, change.mtime_ns, change.digest, changes)


@dataclass(frozen=True)
class _Document:
    """A saved plan."""

    files: tuple[_File, ...]
    model: str
    created_at: datetime


def _file_from_json(file: _File) -> FileChange:
    path = Path(file.path)  # of the string, so that "~" is not expanded
    changes = {change.field: change for change in file.changes}
    if not changes or len(changes) != len(file.changes):
        raise BadRequestError(f"not a complete plan: {file.path!r} must change at least one field, each once")
    try:
        absolute = path.is_absolute() and b"\0" not in os.fsencode(path)
        # Half a surrogate pair, which JSON can hold, cannot be written into tags.
        "".join(value for change in file.changes for value in (*change.before, *change.after)).encode()
    except UnicodeEncodeError as error:
        raise BadRequestError(f"not a complete plan: {error.object!r} is not valid Unicode") from error
    if not absolute:
        raise BadRequestError(f"not a complete plan: {file.path!r} is not an absolute path")
    return FileChange(
        path,
        file.size,
        file.mtime_ns,
        file.audio_digest,
        {name: change.before for name, change in changes.items()},
        {name: change.after for name, change in changes.items()},
        {name: change.why for name, change in changes.items()},
    )
