"""Precision and compilation of the steps of a training, and of what recovers images.

float32, as written, is the reference. In bf16 forward and backward run under autocast: products in bfloat16, weights,
statistics of norms, loss and optimizer in float32. Compiling (`torch.compile`) joins what lies between the products.
Either changes the last digits of a step, so both are part of a run's identity, and of neither are labels or the test:
teachers label, and networks are tested, in float32 and as they are.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, TypeVar, cast

import torch
import torch._dynamo
from torch import Tensor

from ddbench.errors import UsageError

Switch = Literal["auto", "on", "off"]
PRECISIONS = ("float32", "bf16", "auto")
ADMITTED = {"float32": ("cpu", "cuda"), "bf16": ("cpu",)}
"""Precisions that records of `results/` may have, by devices: the reference, and those that `benchmarks/equivalence.py`
has shown to give the same accuracies."""
SWITCHES = ("auto", "on", "off")

VARIANTS = 256  # of one piece of code: members of a committee times sizes of a stack, say
Result = TypeVar("Result")

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Execution:
    """Precision and compilation of one training.

    Attributes:
        precision: "float32" or "bf16".
        compiled: whether forward and backward are compiled.
    """

    precision: str = "float32"
    compiled: bool = False

    def require(self, device: str) -> None:
        """Raise UsageError where this kind of device, or this machine, does not compute so."""
        chosen_precision(self.precision, device)
        if self.compiled:
            refuse_to_compile(device)

    def forward(self, network: Callable[[Tensor], Tensor]) -> Forward:
        """A network as it is called in a training: float32 images to float32 logits, with gradients."""
        if self.compiled:
            network = compiled(network)
        if self.precision == "float32":
            return network

        def in_bf16(images: Tensor) -> Tensor:
            with torch.autocast(images.device.type, torch.bfloat16):
                return network(images).float()

        return in_bf16


def compiled(
    function: Callable[..., Result], *, backend: str | Callable[..., Any] = "inductor"
) -> Callable[..., Result]:
    """A function that is compiled anew for every shape, and for every network that it is called with.

    torch keeps a few variants of a piece of code, and all networks here share theirs: above them it would go on with the
    code as it is, which of them depending on what ran before. Here what was compiled before is forgotten (compiled again
    where it is still called), more variants are kept, and more still are an error.
    """
    torch.compiler.reset()
    config = torch._dynamo.config
    config.recompile_limit, config.fail_on_recompile_limit_hit = VARIANTS, True
    config.accumulated_recompile_limit = max(VARIANTS, config.accumulated_recompile_limit)
    return cast("Callable[..., Result]", torch.compile(function, dynamic=False, backend=backend))


def chosen_precision(word: str, device: str) -> str:
    """Precision that a word stands for; "auto" is bf16 where it is admitted and the device has it, else float32.

    Raises:
        UsageError: no such precision, or a CUDA device here that has no bf16.
    """
    if word not in PRECISIONS:
        raise UsageError(f"unknown precision {word!r}: allowed are {', '.join(PRECISIONS)}")
    if word == "auto":
        return "bf16" if admitted("bf16", device) and _has_bf16(device) else "float32"
    if word == "bf16" and device == "cuda" and torch.cuda.is_available() and not _has_bf16(device):
        raise UsageError("precision bf16: this CUDA device does not compute in it")
    return word


def admitted(precision: str, device: str) -> bool:
    """Tell whether records of `results/` may have this precision on this kind of device."""
    return device in ADMITTED.get(precision, ())


def _has_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.backends.cpu.get_cpu_capability()
    return "AVX512" in capabilities and bool(torch.cpu._is_avx512_bf16_supported())


def checked_switch(word: str, device: str) -> Switch:
    """A word for compiling, "auto" being "off" where this machine has no compiler.

    Raises:
        UsageError: an unknown word, or "on" where there is no compiler.
    """
    if word not in SWITCHES:
        raise UsageError(f"unknown word for compiling {word!r}: allowed are {', '.join(SWITCHES)}")
    if word != "off" and missing_compiler(device):
        if word == "on":
            refuse_to_compile(device)
        return "off"
    return cast(Switch, word)


def refuse_to_compile(device: str) -> None:
    """Raise UsageError where torch cannot compile on this machine."""
    missing = missing_compiler(device)
    if missing:
        raise UsageError(f"compile on: {missing}; leave it off, or install it")


def missing_compiler(device: str) -> str | None:
    """Name what torch would need to compile and this machine lacks; None: nothing."""
    if device == "cuda":
        return None if find_spec("triton") else "triton is not installed"
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    return None if any(shutil.which(name) for name in names) else f"there is no C++ compiler ({' or '.join(names)})"
