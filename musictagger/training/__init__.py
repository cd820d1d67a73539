"""From labelled music to a model: options, features, the training loop, export. Uses no terminal."""
