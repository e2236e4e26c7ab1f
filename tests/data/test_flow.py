"""Token accounting: tokens read, packed and lost add up for any conversations and settings."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from gemfit.data.__main__ import main
from gemfit.data.pack.reader import open_pack, read_manifest
from gemfit.schemas.manifest import PackManifest, TokenFlow
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.recipe_data import DataRecipe
from gemfit.schemas.recipe_model import ModelRecipe

from .conftest import random_conversations

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
message = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": text})
conversation = st.lists(message, min_size=1, max_size=12).map(lambda messages: {"messages": messages})


def pack(folder: Path, tokenizer: Path, sources: list[list[Any]], **data: Any) -> tuple[Path, int]:
    """Pack sources, each a list of lines; the folder, and the exit status."""
    named = []
    for number, lines in enumerate(sources):
        path = folder / f"{number}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        named.append({"source": str(path), "name": f"s{number}", "weight": data.pop(f"weight{number}", 1.0)})
    recipe = Recipe(
        model=ModelRecipe(id=str(tokenizer)),
        data=DataRecipe.model_validate({"sources": tuple(named), **data}),
    )
    job = folder / "job.json"
    job.write_text(make_pack_job(recipe).to_json())
    before = signal.getsignal(signal.SIGTERM)
    try:
        status = main([str(job), "--out", str(folder / "pack"), "--workers", "1"])
    finally:
        signal.signal(signal.SIGTERM, before)
    return folder / "pack", status


def table(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pa.ipc.open_stream(folder / "conversations.arrow").read_all().to_pylist()
    return found


def check(folder: Path) -> PackManifest:
    """The sums of the manifest are those of its table and of its rows."""
    manifest, lines = read_manifest(folder), table(folder)
    total = manifest.flow["total"]
    for name in TokenFlow.model_fields:
        each = [getattr(flow, name) for key, flow in manifest.flow.items() if key != "total"]
        assert sum(each) == getattr(total, name)
    assert all(flow.balance == 0 for flow in manifest.flow.values())
    assert total.tokens_read == sum(line["tokens"] for line in lines)
    for disposition in ("duplicate", "near_duplicate", "left_by_weight", "beyond_max_rows", "overlong"):
        assert getattr(total, disposition) == sum(
            line["tokens"] for line in lines if line["disposition"] == disposition
        )
    packed = repeated = trained = 0
    times = Counter[int]()
    for split in ("train", "validation"):
        counts = manifest.splits[split]
        packed += counts.tokens
        repeated += counts.repeated_tokens
        trained += counts.trained_tokens
        assert open_pack(folder, split).tokens.sum() == counts.tokens
        for path in sorted((folder / split).glob("*.arrow")):
            for row in pa.ipc.open_stream(path).read_all().to_pylist():
                times.update(set(row["document"]))
    assert (packed, repeated) == (total.packed, total.repeated)
    kept = [line for line in lines if line["disposition"] == "kept"]
    assert set(times) == {line["number"] for line in kept}
    if not total.truncated:
        assert trained == sum(line["trained"] * line["copies"] for line in kept)
    assert sum(manifest.roles.values()) == sum(line["tokens"] for line in kept)
    return manifest


@examples(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    lines=st.lists(conversation, min_size=1, max_size=12),
    overlong=st.sampled_from(["split", "truncate", "drop"]),
    loss_on=st.sampled_from(["all", "assistant"]),
)
def test_hostile_conversations_are_accounted_for(
    data: Any,
    lines: list[Any],
    overlong: str,
    loss_on: str,
    tokenizer_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("flow")
    lines += data.draw(st.lists(st.sampled_from(lines), max_size=4))
    share = data.draw(st.sampled_from([0.0, 0.3]))
    found, status = pack(
        folder,
        tokenizer_folder,
        [lines, [*lines[:2], *random_conversations(3)]],
        weight0=data.draw(st.sampled_from([0.4, 1.0, 2.5])),
        seq_len=64,
        overlong=overlong,
        loss_on=loss_on,
        validation_share=share,
        on_error="skip",
        near_duplicates=data.draw(st.sampled_from(["ignore", "group", "drop"])),
    )
    assert status == 0 or (status == 2 and not found.exists())
    if status == 0:
        check(found)


def test_weights_copy_and_drop_conversations(tokenizer_folder: Path, tmp_path: Path) -> None:
    found, status = pack(
        tmp_path,
        tokenizer_folder,
        [random_conversations(200, seed=1), random_conversations(200, seed=2)],
        weight0=2.5,
        weight1=0.25,
        seq_len=128,
        near_duplicates="ignore",
        validation_share=0.1,
    )
    assert status == 0
    manifest = check(found)
    assert [source.weight for source in manifest.sources] == [2.5, 0.25]
    one, other = manifest.flow["s0"], manifest.flow["s1"]
    assert 1.2 < one.oversampled / one.tokens_read < 1.5
    assert 0.6 < other.left_by_weight / other.tokens_read < 0.9
    copies = np.array([line["copies"] for line in table(found) if line["split"] == 0 and line["source"] == 0])
    assert set(copies.tolist()) == {2, 3}


def test_no_more_rows_than_were_asked_for(tokenizer_folder: Path, tmp_path: Path) -> None:
    found, status = pack(
        tmp_path, tokenizer_folder, [random_conversations(300, seed=1)], seq_len=128, max_rows=50
    )
    assert status == 0
    manifest = check(found)
    assert 48 <= manifest.splits["train"].rows <= 50
    assert manifest.flow["total"].beyond_max_rows > 0
    assert manifest.losses.beyond_max_rows_conversations > 100


def test_the_line_of_each_conversation_is_stored(tokenizer_folder: Path, tmp_path: Path) -> None:
    lines: list[Any] = random_conversations(50, seed=1)
    found, status = pack(tmp_path, tokenizer_folder, [lines, lines[10:12]], seq_len=2048)
    assert status == 0
    lines_of_pack = table(found)
    assert [(line["source"], line["file"], line["line"]) for line in lines_of_pack[49:]] == [
        (0, 0, 50),
        (1, 1, 1),
        (1, 1, 2),
    ]
    assert [line["disposition"] for line in lines_of_pack[50:]] == ["duplicate", "duplicate"]
    assert [line["number"] for line in lines_of_pack[50:]] == [
        line["number"] for line in lines_of_pack[10:12]
    ]
    manifest = read_manifest(found)
    assert [one.path for one in manifest.inputs] == [str(tmp_path / "0.jsonl"), str(tmp_path / "1.jsonl")]
    assert manifest.flow["s1"].duplicate == manifest.flow["s1"].tokens_read > 0
