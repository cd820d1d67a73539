"""The JSON documents that commands print (docs/json.md): versioned, with one schema per document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from musictagger.library.view import TrackView
    from musictagger.pipeline.scan import ScanReport
    from musictagger.pipeline.writing import WriteOutcome
    from musictagger.tags.journalfile import JournalEntry, Run

TRACK = "musictagger.track/1"
QUERY = "musictagger.query/1"
SCAN = "musictagger.scan/1"
TAGS = "musictagger.tags/1"
APPLIED = "musictagger.applied/1"
HISTORY = "musictagger.history/1"
FAILED = "musictagger.failed/1"
MODELS = "musictagger.models/1"
PLUGINS = "musictagger.plugins/1"
TRAINING = "musictagger.training/1"
RECIPES = "musictagger.recipes/1"
EVALUATION = "musictagger.evaluation/1"
COMPARISON = "musictagger.comparison/1"

SCORE_DIGITS = 4
"""Scores are stored as float16, with 11 bits of precision; more digits would be noise."""


def track_document(track: TrackView) -> dict[str, Any]:
    """Return the document of a track."""
    row = track.row
    return {
        "schema": TRACK,
        "path": str(row.path),
        "status": track.status,
        "reason": row.failure,
        "model": track.view.card.name,
        "artist": row.artist,
        "title": row.title,
        "album": row.album,
        "file_genres": list(row.genres),
        "duration_s": None if row.duration_s is None else round(row.duration_s, 3),
        "frames": row.frames or 0,
        "padded": bool(row.padded),
        "genres": list(track.genres),
        "tags": [
            {"name": tag.name, "category": tag.category, "score": round(score, SCORE_DIGITS)}
            for tag, score in track.tags
        ],
    }


def scan_document(report: ScanReport, tracks: Iterable[TrackView]) -> dict[str, Any]:
    """Return the document of a scan: its results, and the tracks under the scanned paths."""
    return {
        "schema": SCAN,
        "summary": {
            "tagged": report.tagged,
            "unchanged": report.unchanged,
            "written": len(report.written),
            "skipped": report.skipped.total(),
            "failed": len(report.failures) + len(report.unwritten),
            "missing": report.missing,
            "interrupted": report.interrupted,
            "audio_hours": round(report.audio_s / 3600, 4),
            "seconds": round(report.seconds, 3),
            "realtime_factor": round(report.realtime_factor, 1),
        },
        "changes": [
            {"path": str(change.path), "field": name, "before": list(change.before[name]), "after": list(after)}
            for change in (report.planned or report.written)
            for name, after in change.after.items()
        ],
        "tracks": [track_document(track) for track in tracks],
        "failures": failure_list(sorted(report.failures + report.unwritten)),
    }


def outcome_document(run: int, outcome: WriteOutcome) -> dict[str, Any]:
    """Return the document of an apply or undo."""
    return {
        "schema": APPLIED,
        "run": run if outcome.written else None,
        "written": [
            {"path": str(change.path), "before": _fields(change.before), "after": _fields(change.after)}
            for change in outcome.written
        ],
        "refused": failure_list(outcome.refused),
    }


def history_document(runs: Iterable[Run], entries: Iterable[JournalEntry]) -> dict[str, Any]:
    """Return the document of the journal: runs, and the entries of the chosen run."""
    return {
        "schema": HISTORY,
        "runs": [
            {
                "id": run.id,
                "kind": run.kind,
                "started_at": run.started_at.isoformat(timespec="seconds"),
                "note": run.note,
                "counts": dict(run.counts),
            }
            for run in runs
        ],
        "entries": [
            {
                "id": entry.id,
                "run": entry.run_id,
                "path": str(entry.path),
                "state": entry.state,
                "reason": entry.reason,
                "before": _fields(entry.before),
                "after": _fields(entry.after),
                "at": entry.at.isoformat(timespec="seconds"),
            }
            for entry in entries
        ],
    }


def _fields(fields: Mapping[Any, Sequence[str]]) -> dict[str, list[str]]:
    return {name: list(values) for name, values in fields.items()}


def failure_list(failures: Iterable[tuple[Path, str]]) -> list[dict[str, str]]:
    """Return the list of files in a document, each with the reason why it failed."""
    return [{"path": str(path), "reason": reason} for path, reason in failures]


def print_json(document: dict[str, Any]) -> None:
    """Print a document in ASCII, so that an undecodable byte of a file name survives as a lone surrogate."""
    click.echo(json.dumps(document, indent=1))
