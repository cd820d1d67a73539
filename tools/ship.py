"""Add a trained model to those that come with the program, and measure how fast they are.

    uv run python -m tools.ship [RUN] [--beside MODEL ...]

RUN is the folder of a finished `musictagger train --recipe musictagger-...` run, named after its model. Its weights and
card are copied into weights/, with the licence and the attribution. A run that was not measured on its test split, or
whose card does not record its training tracks, is refused.
Then (or at once, without RUN) all models in weights/ and those of --beside are measured in turns. The speeds go
into the cards in weights/, and `musictagger models` shows them. Run nothing else on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from musictagger.config import load_settings
from musictagger.errors import BadRequestError, MusictaggerError, printable
from musictagger.evaluation.speed import card_speed, measure_speed
from musictagger.models.card import Card
from musictagger.models.find import DEFAULT, find_or_pull
from musictagger.models.inference import Predictor
from musictagger.models.published import catalogue
from musictagger.models.weights import load_model
from tools.tables import Table, markdown

WEIGHTS = Path(__file__).parent.parent / "weights"
MEASURED = "music/test"
LIMIT_BYTES = 2_000_000
SPEED_ROUNDS = 15
MUSIC = "freely licensed music (CC0, CC-BY, CC-BY-SA, Free Art License, GPL and the like), listed in weights/README.md"


def main() -> None:
    """Copy the run, measure all models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--beside", nargs="+", default=[], metavar="MODEL")
    arguments = parser.parse_args()
    try:
        settings = load_settings({})
        beside = [find_or_pull(name, settings.model_folders) for name in arguments.beside]
        if arguments.run:
            shipped = ship(arguments.run.resolve())
            print(f"{shipped}: {shipped.stat().st_size / 1e6:.2f} MB")
        print(markdown(measure_together(beside)))
    except MusictaggerError as error:
        parser.error(str(error))


def ship(run: Path) -> Path:
    """Copy a run into weights/ and return the path of its weights. Raises MusictaggerError for an unfit run."""
    weights = run / f"{run.name}.safetensors"
    if not weights.is_file():
        raise BadRequestError(f"{printable(weights)}: does not exist; give a run's folder, named after its model")
    if weights.stat().st_size > LIMIT_BYTES:
        raise BadRequestError(f"{printable(weights)}: larger than {LIMIT_BYTES / 1e6:g} MB")
    card = load_model(weights).card
    _require_finished(weights.with_suffix(".json"), card)
    shipped = with_attribution(card)
    shutil.copyfile(weights, WEIGHTS / weights.name)
    shipped.save(WEIGHTS / f"{run.name}.json")
    return WEIGHTS / weights.name


def _require_finished(path: Path, card: Card) -> None:
    wrong = ""
    if MEASURED not in card.metrics:
        wrong = f"has no metrics on {MEASURED}; finish the run with `musictagger train ... --resume`"
    elif not card.training.get("heard"):
        wrong = "does not record the tracks that the model was trained on; train it with this version"
    elif not card.training.get("options", {}).get("teachers"):
        wrong = "names no teachers, so the attribution is unknown"
    if wrong:
        raise BadRequestError(f"{printable(path)}: {wrong}")


def with_attribution(card: Card) -> Card:
    """The card with licence and attribution, and the training command without --resume."""
    teachers = [catalogue.entry(name) for name in card.training["options"]["teachers"]]
    owed = "; ".join(dict.fromkeys(f"{each.attribution} ({each.licence})" for each in teachers))
    return dataclasses.replace(
        card,
        training={**card.training, "command": card.training["command"].replace(" --resume", "")},
        licence="GPL-2.0-or-later, as the program",
        attribution=f"Learnt from {', '.join(each.name for each in teachers)}, which are by {owed}; on {MUSIC}",
    )


def measure_together(beside: Sequence[Path] = ()) -> Table:
    """Measure each model's speed from waves to scores on the CPU, update the cards in weights/, return a table.

    The speeds measured at the end of each training cannot be compared, because other work ran beside some of them.
    """
    # The default model is the first, and ratios are relative to it.
    ours = sorted(WEIGHTS.glob("*.safetensors"), key=lambda path: (path.stem != DEFAULT, path.stem))
    predictors = [Predictor(load_model(path), "cpu") for path in (*ours, *beside)]
    measured = measure_speed(predictors, SPEED_ROUNDS)
    # The models of --beside come last and keep their cards.
    for path, predictor, speed in zip(ours, predictors, measured, strict=False):
        training = {**predictor.card.training, "speed": card_speed(predictor, speed)}
        card = dataclasses.replace(predictor.card, training=training)
        card.save(path.with_suffix(".json"))
    rows = [
        [
            predictor.card.name,
            f"{speed.realtime:,.0f}",
            f"{speed.ratio:.2f} ({speed.ratio_low:.2f} to {speed.ratio_high:.2f})",
        ]
        for predictor, speed in zip(predictors, measured, strict=True)
    ]
    return [["model", "x real time", "ratio to the first (lowest to highest)"], *rows]


if __name__ == "__main__":
    main()
