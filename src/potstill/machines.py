"""Devices, precision and processes: as configured, or as torchrun, Slurm or Ray Train has started them."""

from __future__ import annotations

import logging
import os

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import TorchElasticEnvironment

from potstill.allocator import give_back, keep_freed
from potstill.config.schema import Config
from potstill.errors import MachineError
from potstill.sharded import strategy


def met() -> tuple[int, int] | None:
    """Processes of this machine and in all, where whoever started them has made their group already, as Ray Train does."""
    env = os.environ
    known = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"} <= {*env} and "TORCHELASTIC_RUN_ID" not in env
    if known and dist.is_available() and dist.is_initialized():
        return int(env["LOCAL_WORLD_SIZE"]), int(env["WORLD_SIZE"])
    return None


class _Met(TorchElasticEnvironment):
    """Ranks as the variables of torchrun say them; machines need not have equally many processes."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Nothing: the group is there."""


def started() -> tuple[int, int] | None:
    """Processes a machine and machines, where a launcher has started this process and its siblings; None: nobody has."""
    env = os.environ
    if group := met():
        return group[0], -(-group[1] // group[0])
    if "TORCHELASTIC_RUN_ID" in env:
        return int(env["LOCAL_WORLD_SIZE"]), int(env["WORLD_SIZE"]) // int(env["LOCAL_WORLD_SIZE"])
    if "SLURM_NTASKS_PER_NODE" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return int(env["SLURM_NTASKS_PER_NODE"]), int(env.get("SLURM_NNODES", "1"))
    return None


def first() -> bool:
    """Whether this process is the one that writes, known before the processes have met."""
    return started() is None or int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0


def processes(config: Config) -> int:
    """How many train together: as many as were started, else as configured."""
    if group := met():
        return group[1]
    devices, nodes = started() or (config.devices, config.nodes)
    return devices * nodes


def gone_on(config: Config) -> Config:
    """The configuration of a run that goes on, in as many processes as a launcher has started now, however many there were;
    one process holds nets whole."""
    if started() and config.devices * config.nodes > 1:
        config = config.model_copy(update={"devices": 1, "nodes": 1})  # the launcher says it
    shared = config.strategy == "fsdp" and processes(config) > 1
    return config if shared else config.model_copy(update={"strategy": "auto"})


def make_fabric(config: Config) -> Fabric:
    """Devices and precision as configured; processes as their launcher counts them.

    Several processes train by DDP: every one holds the whole net; with ``strategy=fsdp`` each holds a part of it.

    Raises:
        MachineError: the device is not there, or the launcher started another number of processes than configured.
    """
    have = [
        "cpu",
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
    ]
    device = config.device if config.device != "auto" else have[-1]
    if device not in have:
        raise MachineError(
            f"device {device!r} is not on this machine; it has: {', '.join(have)}", hint=f"device={have[-1]}"
        )
    if device == "cpu" and config.checkpoint_activations:
        give_back()
    elif device == "cpu" and config.keep_memory:
        keep_freed()
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "32"
    if precision == "16" and device == "cpu":
        raise MachineError(
            "precision=16 needs an accelerator: on a CPU half precision is slower than 32", hint="precision=bf16"
        )
    name = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[precision]
    devices, nodes = started() or (config.devices, config.nodes)
    if config.nodes > 1 and not started():
        raise MachineError(
            f"nodes={config.nodes}: nobody has started the processes on the other machines",
            hint=f"on each machine: torchrun --nnodes {config.nodes} --nproc-per-node {config.devices} "
            "--rdzv-backend c10d --rdzv-endpoint HOST:29500 -m potstill ...; or srun --ntasks-per-node ...",
        )
    group = met()
    if group and config.devices * config.nodes not in (1, group[1]):
        raise MachineError(
            f"devices={config.devices}, nodes={config.nodes}, but {group[1]} processes were started",
            hint="leave both out",
        )
    for what, asked, got in (("devices", config.devices, devices), ("nodes", config.nodes, nodes)):
        if asked not in (1, got) and not group:
            raise MachineError(
                f"{what}={asked}, but the launcher started {got}", hint=f"leave {what} out: the launcher says it"
            )
    number = processes(config)
    many = number > 1
    if config.strategy == "fsdp" and not many:
        raise MachineError(
            "strategy=fsdp shares a net out among several processes; here is one",
            hint="devices=N, torchrun --nproc-per-node N ..., or strategy=auto",
        )
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the preflight says what it would
    fabric = Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=1 if group else nodes,
        plugins=[_Met()] if group and many else None,
        precision=name,  # type: ignore[arg-type]
        strategy="auto" if not many else strategy(number) if config.strategy == "fsdp" else "ddp",
    )
    if many:
        fabric.launch()
    return fabric


def home_of_teacher(config: Config, fabric: Fabric) -> torch.device | None:
    """The device of the teacher, where the configuration gives it one of its own.

    Raises:
        MachineError: it is not there, or several processes would each put their teacher on it.
    """
    name = config.teacher.device if config.teacher else None
    if name is None:
        return None
    if fabric.world_size > 1:
        raise MachineError(
            f"teacher.device={name}: each of {fabric.world_size} processes has a teacher, and all would be on it",
            hint="teacher.device=null, or one process",
        )
    try:
        home = torch.device(name)
        torch.empty(1, device=home)
    except (RuntimeError, AssertionError, NotImplementedError):
        have = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise MachineError(
            f"teacher.device={name} is not on this machine; it has: {', '.join(have)}",
            hint=f"teacher.device={have[-1]}",
        ) from None
    if home.type == "meta":
        raise MachineError("teacher.device=meta computes nothing", hint="teacher.device=cpu")
    return home
