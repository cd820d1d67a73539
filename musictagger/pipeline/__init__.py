"""Files to scores to files: decode workers, batches of many tracks, scans and tag writing. Knows no terminal."""
