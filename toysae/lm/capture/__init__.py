"""A text, and the activations that a model has on it, in files."""
