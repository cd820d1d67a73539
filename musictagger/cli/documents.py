"""The JSON documents (docs/json.md): versioned, stable, the same for a file in a query as for that file alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from musictagger.library.view import TrackView
    from musictagger.scan import Report

TRACK = "musictagger.track/1"
QUERY = "musictagger.query/1"
SCAN = "musictagger.scan/1"
TAGS = "musictagger.tags/1"
FAILED = "musictagger.failed/1"
MODELS = "musictagger.models/1"
PLUGINS = "musictagger.plugins/1"

SCORE_DIGITS = 4
"""Scores are stored in 11 bits of precision: more digits would be noise."""


def track_document(track: TrackView) -> dict[str, Any]:
    """One track."""
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


def query_document(tracks: Iterable[TrackView]) -> dict[str, Any]:
    """What a query found."""
    return {"schema": QUERY, "tracks": [track_document(track) for track in tracks]}


def scan_document(report: Report, tracks: Iterable[TrackView], dry_run: bool) -> dict[str, Any]:
    """What a scan did, and the tracks it looked at."""
    return {
        "schema": SCAN,
        "summary": {
            "tagged": report.tagged,
            "unchanged": report.unchanged,
            "written": 0 if dry_run else len(report.changes),
            "skipped": report.skipped.total(),
            "failed": len(report.failures) + len(report.unwritten),
            "missing": report.missing,
            "interrupted": report.interrupted,
            "audio_hours": round(report.audio_s / 3600, 4),
            "seconds": round(report.seconds, 3),
            "realtime_factor": round(report.realtime_factor, 1),
        },
        "changes": [
            {"path": str(change.path), "before": list(change.before), "after": list(change.after)}
            for change in report.changes
        ],
        "tracks": [track_document(track) for track in tracks],
        "failures": failure_list(sorted(report.failures + report.unwritten)),
    }


def failure_list(failures: Sequence[tuple[Path, str]]) -> list[dict[str, str]]:
    """Files with the reason why they failed."""
    return [{"path": str(path), "reason": reason} for path, reason in failures]


def print_json(document: dict[str, Any]) -> None:
    """A document on standard output. ASCII only: an undecodable byte of a file name survives as a lone surrogate."""
    click.echo(json.dumps(document, indent=1))
