"""Recipe section `hub`: push of checkpoints to the Hugging Face Hub during training."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gemfit.schemas.base import Contract

# The rules of huggingface_hub.utils.validate_repo_id, which a login node may lack; the namespace is required
# here, because a bare name is a different repository for each token.
_REPO_ID = re.compile(r"\b[\w\-.]{1,96}\b/\b[\w\-.]{1,96}\b", re.ASCII)
# A subset of git-check-ref-format that needs no quoting anywhere.
_BRANCH = re.compile(r"\b[\w\-.]+\b", re.ASCII)


def repo_id(text: str) -> str:
    """``text`` if it is a valid repository id, `namespace/name`; else ``ValueError`` with the rule."""
    if not _REPO_ID.fullmatch(text):
        raise ValueError(
            f"{text!r} is not a valid repository: write namespace/name, of letters, digits, '-', '_' and "
            "'.', beginning and ending with a letter or a digit"
        )
    if "--" in text or ".." in text or text.endswith(".git"):
        raise ValueError(f"{text!r} is not a valid repository: '--', '..' and an ending .git are not allowed")
    return text


def _branch(text: str) -> str:
    if not _BRANCH.fullmatch(text) or ".." in text or text.endswith(".lock"):
        raise ValueError(f"{text!r} is not a valid branch: use letters, digits, '-', '_' and '.'")
    return text


RepoId = Annotated[str, AfterValidator(repo_id)]
Branch = Annotated[str, AfterValidator(_branch)]


class HubRecipe(Contract):
    """Push during training."""

    repo: RepoId | None = None
    """`namespace/name`; created at the first push if it does not exist."""
    push: Literal["never", "end", "best", "every_save"] = "never"
    """`end`: after the last step. `best`: each checkpoint with the lowest validation loss so far."""
    private: bool = True
    """Visibility of a repository that a push creates; an existing one is not changed."""
    branch: Branch = "main"
    """Each push is a commit on it, with the step in its message."""
    tag: bool = False
    """Tag each commit `step-N`; then no save is skipped for a newer one."""
    merge_adapter: bool = True
    """Push a LoRA merged into its base model; otherwise the adapter alone."""
    multimodal: bool = False
    """Put the text model back into its multimodal base model."""
    wait_seconds: Annotated[int, Field(ge=0, le=540)] = 300
    """Seconds that all ranks of a complete run wait for its pushes; NCCL times out after ten minutes. Unsent
    pushes stay in the spool."""

    @model_validator(mode="after")
    def _have_effect(self) -> Self:
        if self.push == "never":
            if set_here := sorted(self.model_fields_set - {"push"} - self._at_default()):
                names = ", ".join(f"`{name}`" for name in set_here)
                raise ValueError(f"{names} has no effect under `push: never`; set `push`, or remove it")
        elif self.repo is None:
            raise ValueError(f"`push: {self.push}` needs a `repo` to push to, as namespace/name")
        if self.multimodal and not self.merge_adapter:
            raise ValueError("`multimodal` has no effect on an adapter alone; remove it, or merge_adapter")
        return self

    def _at_default(self) -> set[str]:
        fields = type(self).model_fields
        return {name for name in fields if getattr(self, name) == fields[name].default}
