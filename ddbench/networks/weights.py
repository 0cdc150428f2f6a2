"""Pretrained networks of torchvision and timm: the libraries' own weights, with the constants that belong to them.

torchvision's are IMAGENET1K_V1 where there are several, as the papers on distilling ImageNet take them; timm's are those
of the name's default tag. The network is the one that `create` builds, so a state dict of one fits the other.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ddbench.errors import UsageError
from ddbench.networks.library import library_network, timm_network, torchvision_network
from ddbench.networks.parts import Network
from ddbench.randomness import forked
from ddbench.system.downloads import fetch

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads of GoogLeNet and Inception that only their own training uses
CENTRED = ("googlenet", "inception_v3")
"""torchvision's ports of TensorFlow networks: they map ImageNet's constants to mean and std 0.5 by themselves, if told to."""
ONE_SIDE = ("vit_", "maxvit_")  # torchvision's networks that hold a table of positions


@dataclass(frozen=True, eq=False)
class _Weights:
    """One set of weights.

    Attributes:
        channels, classes: what they are for.
        side: the only one that they are for, in pixels; None: any that the network takes.
        mean, std: per channel, on [0, 1].
        load: gives the state dict of the library's network at a side in pixels, downloaded where it is not there yet.
        by_hand: what to download and where to put it.
    """

    channels: int
    classes: int
    side: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    load: Callable[[int], Mapping[str, Tensor]]
    by_hand: str


def load_pretrained(
    library: str, base: str, *, channels: int, side: int, classes: int
) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    """See `ddbench.networks.pretrained`; `library` is "timm" or "torchvision"."""
    name = f"{library}:{base}"
    weights = (_timm if library == "timm" else _torchvision)(base)
    if (channels, classes) != (weights.channels, weights.classes):
        raise UsageError(
            f"the pretrained weights of {name!r} are for {weights.channels} channels and {weights.classes:,} classes, "
            f"not for {channels} and {classes:,}"
        )
    if weights.side not in (None, side):
        raise UsageError(f"the pretrained weights of {name!r} are for images of {weights.side} px, not {side} px")
    with forked(0, "pretrained"):
        network = library_network(library, base, channels=channels, side=side, classes=classes)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for data
                _adopt(network, weights.load(side))
        except Exception as error:  # whatever a library, its server or a damaged file comes up with
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UsageError(
                f"the pretrained weights of {name!r} cannot be loaded at {side} px ({reason}): {weights.by_hand}; "
                'weights = "random" runs the pipeline without them'
            ) from error
    return network, weights.mean, weights.std


def _adopt(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the state dict of a library's network, which has not been split into embedding and head, into ours."""
    state = {key: value for key, value in state.items() if not key.startswith(AUXILIARY)}
    if isinstance(network, Network):
        inner = network.features.state_dict()
        places = {key: f"features.{key}" if key in inner else f"head.{key.rpartition('.')[2]}" for key in state}
        state = {places[key]: value for key, value in state.items()}
    network.load_state_dict(state)


def _folder() -> Path:
    """Folder of weights of torch and torchvision."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _fetch(url: str) -> None:
    """Download weights to where the libraries look for them, unless they are there."""
    name = url.rpartition("/")[2]
    stated = torch.hub.HASH_REGEX.search(name)
    fetch(_folder() / name, url, digest=stated[1] if stated else "")


def _torchvision(base: str) -> _Weights:
    import torchvision.models

    kind = torchvision.models.get_model_weights(base)
    chosen = getattr(kind, "IMAGENET1K_V1", None) or kind.DEFAULT
    transform = chosen.transforms()

    def load(side: int) -> Mapping[str, Tensor]:
        _fetch(chosen.url)
        # first as plain tensors, nothing else: the builder, which knows old names, would unpickle anything
        chosen.get_state_dict(weights_only=True)
        return torchvision_network(base, 3, side, classes, weights=chosen).state_dict()

    mean, std = ([0.5] * 3, [0.5] * 3) if base in CENTRED else (transform.mean, transform.std)
    classes = len(chosen.meta["categories"])
    by_hand = f"download {chosen.url} into {_folder()}"
    only = chosen.meta["min_size"][0] if base.startswith(ONE_SIDE) else None
    return _Weights(3, classes, only, tuple(mean), tuple(std), load, by_hand)


def _timm(base: str) -> _Weights:
    import timm.models

    config = timm.models.get_pretrained_cfg(base)
    if config is None or not config.has_weights:
        raise UsageError(f"network 'timm:{base}' has no pretrained weights in timm")
    own = _folder() / f"{base}.{config.tag}.safetensors"
    channels = config.input_size[0]

    def load(side: int) -> Mapping[str, Tensor]:
        if isinstance(config.url, str) and not config.hf_hub_id and not own.is_file():
            _fetch(config.url)
        # custom_load says how to read the format of the authors, which timm's own files are not in
        overlay = {"file": os.fspath(own), "custom_load": False} if own.is_file() else None
        network = timm_network(
            base, channels, side, config.num_classes, pretrained=True, pretrained_cfg_overlay=overlay
        )
        return network.state_dict()

    by_hand = f"download {config.url} into {_folder()}"
    if config.hf_hub_id:
        page = f"https://huggingface.co/{config.hf_hub_id}"
        by_hand = f"download {config.hf_hub_filename or 'model.safetensors'} of {page} and put it in place as {own}"
    return _Weights(channels, config.num_classes, None, tuple(config.mean), tuple(config.std), load, by_hand)
