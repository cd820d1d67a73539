"""What is claimed about speed and memory, and sets of music to learn from, as commands anyone can run."""
