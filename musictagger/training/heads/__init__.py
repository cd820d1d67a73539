"""Scikit-learn classifiers on the embedding of a frozen backbone. Knows no file and no training loop."""
