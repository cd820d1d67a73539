"""`musictagger evaluate`: how good a model is on labelled music."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musictagger.cli.labelled import measuring_options, read_labelled, require_place
from musictagger.cli.options import (
    ExistingPath,
    debug_option,
    json_output,
    model_options,
    pass_settings,
    quiet_option,
    stoppable,
)
from musictagger.errors import EXIT_INTERRUPTED, EXIT_SOME_FAILED, MusictaggerError, printable

if TYPE_CHECKING:
    from musictagger.config import Settings
    from musictagger.datasets import Dataset
    from musictagger.evaluation.evaluate import Evaluation


@click.command("evaluate")
@measuring_options
@click.option("--report", type=ExistingPath, metavar="FILE.html", help="Write a report with pictures, in one file.")
@click.option("--save/--no-save", default=True, help="Put the figures into the model's card, or leave it alone.")
@quiet_option
@model_options
@json_output
@debug_option
@pass_settings
def command(
    split: str, report: Path | None, save: bool, quiet: bool, as_json: bool, settings: Settings, **flags: Any
) -> int:
    """Measure a model on labelled music: figures with 95 % intervals, the best and worst tags, genres mixed up.

    \b
      musictagger evaluate --model NAME --data ~/sorted
      musictagger evaluate --model musicnn-mtt --dataset mtat --data ~/MagnaTagATune --report mtt.html

    Tracks are decoded, cut and scored as a scan does it, so what is measured is what a scan gives.
    """
    from musictagger.cli import progress
    from musictagger.datasets import describe

    require_place(report)
    with progress.reporter(quiet) as reporter, stoppable(reporter):
        dataset = read_labelled(flags, settings)
        for line in describe(dataset):
            reporter.say(line)
        try:
            evaluation = _evaluate(settings, dataset, split, reporter)
        except MusictaggerError as error:
            if not reporter.stopping:
                raise
            reporter.say(str(error))
            return EXIT_INTERRUPTED
        for line in evaluation.matching.describe():
            reporter.say(line)
        written = _write(evaluation, dataset, settings, report, save)
        reporter.close()
        _show(evaluation, written, as_json, quiet)
    if evaluation.track_scores.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_SOME_FAILED if evaluation.track_scores.failures else 0


def _evaluate(settings: Settings, dataset: Dataset, split: Any, reporter: Any) -> Evaluation:
    from musictagger.config import frame_rule
    from musictagger.evaluation.evaluate import evaluate_model
    from musictagger.models.inference import load_predictor

    predictor = load_predictor(settings, reporter)
    reporter.say(f"{predictor.card.name} on {predictor.device}")
    return evaluate_model(
        predictor,
        dataset,
        split,
        rule=frame_rule(predictor.card.front_end, settings),
        aggregator=settings.aggregate,
        workers=settings.workers,
        timeout_s=settings.decode_timeout,
        progress=reporter,
        stop=lambda: reporter.stopping,
    )


def _write(
    evaluation: Evaluation, dataset: Dataset, settings: Settings, report: Path | None, save: bool
) -> dict[str, str]:
    """The report and the figures in the card: what became of each, as a sentence or a path."""
    from musictagger.evaluation.evaluate import save_metrics
    from musictagger.evaluation.report import example_mels, write_report
    from musictagger.models.find import DEFAULT, find_model

    written: dict[str, str] = {}
    if report is not None:
        card = evaluation.card
        mels = example_mels(card, evaluation)
        written["report"] = str(write_report(report, card=card, evaluation=evaluation, dataset=dataset, mels=mels))
    weights = find_model(settings.model or DEFAULT, settings.model_folders)
    if save and weights is not None and evaluation.overlap:
        path = printable(weights.with_suffix(".json"))
        written["saved"] = f"{path}: not written, since the model was trained on some of these tracks"
    elif save and weights is not None:
        written["saved"] = save_metrics(weights, evaluation)
    return written


def _show(evaluation: Evaluation, written: dict[str, str], as_json: bool, quiet: bool) -> None:
    from musictagger.cli import documents

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
    from musictagger.cli import figures, render
    from musictagger.evaluation.evaluate import headline

    console = render.console()
    heads = f"{evaluation.model} on {evaluation.dataset}, {evaluation.split}: {len(evaluation.paths):,} tracks"
    console.print(heads, style="bold", markup=False)
    for reason, count in evaluation.figures["tracks_left_out"].items():
        console.print(f"{count:,} left out: {printable(reason)}", markup=False)
    if evaluation.overlap:
        console.print(figures.too_good(evaluation.model, evaluation.overlap), style="bold", markup=False)
    console.print()
    console.print(figures.headline_table(headline(evaluation.figures)))
    console.print()
    console.print(figures.tag_table(evaluation.figures.get("tags", evaluation.figures)))
    if evaluation.task == "genre" and len(evaluation.names) <= figures.MOST_GENRES:
        console.print("\nTracks of each genre, and the genres they were taken for", style="bold")
        console.print(figures.confusion_table(evaluation.figures["genres"], evaluation.figures["song"]["confusion"]))
    console.print()


def _document(evaluation: Evaluation, written: dict[str, str]) -> dict[str, Any]:
    from musictagger.cli import documents

    track_scores = evaluation.track_scores
    return {
        "schema": documents.EVALUATION,
        "model": evaluation.model,
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "task": evaluation.task,
        "aggregate": evaluation.aggregator,
        "tracks": len(evaluation.paths),
        "heard_in_training": evaluation.overlap,
        "interrupted": track_scores.interrupted,
        "audio_hours": round(track_scores.audio_s / 3600, 4),
        "seconds": round(track_scores.seconds, 3),
        "figures": evaluation.figures,
        "failures": documents.failure_list(sorted(track_scores.failures.items())),
        "report": written.get("report"),
        "saved": written.get("saved"),
    }
