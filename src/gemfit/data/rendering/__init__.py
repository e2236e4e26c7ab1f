"""From messages to tokens: control text, labels, digests, one part for each block."""
