"""The trained run and the Hub of the push tests."""

from __future__ import annotations

from publish.conftest import hub, made, ready, ready_root, trained

__all__ = ["hub", "made", "ready", "ready_root", "trained"]
