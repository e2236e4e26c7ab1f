"""Options that several verbs share; each group of options arrives as one value."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from gemfit.schemas.strategy import STRATEGY_NAMES
from gemfit_launch.planning.recipes import shipped
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.topology import Ranks

Verb = Callable[..., None]


class RecipeName(click.ParamType[str]):
    """The name of a shipped recipe, or the path of a YAML file."""

    name = "recipe"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        names = [CompletionItem(name) for name in shipped() if name.startswith(incomplete)]
        return [*names, CompletionItem(incomplete, type="file")]


RUN_FOLDER = click.Path(path_type=Path, file_okay=False)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program to read.")


def recipe_argument(verb: Verb) -> Verb:
    """The argument RECIPE, as its name."""
    return click.argument("recipe", type=RecipeName())(verb)


def card_option(*, required: bool) -> Callable[[Verb], Verb]:
    """``--gpu KIND``, as the name of a card."""
    return click.option(
        "--gpu", "card", metavar="KIND", required=required, help="Kind of GPU, such as h100-80 or a100-40."
    )


def request_options(*, required: bool = True, with_recipe: bool = True) -> Callable[[Verb], Verb]:
    """RECIPE and whatever changes it, as one ``request: Request``; its name is empty without a RECIPE."""

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
            click.option(
                "--strategy", type=click.Choice(STRATEGY_NAMES), help="How state is laid over ranks."
            ),
            click.option("--offload", is_flag=True, help="Keep sharded state in host memory."),
            click.option(
                "--seed", type=click.IntRange(min=0, max=2**32 - 1), help="Of data order and weights."
            ),
            click.option(
                "--set",
                "settings",
                metavar="KEY=VALUE",
                multiple=True,
                help="Change one value, such as optim.learning_rate=5e-5; may be repeated.",
            ),
        )

    return decorate


def ranks_options(*, with_nodes: bool) -> Callable[[Verb], Verb]:
    """How many ranks, where, as one ``ranks: Ranks``."""

    def decorate(verb: Verb) -> Verb:
        @wraps(verb)
        def collect(
            *, nproc: int | None, gpus: int | None, device: Any, nodes: int | None = None, **rest: Any
        ) -> None:
            verb(ranks=Ranks(nproc=nproc, gpus=gpus, nodes=nodes, device=device), **rest)

        count = click.IntRange(min=1)
        nodes_option = click.option(
            "--nodes", type=count, help="Machines for --gpus; 8 GPUs each if left out."
        )
        return _stack(
            collect,
            click.option("--nproc", type=count, help="Ranks on this machine."),
            click.option("--gpus", type=count, help="GPUs in all, one rank each; implies --device cuda."),
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
