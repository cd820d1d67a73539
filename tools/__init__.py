"""Makers of corpora, of releases and of the README's picture. Nothing in the package imports them."""
