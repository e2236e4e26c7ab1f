"""Sites: layers, mistakes, and the shipped examples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gemfit.config.yaml_source import load
from gemfit.errors import UserError
from gemfit.schemas.site import Site
from gemfit_launch.output.json_schema import json_schema
from gemfit_launch.slurm.sites.load import load_site, own_folder, shipped

Cli = Callable[..., Result]


@pytest.fixture(autouse=True)
def own_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of user sites."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = own_folder()
    folder.mkdir(parents=True)
    return folder


def test_variables_that_only_resemble_secrets_are_kept(own_sites: Path) -> None:
    (own_sites / "mine.yaml").write_text(
        "setup: ['export HF_TOKEN=$(cat ~/token)', 'export WANDB_API_KEY=\"$KEY\"', 'cd $PWD']\n"
        "env: {AUTHOR: me, MONKEY_PATCH: '1', BYPASS: '1', PATH_KEYS: a, PWD: /x}\n"
    )
    assert load_site("mine").env["AUTHOR"] == "me"


def test_every_shipped_site_is_valid_and_opens_with_its_command() -> None:
    assert len(shipped()) >= 3, "the wheel lost a site"
    for name, path in shipped().items():
        assert load_site(name).name == name
        assert f"--site {name}" in path.read_text().splitlines()[1]


def test_the_shipped_sites_cover_containers_and_preemption() -> None:
    sites = [load_site(name) for name in shipped()]
    assert any(site.container for site in sites)
    assert any(site.constraint and site.extra for site in sites)
    assert any(site.pack_partition and site.setup for site in sites)


def test_a_file_of_ones_own_changes_the_shipped_one_of_the_same_name(own_sites: Path) -> None:
    (own_sites / "gpu-cluster.yaml").write_text("account: us\nenv:\n  NCCL_DEBUG: INFO\n")
    site = load_site("gpu-cluster")
    assert (site.account, site.partition) == ("us", "gpu")
    assert site.env.items() >= {"NCCL_DEBUG": "INFO", "NCCL_SOCKET_IFNAME": "ib0"}.items()


def test_a_file_by_path_may_extend_a_named_site(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: gpu-cluster\npartition: debug\n")
    site = load_site(str(path))
    assert (site.name, site.partition, site.gpus_per_node) == ("mine", "debug", 8)


def test_the_command_line_is_on_top_and_reaches_into_mappings() -> None:
    site = load_site(
        "gpu-cluster", ["partition=debug", "env.NEW=1 2", "extra.nodelist=n1", "gpus_per_node=4"]
    )
    assert (site.partition, site.gpus_per_node) == ("debug", 4)
    assert (site.env["NEW"], site.extra["nodelist"]) == ("1 2", "n1")
    assert site.env["NCCL_SOCKET_IFNAME"] == "ib0"


def test_a_misspelt_site_suggests_the_closest_one() -> None:
    with pytest.raises(UserError, match="did you mean 'gpu-cluster'"):
        load_site("gpu-cluter")


def test_a_missing_file_is_not_taken_for_a_name() -> None:
    with pytest.raises(UserError, match="there is no such file"):
        load_site("./nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partion: gpu\n", r"mine.yaml:1: partion is not a setting; did you mean 'partition'"),
        ("gpus_per_node: many\n", r"mine.yaml:1: gpus_per_node: .*many"),
        ("ranks_per_node: 4\n", "ranks_per_node` has no effect with GPUs"),
        ("gpus_per_node: 0\ngpu_kind: h100\n", "gpu_kind` has no effect"),
        ("env:\n  HF_TOKEN: hf_abc\n", "would stand in the script"),
        ("env:\n  WANDB_API_KEY: abc\n", "export it in the shell that submits"),
        ("env:\n  'A B': x\n", "not a valid name of a variable"),
        ("env:\n  HF_AUTH: x\n", "holds HF_AUTH"),
        ("env:\n  OPENAI_KEY: x\n", "holds OPENAI_KEY"),
        ("env:\n  GH_PAT: x\n", "holds GH_PAT"),
        ("env:\n  DB_PASS: x\n", "holds DB_PASS"),
        ("env:\n  SEEN: hf_abcdefghijklmnop\n", "env.SEEN` holds what looks like a token"),
        ("setup: [module load x, 'export HF_TOKEN=hf_abc']\n", "setup\\[1\\]` sets HF_TOKEN"),
        ("setup: ['curl https://me:secret@host/x']\n", "`setup` holds what looks like"),
        ("extra:\n  comment: sk-abcdefghijklmnopqrst\n", "extra.comment` holds what"),
        ("container:\n  kind: docker\n  image: x\n", r"mine.yaml:2: container.kind"),
    ],
)
def test_a_mistake_in_a_site_names_its_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        load_site(str(path))


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "NCCL_KEYS", "CUDA_CACHE_PATH"])
def test_what_only_looks_like_a_secret_is_allowed(name: str) -> None:
    assert load_site("gpu-cluster", [f"env.{name}=1"]).env[name] == "1"


def test_a_mistake_on_the_command_line_names_its_option() -> None:
    with pytest.raises(UserError, match=r"--site-set partion=x: .*did you mean 'partition'"):
        load_site("gpu-cluster", ["partion=x"])
    with pytest.raises(UserError, match=r"for example --site-set partition=gpu"):
        load_site("gpu-cluster", ["partition"])


def test_the_schema_of_a_site_knows_every_key_that_a_file_may_hold() -> None:
    schema = json.loads(json_schema(Site))
    assert "required" not in schema, "the name is the file's where it is left out"
    keys = {key for path in shipped().values() for key in load(path).data}
    assert len(keys) > 10
    assert keys | {"extends"} <= set(schema["properties"])
    assert all("description" in schema["properties"][key] for key in ("time", "env", "signal_lead_seconds"))


def test_sites_are_listed_with_ones_own_first_and_shown_resolved(own_sites: Path, cli: Cli) -> None:
    (own_sites / "mine.yaml").write_text("partition: p1\n")
    listed = cli("site", "list").output
    assert listed.index("mine") < listed.index("gpu-cluster")
    shown = cli("site", "show", "mine", "--site-set", "gpus_per_node=2").output
    assert "partition: p1\n" in shown
    assert "gpus_per_node: 2\n" in shown


def test_numbers_are_text_where_a_key_takes_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "memory: 0\ntime: 60\naccount: 4711\ngpu_kind: 3090\nextra:\n  nice: 9\nenv:\n  OMP_NUM_THREADS: 8\n"
    )
    site = load_site(str(path))
    assert (site.memory, site.time, site.account, site.gpu_kind) == ("0", "60", "4711", "3090")
    assert (site.extra["nice"], site.env["OMP_NUM_THREADS"], site.gpus_per_node) == ("9", "8", 1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("memory: 1.10", "mine.yaml:1: memory: is text; write it in quotes"),
        ("account: true", "mine.yaml:1: account: is text; write it in quotes"),
        ("account: 0123", "mine.yaml:1: account: a number that begins with 0; write it in quotes"),
        ("account: 1_000", "account: a number that is written in another way than 1000; write it in quotes"),
        ("account: 0x1F", "mine.yaml:1: account: a number that is written in another way than 31"),
        ("account: 0o17", "written in another way than 15"),
        ("env:\n  A: 0b11", "mine.yaml:2: env.A: a number that is written in another way than 3"),
        ("env: {A: 007}", "mine.yaml:1: env.A: a number that begins with 0"),
        ("setup:\n  - true\n  - 0x10", "mine.yaml:2: setup.0: is text"),
        ("setup:\n  - module load x\n  - 010", "mine.yaml:3: setup.1: a number that begins with 0"),
        ("gpus_per_node: 010", "mine.yaml:1: gpus_per_node: a number that begins with 0"),
        ("env: {true: x}", "has the key True; a key is a word: use quotes"),
        ("env: {1.10: x}", "has the key 1.1; a key is a word"),
        ("extra: {null: x}", "has the key None"),
        ("disk_gb_per_second: .inf", "mine.yaml:1: inf is not a finite number"),
        ("disk_gb_per_second: 1e400", "mine.yaml:1: inf is not a finite number"),
        ("time: 2h", "mine.yaml:1: time: 2h is not a time in the format of sbatch, such as 1-00:00:00"),
        ("time: 2026-11-30", "mine.yaml:1: time: 2026-11-30 is not a time in the format of sbatch"),
        ("time: 1:2:3:4", "mine.yaml:1: time: 1:2:3:4 is not a time"),
        ("env: {PATH: '/opt/x/bin:$PATH'}", 'write the line `export PATH="/opt/x/bin:$PATH"` in `setup`'),
        ("env: {HF_HOME: '${SCRATCH}/hf'}", "values are literal"),
        ("python: $HOME/venv/bin/python", "write what it stands for"),
        ("extra: {nodelist: $NODES}", "extra.nodelist: $NODES would not be replaced"),
    ],
)
def test_text_that_would_arrive_changed_is_refused_with_the_way_out(
    line: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{line}\n")
    with pytest.raises(UserError) as refusal:
        load_site(str(path))
    assert words in str(refusal.value)


def test_the_command_line_gives_text_as_it_is() -> None:
    site = load_site("gpu-cluster", ["account=0123", "env.X=1.10", "memory=0", "qos=null"])
    assert (site.account, site.env["X"], site.memory, site.qos) == ("0123", "1.10", "0", None)
    with pytest.raises(UserError, match="--site-set time=2h: time: 2h is not a time"):
        load_site("gpu-cluster", ["time=2h"])


@pytest.mark.parametrize(
    "text",
    [
        "2026-12-01",
        "2026-12-01T10:00:00",
        "2026-12-1T9:00:00",
        "2026-12-01 10:00:00",
        "1:30",
        "190:20:30",
        "yes",
    ],
)
def test_dates_times_and_words_are_text_as_they_are_written(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extra:\n  begin: {text}\nsignal_lead_seconds: 1_000\n")
    site = load_site(str(path), [f"account={text}"])
    assert (site.extra["begin"], site.account, site.signal_lead_seconds) == (text, text, 1000)


def test_the_home_folder_is_expanded_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    path = tmp_path / "mine.yaml"
    path.write_text(
        "python: ~/venv/bin/python\nenv: {HF_HOME: ~/hf, LIBS: /a:~/b, NOTE: a~b}\nsetup: [source ~/x]\n"
        "container: {kind: apptainer, image: ~/a.sif, mounts: ['~/models:/models']}\n"
    )
    site = load_site(str(path))
    assert site.python == "/home/me/venv/bin/python"
    assert site.env == {"HF_HOME": "/home/me/hf", "LIBS": "/a:/home/me/b", "NOTE": "a~b"}
    assert site.setup == ("source ~/x",)
    assert site.container is not None
    assert (site.container.image, site.container.mounts) == ("/home/me/a.sif", ("/home/me/models:/models",))
