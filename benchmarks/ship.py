"""Put a trained model among those that come with the program.

    uv run python -m benchmarks.ship RUN

RUN is the folder of a finished `musictagger train --recipe musictagger-...` run, named after its model. Copies weights
and card into weights/, with the licence and what it owes to whom.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path

from musictagger.models import catalogue
from musictagger.models.card import Card

WEIGHTS = Path(__file__).parent.parent / "weights"
LIMIT_BYTES = 2_000_000
MUSIC = "freely licensed music (CC0, CC-BY, CC-BY-SA, Free Art License, GPL and the like), listed in weights/README.md"


def main() -> None:
    """Copy, or say why not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    run: Path = parser.parse_args().run
    weights = run / f"{run.name}.safetensors"
    card = Card.load(weights.with_suffix(".json"))
    if weights.stat().st_size > LIMIT_BYTES:
        parser.error(f"{weights} is larger than {LIMIT_BYTES / 1e6:g} MB")
    teachers = [catalogue.entry(name) for name in card.training["options"]["teachers"]]
    owed = "; ".join(dict.fromkeys(f"{each.attribution} ({each.licence})" for each in teachers))
    # However often it was interrupted: the command that makes it.
    command = card.training["command"].replace(" --resume", "")
    told = dataclasses.replace(
        card,
        training={**card.training, "command": command},
        licence="GPL-2.0-or-later, as the program",
        attribution=f"Learnt from {', '.join(each.name for each in teachers)}, which are by {owed}; on {MUSIC}",
    )
    shutil.copyfile(weights, WEIGHTS / weights.name)
    told.save(WEIGHTS / f"{run.name}.json")
    print(f"{WEIGHTS / weights.name}: {weights.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
