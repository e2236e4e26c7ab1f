"""FLOPs per token; a multiplication with its addition counts as two.

Convention for MFU: forward and backward pass without recomputation; attention of a full causal row, in
sliding-window layers only the window. Documents that share a row attend to less than that. The output layer
is a matrix like any other; "without embedding" leaves it out.
"""

from __future__ import annotations

from gemfit_launch.predict.configuration import Configuration

BACKWARD = 2
"""Gradients of the inputs and of the weights cost as much as a forward pass each."""
BACKWARD_FROZEN = 1
"""Weights that are not trained need no gradient."""


def layer_forward(config: Configuration) -> float:
    """Matrix products of all layers, forward."""
    shape = config.shape
    return 2.0 * (shape.num_layers * shape.linear_parameters + config.adapters)


def attention_forward(config: Configuration) -> float:
    """Attention scores and weighted values of all layers, forward."""
    shape = config.shape
    sliding = shape.num_sliding_layers
    seen = sliding * shape.attended_tokens(config.seq_len, window=shape.sliding_window)
    seen += (shape.num_layers - sliding) * shape.attended_tokens(config.seq_len, window=None)
    return 4.0 * seen * shape.num_heads * shape.head_dim


def output_forward(config: Configuration) -> float:
    """The output layer, forward."""
    return 2.0 * config.shape.embedding_parameters


def model_flops(config: Configuration, *, with_embedding: bool) -> float:
    """Model FLOPs per token, as MFU counts them."""
    backward = BACKWARD_FROZEN if config.lora is not None else BACKWARD
    matrices = layer_forward(config) + (output_forward(config) if with_embedding else 0)
    return matrices * (1 + backward) + attention_forward(config) * (1 + BACKWARD)


def hardware_flops(config: Configuration) -> float:
    """Executed FLOPs per token: with recomputation of the output layer and of checkpointed layers."""
    again = layer_forward(config) + attention_forward(config) if config.activation_checkpointing else 0
    return model_flops(config, with_embedding=True) + again + output_forward(config)
