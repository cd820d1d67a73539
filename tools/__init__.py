"""Makers of corpora and releases: run by hand, never imported by the package."""
