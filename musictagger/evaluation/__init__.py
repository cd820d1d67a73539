"""The quality of a model on labelled music: metrics, intervals, comparisons, reports. Independent of training."""
