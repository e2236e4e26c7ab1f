"""The shape of a dense text model, and how many parameters of it lie where.

Pure arithmetic on a configuration: exact for the families in ``FAMILIES``, which is what the tests hold
against `transformers`. A tied embedding is counted once, as the parameter that it is.
"""

from __future__ import annotations

from dataclasses import dataclass

GATED_MATRICES = 3
"""Gate, up and down projection of the feed-forward part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A decoder as Hugging Face describes it; the vision tower is not part of it."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    sliding_window: int | None = None
    """Tokens that a sliding layer sees; `None` where there is no such layer."""
    num_sliding_layers: int = 0
    tied: bool = True
    """The output layer is the embedding."""
    norms_per_layer: int = 4
    qk_norm: bool = False
    attention_biases: tuple[str, ...] = ()
    """Projections of the attention that have a bias."""
    mlp_bias: bool = False
    vision_parameters: int = 0
    """Vision tower and projector of the checkpoint, which training on text leaves out."""

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each linear module of a layer, by its name."""
        query, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden_size, query),
            "k_proj": (self.hidden_size, keys),
            "v_proj": (self.hidden_size, keys),
            "o_proj": (query, self.hidden_size),
            "gate_proj": (self.hidden_size, self.intermediate_size),
            "up_proj": (self.hidden_size, self.intermediate_size),
            "down_proj": (self.intermediate_size, self.hidden_size),
        }

    @property
    def linear_parameters(self) -> int:
        """Weights of the matrices of one layer, which are what a token is multiplied with."""
        return sum(inputs * outputs for inputs, outputs in self.linear_shapes.values())

    @property
    def layer_parameters(self) -> int:
        """Everything in one decoder layer."""
        return sum(self.layer_tensors)

    @property
    def layer_tensors(self) -> tuple[int, ...]:
        """Elements of each tensor of one layer."""
        shapes = self.linear_shapes
        matrices = [inputs * outputs for inputs, outputs in shapes.values()]
        biases = [shapes[name][1] for name in self.attention_biases]
        if self.mlp_bias:
            biases += [shapes[name][1] for name in ("gate_proj", "up_proj", "down_proj")]
        norms = [self.hidden_size] * self.norms_per_layer + [self.head_dim] * (2 * self.qk_norm)
        return (*matrices, *biases, *norms)

    @property
    def embedding_parameters(self) -> int:
        """The input embedding; a tied output layer is the same tensor."""
        return self.vocab_size * self.hidden_size

    @property
    def edge_parameters(self) -> int:
        """Everything outside the layers: embeddings and the last norm."""
        return self.embedding_parameters * (1 if self.tied else 2) + self.hidden_size

    @property
    def parameters(self) -> int:
        """All of the text model."""
        return self.num_layers * self.layer_parameters + self.edge_parameters

    def adapter_parameters(self, rank: int, targets: tuple[str, ...]) -> int:
        """What LoRA adds to one layer: two matrices for each target."""
        shapes = self.linear_shapes
        return sum(rank * sum(shapes[name]) for name in targets if name in shapes)

    def attended_tokens(self, seq_len: int, *, window: int | None) -> float:
        """Mean number of tokens that a token sees in a row of ``seq_len``, causal."""
        seen = min(window or seq_len, seq_len)
        # The first `seen` tokens see 1, 2, …; all later ones see `seen`.
        return seen - seen * (seen - 1) / (2 * seq_len)
