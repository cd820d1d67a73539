"""From a folder to frames: which files, their samples, the slicing rule and the log-mel spectrogram."""
