"""Names in the environment of forked ranks; apart from them, because importing those imports torch."""

CUDA_PLAN = "GEMFIT_TEST_CUDA_PLAN"
"""Set: ranks on CPUs take the optimizer and the arguments of a plan on GPUs."""
