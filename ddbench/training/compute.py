"""Compute: how a job computes, a part of every run's identity and of the key of a distilled set."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ddbench.data.dataset import Dataset
from ddbench.errors import UsageError
from ddbench.networks import parse
from ddbench.networks.registry import build
from ddbench.settings import default_compile, default_device, default_precision, default_threads
from ddbench.system import rank
from ddbench.system.environment import find_device
from ddbench.training.memory import keep_freed_memory
from ddbench.training.precision import Execution, Switch, checked_switch, chosen_precision, refuse_to_compile
from ddbench.training.recipe import StudentRecipe

REPAID = 2e13
"""Floating-point operations of a training and thread from which on compiling repays itself on a CPU: about five minutes'
worth, of which it saves one or more, and takes 10 to 40 s (measured, benchmarks/students.md)."""


@dataclass(frozen=True)
class Compute:
    """Settings of a job's computation: part of every run's identity, and of the key of a distilled set.

    Attributes:
        device: "cpu" or "cuda".
        threads: of the job, on a CPU.
        precision: of the students' steps, "float32" or "bf16"; teachers are trained in float32, sets made as their recipe says.
        compile: whether the students' steps are compiled: "on", "off", or "auto", where that repays its set-up.
        stack: train all students of a cell at once, where their network allows it.
        devices: processes that train a student, or a teacher, together (`ddbench.training.distributed`).
    """

    device: str = "cpu"
    threads: int = 1
    precision: str = "float32"
    compile: Switch = "off"
    stack: bool = False
    devices: int = 1

    @classmethod
    def here(
        cls,
        device: str | None = None,
        threads: int | None = None,
        precision: str | None = None,
        compile: str | None = None,
        *,
        elsewhere: bool = False,
        devices: int = 1,
    ) -> "Compute":
        """How to compute on this machine: what is given, else the environment, else the default.

        On one CUDA device all students of a cell train at once.

        Args:
            device: "cpu", "cuda" or "auto", CUDA where there is one; None: DDBENCH_DEVICE, else auto.
            threads: per job, on a CPU; None: DDBENCH_THREADS, else 1.
            precision: of the students' steps: "float32", "bf16", or "auto", bf16 where it is admitted to results (on
                CPUs) and the device has it; None: DDBENCH_PRECISION, else float32.
            compile: whether the students' steps are compiled: "on", "off", or "auto", where that repays its set-up;
                None: DDBENCH_COMPILE, else off.
            elsewhere: jobs run on other machines, so that CUDA may be asked for where there is none.
            devices: that train a student, or a teacher, together, of all nodes.

        Raises:
            UsageError: a word that is none of these, or what this machine cannot do.
        """
        if threads is not None and threads < 1:
            raise UsageError(f"threads must be at least 1, not {threads}")
        device = device or default_device()
        if not elsewhere or device != "cuda":
            device = find_device(device).type
        switch = checked_switch(compile or default_compile(), device)
        if devices > 1 and switch == "on":
            raise UsageError("compile on: not where several devices train together")
        return cls(
            device=device,
            threads=threads or default_threads(),
            precision=chosen_precision(precision or default_precision(), device),
            compile=switch,
            stack=device == "cuda" and devices == 1,
            devices=devices,
        )

    def apply(self) -> torch.device:
        """Set this process's threads and how it keeps memory, and give the device."""
        torch.set_num_threads(self.threads)
        keep_freed_memory()
        return find_device(self.device)  # in a worker too: it turns TF32 off

    def identity(self) -> dict[str, Any]:
        """Fields of a run that say how it was computed, but for what is decided for each cell."""
        decided = {"compiled": self.compile == "on"} if self.compile != "auto" else {}
        return {
            "device": self.device,
            "precision": self.precision,
            **decided,
            **({} if self.stack else {"stacked": False}),
            "threads": self.threads,
            "build": torch.__version__,
            "devices": self.devices,
        }

    def execution(self, recipe: StudentRecipe, dataset: Dataset, images: int) -> Execution:
        """Settle how the steps of a training on so many images are computed, "auto" too."""
        auto = (
            self.compile == "auto" and self.devices == 1 and repays(recipe, dataset, images, self.device, self.threads)
        )
        if auto or self.compile == "on":
            refuse_to_compile(self.device)  # a worker's machine may lack what the driver's has
        return Execution(self.precision, auto or self.compile == "on")


def check_devices(setting: Compute) -> None:
    """Raise UsageError unless so many processes train together here as a run, or a set's key, would say."""
    if setting.devices != rank.count():
        raise UsageError(
            f"devices {setting.devices}, but this process trains with {rank.count()}: "
            "ddbench.jobs.ddp.DDPExecutor is what runs a grid in several"
        )


def repays(recipe: StudentRecipe, dataset: Dataset, images: int, device: str, threads: int) -> bool:
    """Tell whether compiling a training repays its set-up, from the recipe alone: so every seed of a cell is alike.

    On CUDA never, as nothing was measured there.
    """
    if device != "cpu":
        return False
    images_seen = recipe.steps(images) * min(recipe.batch, images)
    return 3 * images_seen * _flops(recipe.network, dataset) >= REPAID * threads


def _flops(name: str, dataset: Dataset) -> int:
    """Floating-point operations of one image's forward, counted without computing; 0 for a library's network."""
    if parse(name, side=dataset.side).library:
        return 0
    shape = {"channels": dataset.channels, "side": dataset.side}
    with torch.device("meta"):
        network: nn.Module = build(name, **shape, classes=len(dataset.class_names)).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, dataset.channels, dataset.side, dataset.side))
    return counter.get_total_flops()
