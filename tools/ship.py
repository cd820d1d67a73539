"""Put a trained model among those that come with the program, and measure how fast those are.

    uv run python -m tools.ship [RUN] [--beside MODEL ...]

RUN is the folder of a finished `musictagger train --recipe musictagger-...` run, named after its model. Copies weights
and card into weights/, with the licence and what it owes to whom. A run that was not measured on its test split, or
whose card does not say what it was trained on, is refused.
Then, or without a RUN at once, all models in weights/ take turns, beside others that are named, and their cards are
told how fast each is: `musictagger models` shows them side by side. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.papers import Table, markdown
from musictagger.config import load_settings
from musictagger.errors import BadRequestError, MusictaggerError, printable
from musictagger.evaluation.speed import card_speed, measure_speed
from musictagger.models.card import Card
from musictagger.models.find import DEFAULT, find_or_pull
from musictagger.models.inference import Predictor
from musictagger.models.published import catalogue
from musictagger.models.weights import load_model

WEIGHTS = Path(__file__).parent.parent / "weights"
MEASURED = "music/test"
LIMIT_BYTES = 2_000_000
SPEED_ROUNDS = 15
MUSIC = "freely licensed music (CC0, CC-BY, CC-BY-SA, Free Art License, GPL and the like), listed in weights/README.md"


def main() -> None:
    """Copy, measure and print, or say why not."""
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
    """Where the weights of a run are now. Raises MusictaggerError where the run is not fit for it."""
    weights = run / f"{run.name}.safetensors"
    if not weights.is_file():
        raise BadRequestError(f"{printable(weights)}: not there; give the folder of a run that is named as its model")
    if weights.stat().st_size > LIMIT_BYTES:
        raise BadRequestError(f"{printable(weights)}: larger than {LIMIT_BYTES / 1e6:g} MB")
    card = load_model(weights).card
    _require_finished(weights.with_suffix(".json"), card)
    shipped = told(card)
    shutil.copyfile(weights, WEIGHTS / weights.name)
    shipped.save(WEIGHTS / f"{run.name}.json")
    return WEIGHTS / weights.name


def _require_finished(path: Path, card: Card) -> None:
    wrong = ""
    if MEASURED not in card.metrics:
        wrong = f"has no figures on {MEASURED}; finish the run with `musictagger train ... --resume`"
    elif not card.training.get("heard"):
        wrong = "does not say which sounds the model was trained on; train it with this version"
    elif not card.training.get("options", {}).get("teachers"):
        wrong = "names no teachers, so it cannot be told to whom something is owed"
    if wrong:
        raise BadRequestError(f"{printable(path)}: {wrong}")


def told(card: Card) -> Card:
    """The card with licence and attribution, and the command that makes the model, however often it was interrupted."""
    teachers = [catalogue.entry(name) for name in card.training["options"]["teachers"]]
    owed = "; ".join(dict.fromkeys(f"{each.attribution} ({each.licence})" for each in teachers))
    return dataclasses.replace(
        card,
        training={**card.training, "command": card.training["command"].replace(" --resume", "")},
        licence="GPL-2.0-or-later, as the program",
        attribution=f"Learnt from {', '.join(each.name for each in teachers)}, which are by {owed}; on {MUSIC}",
    )


def measure_together(beside: Sequence[Path] = ()) -> Table:
    """How fast each model in weights/ is, from waves to scores on the CPU, put into its card; and a table of all.

    What each was found to be at the end of its own training does not compare: machines were busy with other things.
    """
    # Ratios are to the default, which is the first.
    ours = sorted(WEIGHTS.glob("*.safetensors"), key=lambda path: (path.stem != DEFAULT, path.stem))
    predictors = [Predictor(load_model(path), "cpu") for path in (*ours, *beside)]
    measured = measure_speed(predictors, SPEED_ROUNDS)
    # Those beside come last and keep their cards.
    for path, predictor, speed in zip(ours, predictors, measured, strict=False):
        training = {**predictor.card.training, "speed": card_speed(predictor, speed)}
        card = dataclasses.replace(predictor.card, training=training)
        card.save(path.with_suffix(".json"))
    rows = [
        [
            predictor.card.name,
            f"{speed['realtime']:,.0f}",
            f"{speed['ratio']:.2f} ({speed['ratio_low']:.2f} to {speed['ratio_high']:.2f})",
        ]
        for predictor, speed in zip(predictors, measured, strict=True)
    ]
    return [["model", "x real time", "ratio to the first (lowest to highest)"], *rows]


if __name__ == "__main__":
    main()
