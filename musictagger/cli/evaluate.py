"""`musictagger evaluate`: measure a model on labelled music."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musictagger.cli import documents
from musictagger.cli.labelled import measuring, measuring_options, read_labelled, require_writable
from musictagger.cli.options import ANY_PATH, debug_option, json_output, model_options, pass_settings, quiet_option
from musictagger.errors import EXIT_INTERRUPTED, EXIT_SOME_FAILED, printable

if TYPE_CHECKING:
    from musictagger.config import Settings
    from musictagger.datasets.base import Dataset
    from musictagger.evaluation.evaluate import Evaluation
    from musictagger.progress import Progress


@click.command("evaluate")
@measuring_options
@click.option("--report", type=ANY_PATH, metavar="FILE.html", help="Write a report with plots, as one file.")
@click.option("--save/--no-save", default=True, help="Save the metrics in the model's card, or leave it unchanged.")
@quiet_option
@model_options
@json_output
@debug_option
@pass_settings
def command(
    split: str, report: Path | None, save: bool, quiet: bool, as_json: bool, settings: Settings, **flags: Any
) -> int:
    """Measure a model on labelled music.

    The output has metrics with 95 % intervals, the best and worst tags, and the confusion of genres.

    \b
      musictagger evaluate --model NAME --data ~/sorted --report report.html
      musictagger evaluate --model NAME --dataset mtat --data ~/mtat

    Tracks are decoded, sliced and scored as in a scan, so that the metrics are those of its results.
    """
    from musictagger.datasets.base import describe

    require_writable(report)
    with measuring(quiet) as reporter:
        dataset = read_labelled(flags, settings)
        for line in describe(dataset):
            reporter.say(line)
        evaluation = _evaluate(settings, dataset, split, reporter)
        for line in evaluation.matching.describe():
            reporter.say(line)
        written = _write(evaluation, dataset, settings, report, save)
        reporter.close()
        _show(evaluation, written, as_json, quiet)
    if evaluation.track_scores.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_SOME_FAILED if evaluation.track_scores.failures else 0


def _evaluate(settings: Settings, dataset: Dataset, split: Any, progress: Progress) -> Evaluation:
    from musictagger.evaluation.evaluate import evaluate_model
    from musictagger.models.inference import load_predictor

    predictor = load_predictor(settings, progress)
    progress.say(f"{predictor.card.name} on {predictor.device}")
    return evaluate_model(predictor, dataset, split, settings, progress=progress)


def _write(
    evaluation: Evaluation, dataset: Dataset, settings: Settings, report: Path | None, save: bool
) -> dict[str, str]:
    """Write the report and save the metrics in the card; return the path of one and the outcome of the other."""
    from musictagger.evaluation.evaluate import save_metrics
    from musictagger.evaluation.report import Report, example_mels, write_report
    from musictagger.models.find import DEFAULT, find_model

    written: dict[str, str] = {}
    if report is not None:
        card = evaluation.card
        content = Report(
            card=card, evaluation=evaluation, dataset=dataset, mels=example_mels(card, evaluation.labelled)
        )
        written["report"] = str(write_report(report, content))
    weights = find_model(settings.model or DEFAULT, settings.model_folders)
    if save and weights is not None and evaluation.overlap:
        path = printable(weights.with_suffix(".json"))
        written["saved"] = f"{path}: not written, since the model was trained on some of these tracks"
    elif save and weights is not None:
        written["saved"] = save_metrics(weights, evaluation)
    return written


def _show(evaluation: Evaluation, written: dict[str, str], as_json: bool, quiet: bool) -> None:
    if as_json:
        documents.print_json(_document(evaluation, written))
        return
    for path, reason in sorted(evaluation.track_scores.failures.items()):
        click.echo(f"{printable(path)}: {printable(reason)}", err=True)
    if quiet:
        return
    _print(evaluation)
    if "report" in written:
        click.echo(f"Report: {printable(written['report'])}")
    if "saved" in written:
        click.echo(f"Card: {printable(written['saved'])}")


def _print(evaluation: Evaluation) -> None:
    from musictagger.cli import metrics, render

    console = render.console()
    name, genre = evaluation.card.name, evaluation.genre
    heading = f"{name} on {evaluation.dataset}, {evaluation.split}: {len(evaluation.labelled.paths):,} tracks"
    console.print(heading, style="bold", markup=False)
    for reason, count in evaluation.tracks_left_out.items():
        console.print(f"{count:,} left out: {printable(reason)}", markup=False)
    if evaluation.overlap:
        console.print(metrics.overlap_warning(name, evaluation.overlap), style="bold", markup=False)
    console.print()
    console.print(metrics.headline_table(evaluation.headline()))
    console.print()
    console.print(metrics.tag_table(evaluation.tags))
    if genre is not None and len(genre.genres) <= metrics.MAX_GENRES:
        console.print("\nTracks of each genre by predicted genre", style="bold")
        console.print(metrics.confusion_table(genre.genres, genre.song.confusion))
    console.print()


def _document(evaluation: Evaluation, written: dict[str, str]) -> dict[str, Any]:
    track_scores = evaluation.track_scores
    return {
        "schema": documents.EVALUATION,
        "model": evaluation.card.name,
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "task": evaluation.task,
        "aggregate": evaluation.aggregator,
        "tracks": len(evaluation.labelled.paths),
        "heard_in_training": evaluation.overlap,
        "interrupted": track_scores.interrupted,
        "audio_hours": round(track_scores.audio_s / 3600, 4),
        "seconds": round(track_scores.seconds, 3),
        "figures": evaluation.metrics_json(),
        "failures": documents.failure_list(sorted(track_scores.failures.items())),
        "report": written.get("report"),
        "saved": written.get("saved"),
    }
