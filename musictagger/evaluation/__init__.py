"""How good a model is on labelled music: metrics, intervals, comparisons, reports. Knows no training loop."""
