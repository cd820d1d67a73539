"""Backbones, trained models, their cards and inference. Independent of databases and training."""
