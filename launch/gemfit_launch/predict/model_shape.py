"""Tensor shapes and parameter counts of a dense text model.

Pure arithmetic on a model configuration: exact for the families in ``FAMILIES``, which tests compare with
`transformers`. A tied embedding is one parameter and is counted once.
"""

from __future__ import annotations

from dataclasses import dataclass

Shapes = tuple[tuple[int, int, int], ...]
"""(first dimension, all others, how many there are) of tensors, as torch lays them out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
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
        """Weights of the matrices of one layer."""
        return sum(inputs * outputs for inputs, outputs in self.linear_shapes.values())

    @property
    def matrix_shapes(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of the linear modules of one layer, as torch lays them out."""
        return tuple((outputs, inputs) for inputs, outputs in self.linear_shapes.values())

    @property
    def vector_shapes(self) -> tuple[tuple[int, int], ...]:
        """(length, 1) of the biases and norms of one layer."""
        biased = self.attention_biases + ("gate_proj", "up_proj", "down_proj") * self.mlp_bias
        norms = [self.hidden_size] * self.norms_per_layer + [self.head_dim] * (2 * self.qk_norm)
        return (*((self.linear_shapes[name][1], 1) for name in biased), *((norm, 1) for norm in norms))

    @property
    def layer_shapes(self) -> tuple[tuple[int, int], ...]:
        """(first dimension, all others) of each tensor of one layer, as torch lays it out."""
        return self.matrix_shapes + self.vector_shapes

    @property
    def layer_parameters(self) -> int:
        """Everything in one decoder layer."""
        return sum(first * rest for first, rest in self.layer_shapes)

    @property
    def edge_shapes(self) -> tuple[tuple[int, int], ...]:
        """(first dimension, all others) of what is outside the layers: embeddings and the last norm."""
        embedding = (self.vocab_size, self.hidden_size)
        return (embedding, *(() if self.tied else (embedding,)), (self.hidden_size, 1))

    @property
    def embedding_parameters(self) -> int:
        """The input embedding; a tied output layer is the same tensor."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All of the text model."""
        return sum(first * rest * times for first, rest, times in self.all_shapes)

    @property
    def all_shapes(self) -> Shapes:
        """Every tensor of the model."""
        inner = tuple((first, rest, self.num_layers) for first, rest in self.layer_shapes)
        return inner + tuple((first, rest, 1) for first, rest in self.edge_shapes)

    def adapter_shapes(self, rank: int, targets: tuple[str, ...], *, magnitudes: bool = False) -> Shapes:
        """What LoRA adds: two matrices for each target, in every layer, and DoRA's ``magnitudes``."""
        pairs = [self.linear_shapes[name] for name in targets if name in self.linear_shapes]
        return tuple(
            (first, rest, self.num_layers)
            for inputs, outputs in pairs
            for first, rest in ((rank, inputs), (outputs, rank), *(((outputs, 1),) if magnitudes else ()))
        )

    def embedding_shapes(self, names: tuple[str, ...]) -> Shapes:
        """Those of the embeddings, `embed_tokens` and `lm_head`; once where they are the same tensor."""
        return ((self.vocab_size, self.hidden_size, 1),) * (1 if self.tied and names else len(set(names)))

    def attended_tokens(self, seq_len: int, *, window: int | None) -> float:
        """Mean number of tokens that a token sees in a row of ``seq_len``, causal."""
        seen = min(window or seq_len, seq_len)
        # The first `seen` tokens see 1, 2, …; all later ones see `seen`.
        return seen - seen * (seen - 1) / (2 * seq_len)
