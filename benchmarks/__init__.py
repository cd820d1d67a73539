"""Measurements of speed and quality, as commands that anyone can run. Nothing in the package imports them."""
