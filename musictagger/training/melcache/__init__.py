"""Spectrograms of whole tracks on disk, computed once. Knows no model and no labels."""
