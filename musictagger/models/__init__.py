"""Backbones, trained models, their cards and inference. Knows no database and no training loop."""
