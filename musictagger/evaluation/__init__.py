"""How good a model is on labelled music: metrics, intervals, comparisons, reports. Independent of training."""
