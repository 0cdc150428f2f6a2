"""Names to networks: grammar, canonical form, cards, and building. No torch before one is built, so that listing is quick."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddbench import plugins
from ddbench.errors import UsageError, unknown

if TYPE_CHECKING:
    from torch import nn

GROUP = "ddbench.networks"
LIBRARIES = ("timm", "torchvision")
GRAMMAR = "BASE[-wWIDTH][-in|-bn|-none], timm:NAME or torchvision:NAME"
_PATTERN = re.compile(r"(?P<base>.+?)(-w(?P<width>[1-9][0-9]{0,3}))?(-(?P<norm>in|bn|none))?")
_ORDER = (
    *("convnet", *(f"convnet-d{depth}" for depth in range(1, 7))),
    *("resnet18", "resnet18-ap", "resnet50", "resnet101", "vgg11", "alexnet", "lenet", "mlp"),
    *("mobilenetv2", "shufflenetv2", "densenet121", "efficientnet-b0"),
)  # as ours are listed


@dataclass(frozen=True)
class Architecture:
    """A network that can be built by name: what an entry point of the group `ddbench.networks` gives.

    Attributes:
        description: one line.
        source: the paper, or where else it is from.
        norms: that can be asked for, of "in" (instance), "bn" (batch) and "none"; the first is the default.
        build: called with channels, side (pixels), classes, norm and width as keywords; draws initial weights from torch's
            global generator. It imports torch when it is called, so that listing is quick.
        width: the default; None where it cannot be chosen.
        at_side: gives the name of the network that this one stands for at a side in pixels; None: it stands for itself.
    """

    description: str
    source: str
    norms: tuple[str, ...]
    build: "Callable[..., nn.Module]"
    width: int | None = None
    at_side: Callable[[int], str] | None = None


@dataclass(frozen=True)
class NetworkCard:
    """A line of `ddbench networks`; `norm` is "in" (instance), "bn" (batch) or "none"."""

    name: str
    norm: str
    description: str
    source: str


@dataclass(frozen=True)
class NetworkName:
    """A name taken apart. `library` is None for a registered network; width is None where it cannot be chosen."""

    base: str
    width: int | None
    norm: str
    library: str | None = None


def network_names() -> tuple[str, ...]:
    """Every base name: ours in their order, then those of plugins."""
    names = plugins.names(GROUP)
    return (*_ORDER, *(name for name in names if name not in _ORDER))


def find_architecture(base: str) -> Architecture:
    """Architecture registered under a name; UsageError if there is none, or something else."""
    return plugins.find_a(Architecture, GROUP, base)


def parse(name: str, *, side: int | None = None) -> NetworkName:
    """Take a name apart, defaults filled in; with `side` (pixels), `convnet` becomes a ConvNet of one depth.

    Raises:
        UsageError: an unknown base, or a width or norm that this network does not have.
    """
    library, colon, rest = name.partition(":")
    if colon:
        return _library_name(name, library, rest)
    match = _PATTERN.fullmatch(name)
    if match is None or match["base"] not in plugins.names(GROUP):
        raise UsageError(f"{unknown('network', name, network_names())}; grammar: {GRAMMAR}")
    base = match["base"]
    architecture = find_architecture(base)
    if match["width"] and architecture.width is None:
        raise UsageError(f"network {name!r}: the width of {base} cannot be chosen")
    norm = match["norm"] or architecture.norms[0]
    if norm not in architecture.norms:
        raise UsageError(f"network {name!r}: norms of {base} are {', '.join(architecture.norms)}")
    width = int(match["width"]) if match["width"] else architecture.width
    if side is not None and architecture.at_side is not None:
        base = architecture.at_side(side)
    return NetworkName(base, width, norm)


def canonical(name: str, *, side: int) -> str:
    """One name of a network at `side` pixels: `convnet` with its depth, parts that equal the defaults dropped."""
    parsed = parse(name, side=side)
    if parsed.library:
        return f"{parsed.library}:{parsed.base}"
    architecture = find_architecture(parsed.base)
    width = "" if parsed.width == architecture.width else f"-w{parsed.width}"
    norm = "" if parsed.norm == architecture.norms[0] else f"-{parsed.norm}"
    return parsed.base + width + norm


def describe(name: str) -> NetworkCard:
    """Card of a network, with the norm and under the name that were asked for."""
    parsed = parse(name)
    if parsed.library:
        return NetworkCard(name, parsed.norm, f"{parsed.base} of {parsed.library}, random weights", parsed.library)
    architecture = find_architecture(parsed.base)
    return NetworkCard(name, parsed.norm, architecture.description, architecture.source)


def build(name: str, *, channels: int, side: int, classes: int) -> "nn.Module":
    """Build a network by name; its initial weights come from torch's global generator, which `networks.create` seeds."""
    if min(channels, side, classes) < 1:
        raise UsageError(
            f"network {name!r}: channels {channels}, side {side}, classes {classes} must each be at least 1"
        )
    parsed = parse(name, side=side)
    if parsed.library:
        from ddbench.networks.library import library_network

        return library_network(parsed.library, parsed.base, channels=channels, side=side, classes=classes)
    architecture = find_architecture(parsed.base)
    return architecture.build(channels=channels, side=side, classes=classes, norm=parsed.norm, width=parsed.width)


def _library_name(name: str, library: str, rest: str) -> NetworkName:
    if library == "timm":
        import timm

        known = timm.list_models()
    elif library == "torchvision":
        import torchvision.models

        known = torchvision.models.list_models(module=torchvision.models)
    else:
        raise UsageError(f"network {name!r}: the part before ':' is timm or torchvision")
    if rest not in known:
        # timm has over a thousand names: the error lists those that begin alike, and stays a line
        near = [other for other in known if other[:4] == rest[:4]][:20] or known[:20]
        raise unknown(f"{library} network", rest, known if len(known) < 200 else near)
    return NetworkName(rest, None, "its own", library)
