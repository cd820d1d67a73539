"""The containers of tags, one module for each, all listed in `table`. Independent of plans."""
