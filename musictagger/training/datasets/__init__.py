"""Labelled music in the layouts people have it: one file a dataset."""
