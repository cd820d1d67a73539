"""From scores to tags: aggregation over frames, the choice of genres, and writing them into files."""
