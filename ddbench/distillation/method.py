"""Methods: one frozen class of hyper-parameters and one function `distill(task, hyper) -> SynSet`."""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from ddbench import plugins
from ddbench.errors import unknown

if TYPE_CHECKING:
    from ddbench.training.precision import Execution

GROUP = "ddbench.methods"


class Hyper(BaseModel):
    """Base of every hyper-parameter class: frozen, strict in types, unknown keys refused.

    A field has a default only where the paper has one; its description gives unit, paper symbol and meaning, its
    bounds the range: `lr_img: float = Field(1.0, gt=0, description="step size on the images, lambda_s")`.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    def execution(self) -> "Execution":
        """Precision and compilation of the synthesis: float32 and as written, unless a method has fields for it."""
        from ddbench.training.precision import Execution

        return Execution()


@dataclass(frozen=True)
class Method:
    """A distillation method as the registry knows it.

    Attributes:
        name: what people type.
        hyper: the hyper-parameter class.
        distill: the method itself, `distill(task: Task, hyper) -> SynSet`; its types are not named here, as they load torch.
        title, paper, arxiv: for tables and pages; empty for a baseline without a paper.
        differences: in which points this implementation differs from the paper; tables footnote it.
        balanced: every class gets `ipc` images; the conformance test checks it.
        budgets: which budgets make sense: "ipc", "fraction", "all".
        network: distillation network where no recipe names one; a method may need batch normalization.
        toy: hyper-parameters that make it fast on digits at IPC `toy_ipc`, for the conformance test.
        toy_ipc: the smallest IPC on digits that its definition allows.
        deterministic: it draws nothing by the synthesis seed, so that every seed gives the same set.
        snapshots: it learns its set step by step, and offers it on the way (`Task.snapshot`).
    """

    name: str
    hyper: type[Hyper]
    distill: Callable[[Any, Any], Any]
    title: str = ""
    paper: str = ""
    arxiv: str = ""
    differences: tuple[str, ...] = ()
    balanced: bool = True
    budgets: tuple[str, ...] = ("ipc",)
    network: str = "convnet"
    toy: Mapping[str, object] = field(default_factory=dict)
    toy_ipc: int = 1
    deterministic: bool = False
    snapshots: bool = False


def declared_budgets(name: str) -> tuple[str, ...] | None:
    """The budgets of a method as its source says, which is read and not imported: importing a method imports torch.

    None where the source does not tell: it is not there, or `METHOD = Method(..., budgets=...)` is written otherwise.

    Raises:
        UsageError: there is no such method.
    """
    point = plugins.declared(GROUP, name)
    if point is None:
        raise unknown(plugins.KINDS[GROUP], name, method_names())
    try:
        spec = find_spec(point.module)
        for node in ast.parse(Path(spec.origin).read_bytes() if spec and spec.origin else b"").body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == point.attr:
                call = node.value
                if not isinstance(call, ast.Call) or ast.unparse(call.func) != "Method":
                    return None
                words = {word.arg: word.value for word in call.keywords}
                return ast.literal_eval(words["budgets"]) if "budgets" in words else Method.budgets
    except (ImportError, OSError, SyntaxError, ValueError):
        return None
    return None


def method_names() -> tuple[str, ...]:
    """Names of all installed methods."""
    return plugins.names(GROUP)


def find_method(name: str) -> Method:
    """Method registered under `name`; UsageError if there is none, or if what is registered is no method."""
    return plugins.find_a(Method, GROUP, name)
