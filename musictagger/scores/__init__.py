"""From scores of frames to names of genres: pure functions. Independent of files, databases and terminals."""
