"""From a folder to frames: files, samples, slicing and the log-mel spectrogram. Uses no tags, models or database."""
