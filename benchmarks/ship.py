"""Put a trained model among those that come with the program.

    uv run python -m benchmarks.ship RUN

RUN is the folder of a finished `musictagger train --recipe musictagger-...` run, named after its model. Copies weights
and card into weights/, with the licence and what it owes to whom, and measures the speed of all models that are there,
which `musictagger models` shows side by side: leave the machine alone meanwhile. A run that was not measured on its
test split, or whose card does not say what it was trained on, is refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path

import torch

from musictagger.errors import BadRequestError, MusictaggerError, printable
from musictagger.models import catalogue
from musictagger.models.card import Card
from musictagger.models.inference import Predictor
from musictagger.models.weights import load_model
from musictagger.training.speed import measure_speed

WEIGHTS = Path(__file__).parent.parent / "weights"
MEASURED = "music/test"
LIMIT_BYTES = 2_000_000
SPEED_ROUNDS = 15
MUSIC = "freely licensed music (CC0, CC-BY, CC-BY-SA, Free Art License, GPL and the like), listed in weights/README.md"


def main() -> None:
    """Copy, or say why not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    try:
        shipped = ship(parser.parse_args().run.resolve())
        measure_together()
    except MusictaggerError as error:
        parser.error(str(error))
    print(f"{shipped}: {shipped.stat().st_size / 1e6:.2f} MB")


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


def measure_together() -> None:
    """Put into the card of each model in weights/ how fast it is, from waves to scores on the CPU, all in turns.

    What each was found to be at the end of its own training does not compare: machines were busy with other things.
    """
    paths = sorted(WEIGHTS.glob("*.safetensors"))
    predictors = [Predictor(load_model(path), "cpu") for path in paths]
    device = f"cpu, {torch.get_num_threads()} threads"
    for path, predictor, speed in zip(paths, predictors, measure_speed(predictors, SPEED_ROUNDS), strict=True):
        measured = {"x_real_time": round(speed["realtime"]), "device": device}
        card = dataclasses.replace(predictor.card, training={**predictor.card.training, "speed": measured})
        card.save(path.with_suffix(".json"))


if __name__ == "__main__":
    main()
