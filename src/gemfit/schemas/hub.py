"""Whether, when and where weights go to the Hugging Face Hub while a run trains."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gemfit.schemas.base import Contract

# The rules of huggingface_hub.utils.validate_repo_id, which a login node need not have; the namespace is
# required here, because a bare name means another repository for each token.
_REPO_ID = re.compile(r"\b[\w\-.]{1,96}\b/\b[\w\-.]{1,96}\b", re.ASCII)
# What git-check-ref-format allows, narrowed to what needs no quoting anywhere.
_BRANCH = re.compile(r"\b[\w\-.]+\b", re.ASCII)


def repo_id(text: str) -> str:
    """``text`` if it can name a model repository, as `namespace/name`; else ``ValueError`` with the rule."""
    if not _REPO_ID.fullmatch(text):
        raise ValueError(
            f"{text!r} is no repository: write namespace/name, of letters, digits, '-', '_' and '.', "
            "beginning and ending with a letter or a digit"
        )
    if "--" in text or ".." in text or text.endswith(".git"):
        raise ValueError(f"{text!r} is no repository: '--', '..' and an ending .git are not allowed")
    return text


def _branch(text: str) -> str:
    if not _BRANCH.fullmatch(text) or ".." in text or text.endswith(".lock"):
        raise ValueError(f"{text!r} is no branch: use letters, digits, '-', '_' and '.'")
    return text


class HubRecipe(Contract):
    """What is pushed beside the training."""

    repo: Annotated[str, AfterValidator(repo_id)] | None = None
    """`namespace/name`; made at the first push if it is not there."""
    push: Literal["never", "end", "best", "every_save"] = "never"
    """`end`: after the last step. `best`: each checkpoint with the lowest held-out loss so far."""
    private: bool = True
    """Of a repository that a push makes; one that is there stays as it is."""
    branch: Annotated[str, AfterValidator(_branch)] = "main"
    """Each push is a commit on it, with the step in its message."""
    tag: bool = False
    """Tag each commit `step-N`. No save is then skipped for a newer one."""
    merge_adapter: bool = True
    """Push a LoRA merged into its base model; otherwise the adapter alone."""
    multimodal: bool = False
    """Put the text back beside the other parts of a multimodal base model."""
    wait_seconds: Annotated[int, Field(ge=0, le=540)] = 300
    """How long a run that is complete waits for its pushes, all ranks together, which NCCL bears for ten
    minutes. What is not sent by then stays spooled."""

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
