"""Conversations that a resumed run trains no more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gemfit.schemas.plan import Plan
from gemfit_launch.planning.request import Request

SKIP_KEY = "skip_documents"
"""Key of the recipe, and of the training identity."""


def skip_documents(old: Plan, request: Request, documents: Iterable[int]) -> Request:
    """``request`` that adds ``documents`` to those that ``old`` skips."""
    skipped = sorted({*old.recipe.skip_documents, *documents})
    return replace(request, settings=(*request.settings, f"{SKIP_KEY}={skipped}"))
