"""Names in the environment of forked ranks; apart from them, because importing those imports torch."""

CUDA_PLAN = "GEMFIT_TEST_CUDA_PLAN"
"""Set: ranks on CPUs take the optimizer and the arguments of a plan on GPUs."""
BUILT_FOR_CUDA = "GEMFIT_TEST_BUILT_FOR_CUDA"
"""Set: torch says of itself what a build for CUDA says, also where there is no GPU."""
VARLEN_KERNEL = "GEMFIT_TEST_VARLEN_KERNEL"
"""Set: a stand-in takes the place of torch's varlen kernel, on all ranks but the one that it names."""
SLOW_LAYERS, SLOW_BATCHES = "GEMFIT_TEST_SLOW_LAYERS", "GEMFIT_TEST_SLOW_BATCHES"
SLOW_NETWORK = "GEMFIT_TEST_SLOW_NETWORK"
"""``RANK:SECONDS``: this rank sleeps so long in each of its decoder layers, in taking each batch, or before
it sends or reduces anything."""
POISONED_ROW = "GEMFIT_TEST_POISONED_ROW"
"""``ROW:KIND``: what is computed from this row of the pack is not finite; its `loss`, only the `gradient`, or
the logits, whose hidden states `overflow` their dtype."""
