"""torch.compile of decoder layers, one by one (regional compilation).

Only ``forward`` is compiled, inside the hooks with which engines gather parameters, so sharding is
unaffected. Layers of one kind share their code. It costs minutes before the first step.
"""

from __future__ import annotations

from typing import Any

import torch

from gemfit.train.model.text_architecture import decoder_layers

VARIANTS = 64
"""Layer kinds, modes and shapes that may be compiled; far more than there are."""


def compile_layers(model: torch.nn.Module) -> None:
    """Compile each decoder layer of ``model`` at its first call."""
    # By default torch would only warn and continue without compiling.
    torch._dynamo.config.recompile_limit = VARIANTS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    names = decoder_layers(model)
    layers: list[Any] = [module for module in model.modules() if type(module).__name__ in names]
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=False)
