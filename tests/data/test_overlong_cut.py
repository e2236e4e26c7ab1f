"""``overlong: cut`` through the builder: fuller rows, every trained token once, mid-message cuts counted."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from gemfit.data.pack.reader import open_pack, read_manifest

from .conftest import Build, WriteConversations, random_conversation


@pytest.mark.parametrize("loss_on", ["all", "assistant"])
def test_long_conversations_fill_rows_and_train_every_token_once(
    loss_on: str, write_conversations_file: WriteConversations, build: Build, tmp_path: Path
) -> None:
    source = write_conversations_file(
        [random_conversation(random.Random(number), 4, 130) for number in range(100)]
    )
    manifests, trained = {}, {}
    for overlong in ("split", "cut"):
        out = tmp_path / "pack"
        status, said = build(source, seq_len=512, overlong=overlong, loss_on=loss_on)
        assert status == 0, said
        manifests[overlong] = read_manifest(out)
        packed = open_pack(out, "train")
        rows = [packed[number] for number in range(len(packed))]
        trained[overlong] = Counter(label for row in rows for label in row.labels.tolist() if label != -100)
        out.rename(tmp_path / overlong)
    assert trained["cut"] == trained["split"]
    split, cut = manifests["split"], manifests["cut"]
    assert cut.losses.mid_message_cuts > split.losses.mid_message_cuts
    assert cut.losses.split_conversations == 100
    # An exchange is half a row or more here, so rows of whole exchanges stay a sixth empty.
    assert split.splits["train"].fill(512) < 0.91 < cut.splits["train"].fill(512)
    assert cut.splits["train"].rows <= 0.98 * split.splits["train"].rows
