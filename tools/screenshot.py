"""Draw the README's picture of the terminal from a real scan of the examples.

    uv run python -m tools.screenshot [OUT.svg]

OUT is docs/scan.svg unless given. The scan runs on a copy of examples/ with a library of its own, so no tracked file
changes. In the picture the temporary folder is called /home/anna.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
COLUMNS = 118


def main(arguments: list[str]) -> None:
    """Scan, then write the picture."""
    out = Path(arguments[0]) if arguments else ROOT / "docs" / "scan.svg"
    with TemporaryDirectory() as home:
        shutil.copytree(ROOT / "examples", Path(home) / "Music")
        printed = scan(Path(home)).replace(home, "/home/anna")
    out.write_text(picture("$ musictagger scan ~/Music", printed), encoding="utf-8")
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


def scan(home: Path) -> str:
    """Scan `home`/Music and return what the command printed, with the escape codes of a colour terminal."""
    environment = os.environ | {
        "MUSICTAGGER_DATA_DIR": str(home / ".local/share/musictagger"),
        "MUSICTAGGER_CONFIG": os.devnull,
        "COLUMNS": str(COLUMNS),
        "FORCE_COLOR": "1",
        "TERM": "xterm-256color",
    }
    command = [sys.executable, "-m", "musictagger", "scan", str(home / "Music")]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def picture(prompt: str, printed: str) -> str:
    """An SVG of a terminal that shows a command and its output; it loads nothing from the network."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    console.print(prompt, style="bold")
    console.print(Text.from_ansi(printed))
    svg = console.export_svg(title="musictagger", unique_id="scan")
    return re.sub(r"@font-face\s*{[^}]*}\s*", "", svg)


if __name__ == "__main__":
    main(sys.argv[1:])
