"""`python -m musictagger` is the `musictagger` command."""

from __future__ import annotations

from musictagger.cli import main

# Guarded: worker processes import this module again.
if __name__ == "__main__":
    main()
