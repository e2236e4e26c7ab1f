"""Does a chat template look into contents, or only pass them on?"""

from __future__ import annotations


def only_passes_contents_on(template: str) -> bool:
    """True where what a template does depends on roles alone."""
    return False
