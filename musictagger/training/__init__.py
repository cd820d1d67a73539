"""From labelled music to a model: datasets, features computed once, the training loop, metrics and reports."""
