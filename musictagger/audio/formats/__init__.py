"""The formats of audio files, all listed in `table`. Independent of the fields of tags."""
