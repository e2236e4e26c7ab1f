"""Talk to a model in a terminal, in the format that it was trained in."""
