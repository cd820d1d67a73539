"""How each format stores its audio, all listed in `table`. Knows nothing of tags' fields."""
