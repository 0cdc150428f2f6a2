"""The names of networks: grammar, canonical form and cards. No torch here, so that listing them is quick."""

import re
from dataclasses import dataclass, replace

from ddbench.errors import UsageError, unknown

LIBRARIES = ("timm", "torchvision")
GRAMMAR = "BASE[-wWIDTH][-in|-bn|-none], timm:NAME or torchvision:NAME"
_PATTERN = re.compile(r"(?P<base>.+?)(-w(?P<width>[1-9][0-9]{0,3}))?(-(?P<norm>in|bn|none))?")

_DC = "the evaluation networks of the DC and MTT families (arXiv 2006.05929, 2203.11932)"
_SMALL = "; up to 64 px a 3x3 stem and no first pool"


@dataclass(frozen=True)
class NetworkCard:
    """What `ddbench networks` shows: default norm ("in" instance, "bn" batch, "none"), description, source."""

    name: str
    norm: str
    description: str
    source: str


@dataclass(frozen=True)
class NetworkName:
    """A name taken apart. `library` is None for networks of ours; width is None where it cannot be chosen."""

    base: str
    width: int | None
    norm: str
    library: str | None = None


@dataclass(frozen=True)
class _Entry:
    card: NetworkCard
    norms: tuple[str, ...]
    width: int | None = None


def _entry(name: str, norms: str, description: str, source: str, width: int | None = None) -> _Entry:
    allowed = tuple(norms.split())
    return _Entry(NetworkCard(name, allowed[0], description, source), allowed, width)


def _convnet(name: str, depth: str) -> _Entry:
    blocks = f"ConvNet, {depth}: conv 3x3, norm, ReLU, average pool 2x2 each; one linear layer"
    return _entry(name, "in bn none", blocks, "the DC family's ConvNet (arXiv 2006.05929)", width=128)


def _resnet(name: str, more: str = "") -> _Entry:
    return _entry(name, "bn in", f"torchvision's {name.split('-')[0]}{more}{_SMALL}", "arXiv 1512.03385")


# The first norm is the default one.
_ENTRIES = {
    entry.card.name: entry
    for entry in (
        _convnet("convnet", "depth by side (up to 16 px: 2, 48: 3, 96: 4, above: 5)"),
        *(_convnet(f"convnet-d{depth}", f"{depth} block{'s'[: depth > 1]}") for depth in range(1, 7)),
        _resnet("resnet18"),
        _resnet("resnet18-ap", ", strides replaced by 2x2 average pools, no global pool"),
        _resnet("resnet50"),
        _resnet("resnet101"),
        _entry("vgg11", "in bn none", "VGG-11 for small images: 512 features, one linear layer", "arXiv 1409.1556"),
        _entry("alexnet", "none in bn", "AlexNet for small images: five convs, one linear layer", _DC),
        _entry("lenet", "none", "LeNet-5 with ReLU and max pools", _DC),
        _entry("mlp", "none", "three linear layers", _DC, width=128),
        _entry("mobilenetv2", "bn in", f"torchvision's MobileNetV2{_SMALL}", "arXiv 1801.04381"),
        _entry("shufflenetv2", "bn in", f"torchvision's ShuffleNetV2 x1.0{_SMALL}", "arXiv 1807.11164"),
        _entry("densenet121", "bn in", f"torchvision's DenseNet-121{_SMALL}", "arXiv 1608.06993"),
        _entry("efficientnet-b0", "bn in", f"torchvision's EfficientNet-B0{_SMALL}", "arXiv 1905.11946"),
    )
}


def network_names() -> tuple[str, ...]:
    """Every base name of ours, in the order in which they are shown."""
    return tuple(_ENTRIES)


def parse(name: str, *, side: int | None = None) -> NetworkName:
    """Take a name apart, defaults filled in; with `side` (pixels), `convnet` becomes a ConvNet of one depth.

    Raises:
        UsageError: an unknown base, or a width or norm that this network does not have.
    """
    library, colon, rest = name.partition(":")
    if colon:
        return _library_name(name, library, rest)
    found = _PATTERN.fullmatch(name)
    base = found["base"] if found else name
    if found is None or base not in _ENTRIES:
        raise UsageError(f"{unknown('network', name, _ENTRIES)}; grammar: {GRAMMAR}")
    entry = _ENTRIES[base]
    if found["width"] and entry.width is None:
        raise UsageError(f"network {name!r}: the width of {base} cannot be chosen")
    norm = found["norm"] or entry.card.norm
    if norm not in entry.norms:
        raise UsageError(f"network {name!r}: norms of {base} are {', '.join(entry.norms)}")
    width = int(found["width"]) if found["width"] else entry.width
    if base == "convnet" and side is not None:
        base = f"convnet-d{_depth(side)}"
    return NetworkName(base, width, norm)


def canonical(name: str, *, side: int) -> str:
    """The one name of a network at `side` pixels: `convnet` with its depth, parts that equal the defaults dropped."""
    parsed = parse(name, side=side)
    if parsed.library:
        return f"{parsed.library}:{parsed.base}"
    entry = _ENTRIES[parsed.base]
    width = "" if parsed.width == entry.width else f"-w{parsed.width}"
    norm = "" if parsed.norm == entry.card.norm else f"-{parsed.norm}"
    return parsed.base + width + norm


def describe(name: str) -> NetworkCard:
    """The card of a network, with the norm and under the name that were asked for."""
    parsed = parse(name)
    if parsed.library:
        return NetworkCard(name, parsed.norm, f"{parsed.base} of {parsed.library}, random weights", parsed.library)
    return replace(_ENTRIES[parsed.base].card, name=name, norm=parsed.norm)


def _depth(side: int) -> int:
    return 2 if side <= 16 else 3 if side <= 48 else 4 if side <= 96 else 5


def _library_name(name: str, library: str, rest: str) -> NetworkName:
    if library not in LIBRARIES:
        raise UsageError(f"network {name!r}: the part before ':' is timm or torchvision")
    known = _library_models(library)
    if rest not in known:
        raise unknown(f"{library} network", rest, known if len(known) < 200 else _near(rest, known))
    return NetworkName(rest, None, "its own", library)


def _near(name: str, known: list[str]) -> list[str]:
    # timm has over a thousand names: an error lists those that begin alike, and stays a line.
    return [other for other in known if other[:4] == name[:4]][:20] or known[:20]


def _library_models(library: str) -> list[str]:
    if library == "timm":
        import timm

        return timm.list_models()
    import torchvision.models

    return torchvision.models.list_models(module=torchvision.models)
