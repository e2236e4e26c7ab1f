"""Names and descriptions of the suites, without the libraries that run them."""

from __future__ import annotations

from gemfit.audit.suite_file import read_suite
from gemfit.schemas.audit import AuditedSuite

SHIPPED = ("crisis", "medical", "jailbreak", "counterfactual", "stability")
"""Suites with a file of their own."""
MEMORISATION = "memorisation"
SUITES = (*SHIPPED, MEMORISATION)
_OF_MEMORISATION = AuditedSuite(
    purpose="Does the model complete conversations that it was trained on word for word?",
    source="The run's own conversations, drawn by the seed; those of the validation split are the control.",
    limits="A sample, and one prompt each, without sampling. A reply that several conversations share is "
    "left out.",
)


def about(name: str) -> AuditedSuite:
    """What the suite ``name`` is for."""
    return _OF_MEMORISATION if name == MEMORISATION else read_suite(name).about
