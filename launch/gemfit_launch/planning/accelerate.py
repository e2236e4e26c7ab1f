"""The configuration and the command line of ``accelerate launch``, from a strategy and a topology."""

from __future__ import annotations

from typing import Any

from gemfit.schemas.plan import Topology
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.strategy import Ddp, DeepSpeed, Fsdp, Single

RUN_DIR = "{run_dir}"


def accelerate_config(recipe: Recipe, topology: Topology) -> dict[str, Any]:
    """A complete configuration file, as ``accelerate config`` would write it.

    It never sets ``use_cpu``, which would make accelerate start one process without torchrun. The
    training process itself selects the CPU and gloo where the topology does.
    """
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "NO",
        "mixed_precision": "bf16" if recipe.model.dtype == "bfloat16" else "no",
        "num_machines": topology.nodes,
        "num_processes": topology.world_size,
        "machine_rank": 0,
        "main_training_function": "main",
        "use_cpu": False,
        "rdzv_backend": "static",  # each machine's launcher gets its rank as an argument
        "same_network": True,
    }
    match recipe.strategy:
        case Single():
            pass
        case Ddp():
            config["distributed_type"] = "MULTI_GPU"
        case Fsdp() as fsdp:
            config |= {"distributed_type": "FSDP", "fsdp_config": _fsdp(fsdp)}
            if (replicas := fsdp.replicas(topology.nodes)) > 1:
                config["parallelism_config"] = _device_mesh(replicas, topology.world_size)
        case DeepSpeed():
            config |= {"distributed_type": "DEEPSPEED", "deepspeed_config": _deepspeed()}
            # DeepSpeed's own file holds it, and accelerate refuses a second value.
            del config["mixed_precision"]
    return config


def command() -> tuple[str, ...]:
    """argv of one node's launcher."""
    return (
        "accelerate",
        "launch",
        "--config_file",
        f"{RUN_DIR}/accelerate.yaml",
        "-m",
        "gemfit.train",
        RUN_DIR,
    )


def environment(topology: Topology) -> dict[str, str]:
    """Environment variables that are added for the training processes."""
    env = {"TOKENIZERS_PARALLELISM": "false"}
    if topology.device == "cpu":
        # One thread per rank: torch would start one per core in every rank.
        env |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return env


def _fsdp(strategy: Fsdp) -> dict[str, Any]:
    """FSDP2 over decoder layers.

    The class of a decoder layer depends on the model, which is not loaded here: the training process reads
    it from the model and overrides the null.
    """
    return {
        "fsdp_version": 2,
        "fsdp_reshard_after_forward": strategy.reshard_after_forward,
        "fsdp_offload_params": strategy.offload,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_transformer_layer_cls_to_wrap": None,
        "fsdp_state_dict_type": "SHARDED_STATE_DICT",
        "fsdp_cpu_ram_efficient_loading": False,
        "fsdp_activation_checkpointing": False,  # the trainer applies it, in the same way for every strategy
    }


def _device_mesh(replicas: int, world_size: int) -> dict[str, int]:
    """HSDP: consecutive ranks share a copy, so that gathers stay inside a node where copies do."""
    return {
        "parallelism_config_dp_replicate_size": replicas,
        "parallelism_config_dp_shard_size": world_size // replicas,
    }


def _deepspeed() -> dict[str, Any]:
    return {
        "deepspeed_config_file": f"{RUN_DIR}/deepspeed.json",
        "zero3_init_flag": False,
        # torchrun on each machine. The default starts ranks over ssh from one of them, and writes the whole
        # environment, tokens included, into a file.
        "deepspeed_multinode_launcher": "standard",
    }
