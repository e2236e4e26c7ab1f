"""Floating-point operations of one token. A multiplication with its addition counts as two.

Convention for MFU: forward and backward pass, without anything that is computed again; the attention counts
what a causal row sees, layers with a window only their window. Documents that share a row see less than
that. The output layer is a matrix like any other; "without embedding" leaves it out.
"""

from __future__ import annotations

from gemfit_launch.predict.model_state_memory import Setting

BACKWARD = 2
"""Gradients of the inputs and of the weights cost as much as a forward pass each."""
BACKWARD_FROZEN = 1
"""Weights that are not trained need no gradient."""


def layer_forward(setting: Setting) -> float:
    """All layers, forward: the matrices."""
    shape = setting.shape
    adapters = setting.trained if setting.lora is not None else 0
    return 2.0 * (shape.num_layers * shape.linear_parameters + adapters)


def attention_forward(setting: Setting) -> float:
    """All layers, forward: scores, and values weighed by them."""
    shape = setting.shape
    sliding = shape.num_sliding_layers
    seen = sliding * shape.attended_tokens(setting.seq_len, window=shape.sliding_window)
    seen += (shape.num_layers - sliding) * shape.attended_tokens(setting.seq_len, window=None)
    return 4.0 * seen * shape.num_heads * shape.head_dim


def output_forward(setting: Setting) -> float:
    """The output layer, forward."""
    return 2.0 * setting.shape.embedding_parameters


def model_flops(setting: Setting, *, with_embedding: bool) -> float:
    """What MFU counts."""
    backward = BACKWARD_FROZEN if setting.lora is not None else BACKWARD
    matrices = layer_forward(setting) + (output_forward(setting) if with_embedding else 0)
    return matrices * (1 + backward) + attention_forward(setting) * (1 + BACKWARD)


def hardware_flops(setting: Setting) -> float:
    """What is really computed: layers a second time under checkpointing, and the output layer always."""
    again = layer_forward(setting) + attention_forward(setting) if setting.activation_checkpointing else 0
    return model_flops(setting, with_embedding=True) + again + output_forward(setting)
