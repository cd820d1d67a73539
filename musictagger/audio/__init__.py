"""From a folder to frames: files, samples, slicing and the log-mel spectrogram. Knows no tag, model or database."""
