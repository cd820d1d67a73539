"""Backbones, trained models, their cards and vocabularies, and inference."""
