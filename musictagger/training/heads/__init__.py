"""Scikit-learn classifiers on the embedding of a frozen backbone. Independent of files and the training loop."""
