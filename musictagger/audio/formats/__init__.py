"""How each format keeps its audio, one module a format, all listed in `table`. Knows nothing of tags' fields."""
