"""Pretrained weights: made here, put where the libraries look for theirs, and loaded by the libraries' own code."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from ddbench import networks
from ddbench.errors import UsageError
from ddbench.randomness import rng

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SHAPE = {"channels": 3, "side": 64, "classes": 1000}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch hub's folder of weights, where no network can be reached from."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def unreachable(*args, **more):
        print("Downloading")  # as torch does, on stdout
        raise URLError("no route\nto host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", unreachable)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def drawn(network: torch.nn.Module) -> torch.nn.Module:
    """The network in eval mode with weights that no initialiser gives."""
    for number, value in enumerate(network.state_dict().values()):
        if value.dtype.is_floating_point:
            noise = torch.randn(value.shape, generator=rng(0, number))
            value.copy_(0.05 * noise if value.dim() > 1 else 1 + 0.1 * noise.abs())
    return network.eval()


def placed(hub: Path, name: str, weights: str = "IMAGENET1K_V1", **options: object) -> torch.nn.Module:
    """torchvision's own network, its state dict put where torchvision looks for these weights."""
    network = drawn(torchvision.models.get_model(name, weights=None, **options))
    url = torchvision.models.get_model_weights(name)[weights].url
    torch.save(network.state_dict(), hub / url.rpartition("/")[2])
    return network


def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=rng(0, "images"))


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small", "squeezenet1_1"])
def test_torchvisions_weights_in_the_network_that_create_builds(name: str, hub: Path) -> None:
    """Networks that are split into embedding and head, and one that is not."""
    theirs = placed(hub, name)
    before = torch.get_rng_state()
    ours, mean, std = networks.pretrained(f"torchvision:{name}", **SHAPE)
    assert torch.equal(torch.get_rng_state(), before) and ours.training
    assert (mean, std) == IMAGENET
    with torch.no_grad():
        assert torch.equal(ours.eval()(images()), theirs(images()))
    assert hasattr(ours, "embed") == (name != "squeezenet1_1")
    same = networks.create(f"torchvision:{name}", **SHAPE)
    same.load_state_dict(ours.state_dict())  # what a teacher does with the weights that it keeps


def test_a_file_with_the_names_of_an_older_torchvision(hub: Path) -> None:
    theirs = placed(hub, "densenet121")
    (path,) = hub.iterdir()
    kept = {key: value for key, value in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value for key, value in kept.items()}
    assert old.keys() != kept.keys()
    torch.save(old, path)
    ours, _, _ = networks.pretrained("torchvision:densenet121", **SHAPE)
    with torch.no_grad():
        assert torch.equal(ours.eval()(images()), theirs(images()))


def test_version_one_is_taken_before_the_newer_one(hub: Path) -> None:
    theirs = placed(hub, "mobilenet_v2")
    placed(hub, "mobilenet_v2", "IMAGENET1K_V2", width_mult=0.5)  # would not even fit
    ours, _, _ = networks.pretrained("torchvision:mobilenet_v2", **SHAPE)
    assert torch.equal(ours.head.weight, theirs.classifier[1].weight)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_that_change_their_input_read_the_constants_that_they_change_it_to(name: str, hub: Path) -> None:
    theirs = placed(hub, name, init_weights=False, transform_input=True)
    side = 96
    ours, mean, std = networks.pretrained(f"torchvision:{name}", channels=3, side=side, classes=1000)
    pixels = torch.rand(2, 3, side, side, generator=rng(0, "pixels"))

    def encoded(mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    with torch.no_grad():
        found, wanted = ours.eval()(encoded(mean, std)), theirs(encoded(*IMAGENET))
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_timms_weights_of_the_default_tag(name: str, hub: Path) -> None:
    facts = timm.models.get_pretrained_cfg(name)
    own = {"img_size": facts.input_size[-1]} if "vit" in name else {}
    theirs = drawn(timm.create_model(name, **own))
    save_file(theirs.state_dict(), hub / f"{name}.{facts.tag}.safetensors")
    side = facts.input_size[-1]
    ours, mean, std = networks.pretrained(f"timm:{name}", channels=3, side=side, classes=1000)
    assert (mean, std) == (tuple(facts.mean), tuple(facts.std)) == ((0.5,) * 3, (0.5,) * 3)
    batch = torch.randn(2, 3, side, side, generator=rng(0, "images"))
    with torch.no_grad():
        assert torch.equal(ours.eval()(batch), theirs(batch))
    networks.create(f"timm:{name}", channels=3, side=side, classes=1000).load_state_dict(ours.state_dict())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "torchvision:shufflenet_v2_x0_5",
            ("download https://download.pytorch.org/", "shufflenetv2_x0.5-f707e7126e.pth"),
        ),
        (
            "timm:test_resnet",
            ("model.safetensors of https://huggingface.co/timm/test_resnet.", "test_resnet.r160_in1k.s"),
        ),
    ],
)
def test_what_cannot_be_downloaded_is_one_line_with_what_to_do(name, words, hub, capsys) -> None:
    with pytest.raises(UsageError) as error:
        networks.pretrained(name, **SHAPE)
    line = str(error.value)
    assert "\n" not in line and "no route to host" in line and name in line and str(hub) in line
    assert all(word in line for word in words) and 'weights = "random"' in line
    assert capsys.readouterr().out == "" and not list(hub.iterdir())


@pytest.mark.parametrize("content", [b"", b"hello", "another network", "a pickle"])
def test_a_file_that_is_no_weights_of_this_network_is_one_line(content, hub: Path) -> None:
    placed(hub, "shufflenet_v2_x0_5")
    (path,) = hub.iterdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"x": torch.zeros(1)} if "network" in content else {"x": Path("anything at all")}, path)
    with pytest.raises(UsageError, match="cannot be loaded at 64 px") as error:
        networks.pretrained("torchvision:shufflenet_v2_x0_5", **SHAPE)
    assert "\n" not in str(error.value) and path.name in str(error.value)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("resnet18", {}, "only torchvision:NAME and timm:NAME"),
        ("torchvision:resnet18", {"classes": 10}, "are for 3 channels and 1,000 classes, not for 3 and 10"),
        ("torchvision:resnet18", {"channels": 1}, "not for 1 and 1,000"),
        ("timm:resnet18", {"classes": 200}, "not for 3 and 200"),
        ("timm:resnet18", {"side": 0}, "does not work at 0 px"),
        ("torchvision:alexnet", {"side": 16}, "does not work at 16 px"),
        ("timm:resnet1", {}, "did you mean resnet18"),
        ("torchvision:vit_b_16", {}, "are for images of 224 px, not 64 px"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_downloaded(name, changes, words, hub: Path) -> None:
    with pytest.raises(UsageError) as error:
        networks.pretrained(name, **{**SHAPE, **changes})
    assert words in str(error.value)


def test_a_network_without_weights_in_its_library_says_so(hub: Path) -> None:
    name = next(name for name in timm.list_models() if not timm.models.get_pretrained_cfg(name).has_weights)
    with pytest.raises(UsageError, match="has no pretrained weights in timm"):
        networks.pretrained(f"timm:{name}", **SHAPE)


def test_the_function_stays_one_after_it_was_called() -> None:
    script = (
        "import sys, ddbench.networks as n\n"
        "assert 'torch' not in sys.modules\n"
        "for _ in range(2):\n"
        "    try: n.pretrained('mlp', channels=3, side=64, classes=1000)\n"
        "    except n.registry.UsageError: pass\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
