"""How each container keeps its tags, one module a container, all listed in `table`. Knows nothing of plans."""
