"""CLIP models of open_clip: image encoders with the weights of a tag, or drawn, and columns from texts.

Only architectures and tags that open_clip itself lists are taken: never a path, a hub's name, or a text tower of another
library. A class name that is a WordNet id becomes words: open_clip's own of ImageNet-1K, else WordNet's first lemma.
"""

import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.errors import UsageError, unknown
from ddbench.randomness import forked

TEXTS_AT_ONCE = 256
MAX_BYTES = 4 * 2**30  # of a model's weights: a set from a stranger may name any
_WNID = re.compile(r"n[0-9]{8}")


def open_clip() -> Any:
    """Library; UsageError if it is not installed."""
    try:
        import open_clip as library
    except ImportError as error:
        raise UsageError("an open_clip encoder needs the library open_clip: pip install 'ddbench[clip]'") from error
    return library


def require_model(model: str, tag: str | None) -> dict[str, Any]:
    """Configuration of an architecture; UsageError if open_clip does not list it, or lists no such tag for it."""
    library = open_clip()
    if model not in library.list_models():
        near = [name for name in library.list_models() if name[:4] == model[:4]] or ["RN50", "ViT-B-32"]
        raise unknown("open_clip model", model, near)
    tags = library.list_pretrained_tags_by_model(model)
    if tag is not None and tag not in tags:
        raise unknown(f"open_clip weights of {model}", tag, tags)
    config: dict[str, Any] = library.get_model_config(model)
    text = config.get("text_cfg") or {}
    if "hf_model_name" in text or "hf_tokenizer_name" in text:
        raise UsageError(f"open_clip model {model!r} reads texts by another library's model: choose RN50 or ViT-B-32")
    return config


@lru_cache(maxsize=1)  # one at a time: they are large
def load_clip(model: str, tag: str | None, seed: int) -> nn.Module:
    """A CLIP model on the CPU, in eval mode and without gradients; do not change it, it is shared.

    Args:
        model: open_clip's name of the architecture.
        tag: of its weights, downloaded where they are not there yet; None: drawn, for trying the path only.
        seed: what drawn weights are drawn from.

    Raises:
        UsageError: the library is missing, a name is unknown, the model is too large, or the weights cannot be had (what
            to do).
    """
    require_model(model, tag)
    library = open_clip()
    weights = library.get_pretrained_cfg(model, tag) if tag else {}
    with forked(seed, "open-clip", model), _quiet(), contextlib.redirect_stdout(sys.stderr):
        try:
            _require_size(library, model)
            # the activation goes with the weights
            made: nn.Module = library.create_model(
                model, pretrained=tag, force_quick_gelu=bool(weights.get("quick_gelu", False))
            )
        except UsageError:
            raise
        except Exception as error:  # whatever the library, its server or a damaged file comes up with
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            source = weights.get("hf_hub") or weights.get("url")
            raise UsageError(
                f"the weights {tag!r} of open_clip's {model!r} cannot be loaded ({reason}): let them be fetched once from "
                f"{source}; 'open_clip:{model}' runs the pipeline without them"
            ) from error
    return made.float().eval().requires_grad_(False)


def _require_size(library: Any, model: str) -> None:
    """UsageError where a model's weights are too large; they are not made for that."""
    with torch.device("meta"):
        made = library.create_model(model, device="meta")
    size = sum(tensor.nbytes for tensor in made.state_dict().values())
    if size > MAX_BYTES:
        raise UsageError(
            f"open_clip model {model!r} takes {size / 2**30:.1f} GiB, allowed are {MAX_BYTES / 2**30:.0f}: choose a smaller one"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's remark that weights are drawn: that was asked for."""
    root = logging.getLogger()

    def keep(record: logging.LogRecord) -> bool:
        return "No pretrained weights loaded" not in record.getMessage()

    handlers = list(root.handlers)
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)
        for handler in root.handlers[:]:
            if handler not in handlers:  # the library's remarks make one, which would show others' too
                root.removeHandler(handler)


def prompts_of(template: str, class_names: Sequence[str]) -> list[str]:
    """Text of each class: the template with the class in words in the place of {}."""
    require_template(template)
    return [template.replace("{}", words) for words in words_of(class_names)]


def require_template(template: str) -> None:
    """UsageError unless a prompt has one {} for the class."""
    if template.count("{}") != 1:
        raise UsageError(f"the prompt {template!r} must have one {{}}, where the class goes")


def words_of(class_names: Sequence[str]) -> list[str]:
    """Class names as people say them: words for WordNet ids, spaces for underscores."""
    if not all(_WNID.fullmatch(name) for name in class_names):
        return [name.replace("_", " ") for name in class_names]
    from timm.data import ImageNetInfo

    open_clip()
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    own = dict(zip(ImageNetInfo("imagenet-1k").label_names(), IMAGENET_CLASSNAMES, strict=True))
    lemmas = ImageNetInfo("imagenet-22k")
    known = set(lemmas.label_names())
    for name in class_names:
        if name not in own and name not in known:
            raise UsageError(
                f"class {name!r} looks like a WordNet id, but is none of ImageNet's: name classes in words"
            )
    return [own.get(name) or lemmas.label_name_to_description(name).split(",")[0] for name in class_names]


@torch.no_grad()
def text_columns(clip: Any, model: str, prompts: Sequence[str]) -> Tensor:
    """Normalized embeddings of texts as columns: float32 [d, K], on the CPU."""
    tokens = open_clip().get_tokenizer(model)(list(prompts))
    embedded = torch.cat([clip.encode_text(part) for part in tokens.split(TEXTS_AT_ONCE)])
    return F.normalize(embedded.float(), dim=1).T.contiguous()
