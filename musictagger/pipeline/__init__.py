"""From files to scores to tags in files: decode workers, batches of many tracks, scans, writing. Uses no terminal."""
