"""From scores of frames to names of genres: pure functions. Knows no file, database or terminal."""
