"""Cluster profile: where to train, nothing about the model."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gemfit.schemas.base import Contract, PositiveInt
from gemfit.schemas.training_identity import flatten

SECRET_NAME = re.compile(
    r"TOKEN$|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY"
    r"|(?:^|_)(?:KEY|PAT|PASS)$|_PWD$|(?:^|_)AUTH(?:$|_)",
    re.IGNORECASE,
)
SECRET_VALUE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{12,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}"
    r"|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@$]+:[^/\s@$]+@"
)
"""Tokens of Hugging Face, OpenAI, GitHub, GitLab, Slack and AWS, web tokens, keys, URLs with a password."""
ASSIGNMENT = re.compile(r"(?:^|[\s;&|(])([A-Za-z_]\w*)=(?![\"']?[$`]|[\"']{2}|\s|$)")
"""A literal value for a variable in a shell line; `$(cat FILE)` and `$OTHER` are none."""
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _as_text(value: Any) -> Any:
    """An integer as its digits (`memory: 0`). A float may have been written in another way, as `1.10`."""
    if isinstance(value, bool | float):
        raise ValueError("is text; write it in quotes")
    return str(value) if isinstance(value, int) else value


Text = Annotated[str, BeforeValidator(_as_text)]
_EXPOSED = "which would stand in the script for others to read; export it in the shell that submits"


class Container(Contract):
    """The image that training runs in; the launcher's own bookkeeping stays outside."""

    kind: Literal["apptainer", "pyxis"]
    image: Text
    """Apptainer: a file or URI. Pyxis: what `srun --container-image` takes."""
    mounts: tuple[Text, ...] = ()
    """`SOURCE:TARGET`, in addition to what is always mounted: run folder, packs, working folder, local data
    and models."""


class Site(Contract):
    """Cluster profile."""

    name: Text
    """Name of the site; default: the name of its file."""
    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    constraint: Text | None = None
    """Features that nodes must have, as sbatch writes them (`h100&nvlink`)."""
    reservation: Text | None = None
    gpus_per_node: Annotated[int, Field(ge=0)] = 1
    """One rank each; 0 trains on CPUs."""
    gpu_kind: Text | None = None
    """GRES type, such as `h100`."""
    ranks_per_node: PositiveInt | None = None
    """Ranks on a node without GPUs; 1 when left out."""
    cpus_per_node: PositiveInt | None = None
    memory: Text | None = None
    """Memory per node, as sbatch writes it (`500G`); `0` is all of it."""
    time: Text | None = None
    """Time limit, as sbatch writes it (`1-00:00:00`). The job saves and requeues itself before it."""
    pack_partition: Text | None = None
    """Where data is packed, without a GPU; `partition` when left out."""
    pack_cpus: PositiveInt | None = None
    """CPUs of the packing job; Slurm gives 1 when left out."""
    pack_memory: Text | None = None
    """Memory of the packing job, as sbatch takes it; the default of the partition when left out."""
    setup: tuple[Text, ...] = ()
    """Shell lines that run on the node before training (modules, environments)."""
    python: Text | None = None
    """Python on the nodes; the one that submits when left out, `python3` in a container."""
    env: dict[str, Text] = Field(default_factory=dict)
    """Environment on the nodes, after `setup`; no secrets: they come with the environment of `submit`. Values
    are literal, except `~`; write `export` in `setup` where a variable is to be replaced."""
    container: Container | None = None
    disk_gb_per_second: Annotated[float, Field(gt=0)] | None = None
    """Bandwidth of the file system of the runs, for all nodes of a job together, in 10⁹ bytes per second:
    `plan` predicts the time of saves and resumes, `preflight` compares it with the notice before an end."""
    signal_lead_seconds: PositiveInt = 300
    """Seconds before the time limit at which the job gets the signal to save."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """Restarts after a crash, in a row and without a new checkpoint, before the job gives up."""
    hang_seconds: PositiveInt = 1800
    """Seconds without a step (at least 20 times the usual step) that end an attempt as a crash; twice as many
    before its first step."""
    avoid_slow_nodes: bool = False
    """Whether the job excludes a node on which a rank was slower than the others, when it is requeued."""
    extra: dict[str, Text] = Field(default_factory=dict)
    """Other sbatch options, without dashes: `mail-type: END`."""

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.gpus_per_node and self.ranks_per_node is not None:
            raise ValueError("`ranks_per_node` has no effect with GPUs, which have one rank each; remove it")
        if self.gpu_kind is not None and not self.gpus_per_node:
            raise ValueError("`gpu_kind` has no effect with `gpus_per_node: 0`; remove it")
        return self

    @model_validator(mode="after")
    def _environment_is_no_secret(self) -> Self:
        for name in self.env:
            if not VARIABLE_NAME.fullmatch(name):
                raise ValueError(f"`env` holds {name!r}, which is not a valid name of a variable")
            if SECRET_NAME.search(name):
                raise ValueError(f"`env` holds {name}, {_EXPOSED}")
        for number, line in enumerate(self.setup):
            if secret := next((name for name in ASSIGNMENT.findall(line) if SECRET_NAME.search(name)), None):
                raise ValueError(f"`setup[{number}]` sets {secret}, {_EXPOSED}, or read it from a file there")
        for place, value in flatten(self.model_dump(mode="json")).items():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and SECRET_VALUE.search(text):
                    raise ValueError(f"`{place}` holds what looks like a token or a password, {_EXPOSED}")
        return self

    @property
    def ranks(self) -> int:
        """Ranks on one node."""
        return self.gpus_per_node or self.ranks_per_node or 1
