"""From bytes of the input to checked messages: blocks, lines, contents, errors with their place."""
