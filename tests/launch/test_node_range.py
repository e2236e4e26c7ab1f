"""Ranges of nodes: how they are written, planned, shown and submitted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.site import Site
from gemfit_launch.planning.node_range import WIDEST, NodeRange, Size, describe, plan_nodes
from gemfit_launch.planning.replan import replan_job
from gemfit_launch.planning.request import Request
from gemfit_launch.slurm.cluster.preflight_local import MOST_STARTS, check_locally, evenly_chosen
from gemfit_launch.slurm.records.job_attempts import AttemptFiles, AttemptStart
from gemfit_launch.slurm.records.job_files import JobFiles
from gemfit_launch.slurm.submit.template import render
from launch.conftest import Cli
from launch.fake_login import ASKED, FakeSlurm, status_of

ON = [word if word != "2" else "1-3" for word in ASKED]
NO_CHANGE = Request(name="")


def at(ranks: int) -> Site:
    return Site(name="test", gpus_per_node=0, ranks_per_node=ranks)


def batch_of(recipe: Recipe, rows: int) -> Recipe:
    batch = recipe.batch.model_copy(update={"global_batch_size": rows})
    return recipe.model_copy(update={"batch": batch})


@pytest.mark.parametrize(
    ("text", "smallest", "largest"), [("4", 4, 4), ("1-4", 1, 4), ("2-2", 2, 2), (f"1-{WIDEST}", 1, WIDEST)]
)
def test_a_number_and_a_range_are_read(text: str, smallest: int, largest: int) -> None:
    made = NodeRange.parse(text)
    assert made == NodeRange(smallest, largest)
    assert NodeRange.parse(str(made)) == made


@pytest.mark.parametrize(
    "text", ["", "0", "0-4", "4-1", "1-", "-4", "1,2", "1:4", "1-4-8", "a", f"1-{WIDEST + 1}"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="range"):
        NodeRange.parse(text)


@pytest.mark.parametrize(
    ("rows", "ranks", "nodes", "used"),
    [
        (12, 1, "1-4", (1, 2, 3, 4)),
        (16, 1, "1-4", (1, 2, 3, 4)),  # three nodes: 6 rows each, two slots idle
        (64, 8, "1-8", (1, 2, 3, 4, 8)),  # 5, 6 and 7 nodes are no faster than 4
        (64, 8, "5-7", (5,)),
        (8, 4, "1-4", (1, 2)),  # no row is left for more than 8 ranks
        (8, 8, "1-3", (1,)),
    ],
)
def test_a_larger_size_is_used_where_it_leaves_fewer_rows_for_each_rank(
    rows: int, ranks: int, nodes: str, used: tuple[int, ...], recipe: Recipe
) -> None:
    plan, sizes = plan_nodes(batch_of(recipe, rows), NodeRange.parse(nodes), at(ranks))
    assert tuple(size.nodes for size in sizes if not size.left_out) == used
    assert plan.node_counts == (used if len(used) > 1 else ())
    assert plan.topology.nodes == used[-1]


def test_sizes_that_are_left_out_or_have_idle_slots_are_named(recipe: Recipe) -> None:
    plan, _ = plan_nodes(batch_of(recipe, 16), NodeRange(1, 20), at(1))
    text = "\n".join(plan.warnings)
    assert "on 3 nodes, 2 of 18 slots of each step are idle (11%)" in text
    assert "a job does not train on 9-15 nodes: 2 rows for each rank, as on 8 nodes" in text
    assert "a job does not train on 17-20 nodes: more ranks than rows in a batch (16)" in text


def test_a_range_in_which_nothing_can_train_is_refused_with_the_reasons(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"no number of nodes can train:\n3-5 nodes: more ranks than rows"):
        plan_nodes(batch_of(recipe, 16), NodeRange(3, 5), at(8))


def test_a_strategy_that_fits_one_size_only_leaves_that_size() -> None:
    recipe = Request(name="debug/cpu-tiny", strategy="single").recipe()
    plan, _ = plan_nodes(recipe, NodeRange(1, 3), at(1))
    assert (plan.topology.nodes, plan.node_counts) == (1, ())
    assert "2 nodes: strategy single runs on one rank, not 2" in "\n".join(plan.warnings)


def test_sizes_that_are_too_small_for_the_memory_are_not_asked_for() -> None:
    recipe = Request(name="gemma3/27b", strategy="fsdp2").recipe()
    plan, sizes = plan_nodes(recipe, NodeRange(1, 16), Site(name="test", gpus_per_node=4, gpu_kind="h100"))
    used = [size.nodes for size in sizes if not size.left_out]
    assert 1 < used[0] < used[-1]
    assert "are predicted per GPU" in sizes[0].left_out
    assert f'--nodes="{used[0]}-{used[-1]}"' in render("train", plan, RunDir(Path("/r")), Path("/"))
    assert [size.gpu_bytes for size in sizes] == sorted((s.gpu_bytes or 0 for s in sizes), reverse=True)


def test_a_range_is_resumed_as_it_is_and_can_be_changed(recipe: Recipe) -> None:
    site = at(1)
    plan, _ = plan_nodes(batch_of(recipe, 12), NodeRange(1, 4), site)
    assert replan_job(plan, NO_CHANGE, NodeRange.of(plan), "plan.json", site) == plan
    fixed = replan_job(plan, NO_CHANGE, NodeRange(2, 2), "plan.json", site)
    assert (fixed.topology.nodes, fixed.node_counts) == (2, ())
    again = replan_job(fixed, NO_CHANGE, NodeRange(2, 3), "plan.json", site)
    assert (again.topology.nodes, again.node_counts) == (3, (2, 3))
    assert again.training_identity() == plan.training_identity()


@pytest.mark.usefixtures("slurm", "conversations")
def test_a_range_is_in_the_directives_of_the_job_and_in_json(cli: Cli) -> None:
    planned = cli("plan", *ON, "--json")
    assert planned.exit_code == 0, planned.output
    data = json.loads(planned.output)
    assert data["node_counts"] == [1, 2, 3]
    assert [(size["nodes"], size["ranks"], size["left_out"]) for size in data["sizes"]] == [
        (1, 2, ""),
        (2, 4, ""),
        (3, 6, ""),
    ]
    made = cli("submit", *ON, "--run", "run", "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.output)["node_counts"] == [1, 2, 3]
    script = JobFiles(RunDir(Path("run"))).script("train").read_text()
    assert '#SBATCH --nodes="1-3"\n' in script
    assert "#SBATCH --ntasks-per-node" not in script
    assert RunDir(Path("run")).plan().node_counts == (1, 2, 3)


def test_status_names_the_nodes_of_a_job_on_a_range_and_those_that_are_idle(
    cli: Cli, submitted: RunDir, slurm: FakeSlurm
) -> None:
    submitted.adopt(submitted.plan().model_copy(update={"node_counts": (1, 2, 4)}))
    assert " nodes: " not in cli("status", submitted.root).output, "it is pending"
    slurm.set_job(100, "RUNNING")
    files = AttemptFiles(submitted, submitted.begin_attempt())
    start = AttemptStart(attempt=1, job="100", nodes=("n1", "n2"), idle=("n5",), step=0, time=0.0)
    files.write(files.start, start)
    assert f"{submitted.root}: 2 of 1-4 nodes: n1, n2; n5 idle\n" in cli("status", submitted.root).output
    shown = status_of(cli, submitted)
    assert (shown["node_counts"], shown["nodes"], shown["idle_nodes"]) == ([1, 2, 4], ["n1", "n2"], ["n5"])


def test_a_range_without_a_site_is_refused(cli: Cli) -> None:
    refused = cli("plan", "debug/cpu-tiny", "--gpus", "8", "--nodes", "1-3")
    assert refused.exit_code == ExitCode.USER_ERROR
    assert "--nodes 1-3: a range is about a job; give --site SITE" in refused.output


@pytest.mark.usefixtures("slurm", "conversations")
def test_the_table_of_sizes_has_a_line_for_each(cli: Cli) -> None:
    shown = cli("plan", *ON)
    lines = shown.output.partition("\nNodes\n")[2].splitlines()[2:5]
    assert [line.split()[:2] for line in lines] == [["1", "2"], ["2", "4"], ["3", "6"]], shown.output
    # 16 rows over 2, 4 and 6 ranks.
    assert [line.split()[2] for line in lines] == ["8", "4", "3"]
    assert [line.split()[-1] for line in lines] == ["yes", "yes", "yes"]


@pytest.mark.usefixtures("slurm", "conversations")
def test_sizes_that_are_not_used_share_a_line_where_they_cannot_train(cli: Cli) -> None:
    options = [word if word != "1-3" else "7-30" for word in ON]
    lines = cli("plan", *options).output.partition("\nNodes\n")[2].partition("\n\n")[0].splitlines()[2:]
    assert [line.split()[0] + " " + line.split()[-1] for line in lines] == ["7 yes", "8 yes", "9-30 no"]


def test_neighbours_with_one_reason_are_described_together() -> None:
    reasons = ["", "a", "a", "b", ""]
    sizes = [Size(nodes=n, ranks=n, plan=None, left_out=why) for n, why in enumerate(reasons, start=1)]
    assert describe(sizes) == ["2-3 nodes: a", "4 nodes: b"]


SBATCH = """\
#!/bin/sh
case "$2" in
  --nodes=1) echo "sbatch: Job 9 to start at 2026-12-01T08:00:00 using 2 processors on nodes n1" >&2 ;;
  --nodes=2) echo "allocation failure: Requested node configuration is not available" >&2; exit 1 ;;
  *) echo "welcome to the cluster" ;;
esac
"""


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An sbatch that has an answer for one node, refuses two and says nothing of more."""
    (tmp_path / "sbatch").write_text(SBATCH)
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.usefixtures("sbatch")
def test_preflight_asks_when_each_size_would_start(recipe: Recipe, tmp_path: Path) -> None:
    plan, sizes = plan_nodes(batch_of(recipe, 16), NodeRange(1, 3), at(1))
    results = list(check_locally(plan, tmp_path / "run", None, [("train", "#!/bin/bash\n")], sizes))
    found = {result.name: (result.state, result.found) for result in results if "sta" in result.name}
    assert found == {
        "start on 1 node": ("ok", "2026-12-01T08:00:00"),
        "start on 2 nodes": ("warning", "allocation failure: Requested node configuration is not available"),
        "start on 3 nodes": ("ok", "sbatch does not say when; 2 of 18 slots of each step idle"),
    }


@pytest.mark.usefixtures("sbatch")
def test_preflight_asks_for_some_sizes_of_a_wide_range(recipe: Recipe, tmp_path: Path) -> None:
    plan, sizes = plan_nodes(batch_of(recipe, 100), NodeRange(1, 40), at(1))
    results = list(check_locally(plan, tmp_path / "run", None, [("train", "#!/bin/bash\n")], sizes))
    starts = [result.name for result in results if result.name.startswith("start on ")]
    assert len(starts) == MOST_STARTS < len(plan.node_counts)
    first, last = plan.node_counts[0], plan.node_counts[-1]
    assert (starts[0], starts[-1]) == (f"start on {first} node", f"start on {last} nodes")
    assert results[-1].found.startswith(f"asked for {MOST_STARTS} of the {len(plan.node_counts)} numbers")


@given(st.integers(0, 60), st.integers(2, 12))
def test_chosen_sizes_are_in_order_and_have_both_ends(count: int, most: int) -> None:
    chosen = evenly_chosen(range(count), most)
    assert len(chosen) == min(count, most)
    assert chosen == sorted(set(chosen))
    assert not count or (chosen[0], chosen[-1]) == (0, count - 1)
