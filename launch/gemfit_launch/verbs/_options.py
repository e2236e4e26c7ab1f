"""Options that several verbs share; each group is passed to the verb as one value."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from gemfit.schemas.strategy import STRATEGY_NAMES
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.topology import Ranks
from gemfit_launch.verbs._completion import Checkpoint, RecipeName, SettingKey

Verb = Callable[..., None]


class FolderPath(click.Path):
    """A folder, absolute where its name would be an option of the program that gets it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        folder = Path(str(super().convert(value, param, ctx)))
        return folder.absolute() if str(folder).startswith("-") else folder


RUN_FOLDER = FolderPath(path_type=Path, file_okay=False)
SEED = click.IntRange(min=0, max=2**32 - 1)
FILE = click.Path(path_type=Path, dir_okay=False)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
price_option = click.option(
    "--price",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MONEY",
    help="Price per GPU hour, in any currency; shows what it costs.",
)
settings_option = click.option(
    "--set",
    "settings",
    type=SettingKey(),
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a recipe value, such as optim.learning_rate=5e-5; repeatable.",
)
allow_changed_option = click.option(
    "--allow-changed",
    "allowed_changes",
    type=SettingKey(suffix=""),
    metavar="KEY",
    multiple=True,
    help="Allow a change of what is trained, such as optim.learning_rate or seed; repeatable.",
)
gpu_help = "Kind of GPU, such as h100-80 or a100-40."


def recipe_argument(verb: Verb) -> Verb:
    """The argument RECIPE, as its name."""
    return click.argument("recipe", type=RecipeName())(verb)


def gpu_option(*, required: bool) -> Callable[[Verb], Verb]:
    """``--gpu KIND``, as the name of a kind of GPU."""
    return click.option("--gpu", metavar="KIND", required=required, help=gpu_help)


def disk_option() -> Callable[[Verb], Verb]:
    """``--disk GB/S``, the bandwidth of the file system of the runs."""
    return click.option(
        "--disk",
        "disk_gb_per_second",
        type=click.FloatRange(min=0, min_open=True),
        metavar="GB/S",
        help="Bandwidth of the disk, for the time of a save and a resume.",
    )


def checkpoint_option(
    *, multiple: bool = False, default: str = "latest", base: bool = True
) -> Callable[[Verb], Verb]:
    """``--checkpoint``: a step, latest, best and, where it makes sense, base."""
    names = "a step, latest, best or base" if base else "a step, latest or best"
    more = "; or a model folder; repeatable" if multiple else ""
    return click.option(
        "--checkpoint",
        "checkpoints" if multiple else "checkpoint",
        type=Checkpoint(base=base, folder=multiple),
        multiple=multiple,
        metavar="STEP|latest|best" + ("|base" if base else ""),
        help=f"Which model: {names}{more}.  [default: {default}]",
    )


def request_options(*, required: bool = True, with_recipe: bool = True) -> Callable[[Verb], Verb]:
    """RECIPE and its overrides, as one ``request: Request``; its name is empty without a RECIPE."""

    def decorate(verb: Verb) -> Verb:
        @wraps(verb)
        def collect(
            *,
            recipe: str | None = None,
            settings: tuple[str, ...],
            data: str | None,
            strategy: str | None,
            offload: bool,
            seed: int | None,
            **rest: Any,
        ) -> None:
            request = Request(
                name=recipe or "", settings=settings, data=data, strategy=strategy, offload=offload, seed=seed
            )
            verb(request=request, **rest)

        return _stack(
            collect,
            *([click.argument("recipe", type=RecipeName(), required=required)] if with_recipe else []),
            click.option(
                "--data", metavar="SOURCE", help="Conversations: a file, folder or glob; data.source."
            ),
            click.option("--strategy", type=click.Choice(STRATEGY_NAMES), help="Data-parallel strategy."),
            click.option("--offload", is_flag=True, help="Offload sharded state to host memory."),
            click.option("--seed", type=SEED, help="Seed of data order and weights."),
            settings_option,
        )

    return decorate


def ranks_options(*, with_nodes: bool) -> Callable[[Verb], Verb]:
    """Number of ranks and their device, as one ``ranks: Ranks``."""

    def decorate(verb: Verb) -> Verb:
        @wraps(verb)
        def collect(*, nproc: int | None, gpus: int | None, device: Any, **rest: Any) -> None:
            # Otherwise --nodes is the verb's own option, with another meaning.
            nodes = rest.pop("nodes") if with_nodes else None
            verb(ranks=Ranks(nproc=nproc, gpus=gpus, nodes=nodes, device=device), **rest)

        count = click.IntRange(min=1)
        nodes_option = click.option(
            "--nodes", type=count, help="Machines for --gpus; 8 GPUs each if left out."
        )
        return _stack(
            collect,
            click.option("--nproc", type=count, help="Ranks on this machine."),
            click.option("--gpus", type=count, help="GPUs in total, one rank each; implies --device cuda."),
            *([nodes_option] if with_nodes else []),
            click.option(
                "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
            ),
        )

    return decorate


def _stack(verb: Verb, *decorators: Callable[[Verb], Verb]) -> Verb:
    """Apply so that help lists the options in the order of ``decorators``."""
    for decorate in reversed(decorators):
        verb = decorate(verb)
    return verb
