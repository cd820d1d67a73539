"""Spectrograms of whole tracks on disk, computed once. Independent of models and labels."""
