"""Plans: the changes that would be written and their reasons, as pure values that can be saved as JSON."""

from __future__ import annotations

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
from musictagger.tags.containers.systems import FIELDS, Field, Values, stored_values

SCHEMA = "musictagger.plan/1"


@dataclass(frozen=True)
class Proposal:
    """New values for one field. `mode` says how they are combined with the present ones, `why` is for the user."""

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
            "files": [_file_to_json(change) for change in self.changes],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`. Raises BadRequestError for anything else."""
        if document.get("schema") != SCHEMA:
            raise BadRequestError(f"is {document.get('schema')!r}, not a {SCHEMA}")
        try:
            return cls(
                tuple(_file_from_json(file) for file in document["files"]),
                str(document["model"]),
                datetime.fromisoformat(document["created_at"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BadRequestError(f"is no complete plan: {type(error).__name__}: {error}") from error


def save_plan(plan: Plan, path: Path) -> None:
    """Write a plan as JSON. Raises BadRequestError when it cannot be written there."""
    try:
        path.write_text(json.dumps(plan.to_json(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadRequestError(f"{path}: cannot be written: {error.strerror}") from error


def load_plan(path: Path) -> Plan:
    """Read a saved plan. Raises BadRequestError with the path and what is wrong with it."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadRequestError(f"{path}: cannot be read as a plan: {error}") from error
    except RecursionError as error:
        raise BadRequestError(f"{path}: is no plan: its lists are nested too deep") from error
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


def _file_to_json(change: FileChange) -> dict[str, Any]:
    return {
        "path": str(change.path),
        "size": change.size,
        "mtime_ns": change.mtime_ns,
        "audio_digest": change.digest,
        "changes": [
            {
                "field": name,
                "before": list(change.before[name]),
                "after": list(change.after[name]),
                "why": change.why.get(name, ""),
            }
            for name in change.after
        ],
    }


def _file_from_json(file: Mapping[str, Any]) -> FileChange:
    changes = {change["field"]: change for change in file["changes"]}
    unknown = set(changes) - set(FIELDS)
    if unknown:
        raise ValueError(f"unknown field {sorted(unknown)[0]!r}")
    if not changes or len(changes) != len(file["changes"]):
        raise ValueError(f"{file['path']!r} wants each field once, and at least one")
    digest = file["audio_digest"]
    if not isinstance(digest, str | None):
        raise ValueError(f"audio_digest {digest!r} is no text")
    return FileChange(
        _path(file["path"]),
        int(file["size"]),
        int(file["mtime_ns"]),
        digest,
        {name: _texts(change["before"]) for name, change in changes.items()},
        {name: _texts(change["after"]) for name, change in changes.items()},
        {name: str(change["why"]) for name, change in changes.items()},
    )


def _path(text: str) -> Path:
    """A path that a file can have: whole, whatever folder a plan is applied in."""
    path = Path(text)
    if not path.is_absolute() or b"\0" in os.fsencode(path):
        raise ValueError(f"{text!r} is no absolute path")
    return path


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{values!r} is no list of texts")
    for value in values:
        value.encode()  # half a character, which JSON can hold and no tag can, raises a ValueError
    return tuple(values)
