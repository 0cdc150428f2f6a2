"""Spaces: maps and their inverses, ZCA against its definition."""

import json
from dataclasses import replace

import pytest
import torch

from ddbench.data import spaces
from ddbench.data.dataset import Dataset, memory_split
from ddbench.data.spaces import SPACE_KINDS, Space, fit_zca, make_space, pixel_covariance, transform_for
from ddbench.errors import UsageError


@pytest.fixture(autouse=True)
def own_cache():
    spaces._whitening.cache_clear()


def toy(count: int = 200, channels: int = 3, side: int = 4, seed: int = 0) -> Dataset:
    """Correlated random pixels, some of them constant."""
    generator = torch.Generator().manual_seed(seed)
    size = channels * side**2
    values = torch.randn(count, size, generator=generator) @ torch.randn(size, size, generator=generator)
    pixels = (values * 12 + 128).clamp(0, 255).to(torch.uint8)
    pixels[:, 0] = 7
    split = memory_split(pixels.view(count, channels, side, side), torch.arange(count) % 2)
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]
    return Dataset("toy", ("a", "b"), channels, side, True, mean, std, split, split)


def images01(dataset: Dataset) -> torch.Tensor:
    return dataset.train.read().float() / 255


@pytest.mark.parametrize("count", [5, 200, 2500])  # fewer images than values, one chunk, several
def test_covariance_equals_torch_cov(count):
    dataset = toy(count)
    mean, covariance = pixel_covariance(dataset.train, 48)
    pixels = dataset.train.read().flatten(1).double() / 255
    assert torch.allclose(mean, pixels.mean(0), atol=1e-14)
    assert torch.allclose(covariance, torch.cov(pixels.T), atol=1e-14)


def test_exact_sums_at_the_extremes():
    zeros = memory_split(torch.zeros(2100, 1, 2, 2, dtype=torch.uint8), torch.zeros(2100, dtype=torch.int64))
    mean, covariance = pixel_covariance(zeros, 4)
    assert mean.tolist() == [0.0] * 4 and covariance.abs().max() < 1e-12


def test_zca_is_kornias_definition():
    dataset = toy()
    tensors = fit_zca(dataset.train, 48)
    pixels = dataset.train.read().flatten(1).double() / 255
    u, s, _ = torch.linalg.svd(torch.cov(pixels.T))
    whiten, unwhiten = u @ torch.diag((s + 0.1) ** -0.5) @ u.T, u @ torch.diag((s + 0.1) ** 0.5) @ u.T
    assert torch.allclose(tensors["whiten"].double(), whiten, atol=1e-6)
    assert torch.allclose(tensors["unwhiten"].double(), unwhiten, atol=1e-6)
    assert {t.dtype for t in tensors.values()} == {torch.float32}


def test_whitened_covariance_is_s_over_s_plus_eps():
    dataset = toy()
    white = transform_for(make_space("zca", dataset), dataset).encode(images01(dataset)).flatten(1).double()
    u, s, _ = torch.linalg.svd(torch.cov(images01(dataset).flatten(1).double().T))
    assert torch.allclose(torch.cov(white.T), u @ torch.diag(s / (s + 0.1)) @ u.T, atol=1e-5)
    assert white.mean(0).abs().max() < 1e-5


@pytest.mark.parametrize("kind", SPACE_KINDS)
def test_decode_inverts_encode_and_gradients_pass(kind):
    dataset = toy()
    maps = transform_for(make_space(kind, dataset), dataset).to("cpu")
    images = images01(dataset)[:7].clone().requires_grad_()
    encoded = maps.encode(images)
    assert encoded.shape == images.shape and encoded.dtype == torch.float32
    assert torch.allclose(maps.decode(encoded), images, atol=1e-5)
    maps.encode(images).square().sum().backward()
    assert images.grad is not None and images.grad.isfinite().all()


def test_normalised_uses_the_spaces_own_constants():
    dataset = toy()
    images = images01(dataset)
    own = transform_for(Space("normalised", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 0.5)), dataset).encode(images)
    for channel, (mean, std) in enumerate([(0.1, 1.0), (0.2, 2.0), (0.3, 0.5)]):
        assert torch.allclose(own[:, channel], (images[:, channel] - mean) / std)
    assert make_space("normalised", dataset) == Space("normalised", mean=dataset.mean, std=dataset.std)
    assert transform_for(Space("pixel"), dataset).encode(images) is images
    with pytest.raises(UsageError, match="1 channels"):
        transform_for(Space("normalised", mean=(0.1,), std=(1.0,)), dataset)


@pytest.mark.parametrize("kind", SPACE_KINDS)
def test_json_round_trip(kind):
    space = make_space(kind, toy())
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"kind": "lab"},
        {"kind": "pixel", "mean": [0.5]},
        {"kind": "pixel", "gamma": 2},
        {"kind": "normalised"},
        {"kind": "normalised", "mean": [0.5], "std": [0]},
        {"kind": "normalised", "mean": [0.5], "std": [1, 1]},
        {"kind": "normalised", "mean": "0.5", "std": [1]},
        {"kind": "normalised", "mean": [float("nan")], "std": [1]},
        {"kind": "normalised", "mean": [True], "std": [1]},
        {"kind": "zca", "eps": 0.1, "split_hash": "ab", "probe": [0.0] * 63},
        {"kind": "zca", "eps": -0.1, "split_hash": "ab", "probe": [0.0] * 64},
        {"kind": "zca", "eps": 0.1, "split_hash": 5, "probe": [0.0] * 64},
        {"kind": "zca", "eps": 0.1, "probe": [0.0] * 64},
    ],
)
def test_bad_json_is_refused(value):
    with pytest.raises(UsageError) as caught:
        Space.from_json(value)
    assert "\n" not in str(caught.value)


def test_probe_is_64_evenly_spaced_whitened_values():
    dataset = toy(side=8)
    space = make_space("zca", dataset)
    white = transform_for(space, dataset).encode(images01(dataset)[:1]).flatten()
    assert space.probe == tuple(white[[i * 192 // 64 for i in range(64)]].tolist())
    assert (space.eps, space.split_hash) == (0.1, dataset.train.hash)
    assert len(make_space("zca", toy(side=2)).probe) == 64  # also where an image has fewer values


def test_zca_space_must_agree_with_the_split():
    dataset = toy()
    space = make_space("zca", dataset)
    near = replace(space, probe=(space.probe[0] + 9e-4, *space.probe[1:]))
    transform_for(near, dataset)
    far = replace(space, probe=(*space.probe[:-1], space.probe[-1] + 2e-3))
    with pytest.raises(UsageError, match=r"probe is off by 0\.002"):
        transform_for(far, dataset)
    with pytest.raises(UsageError, match="fitted on the split"):
        transform_for(space, toy(seed=1))
    with pytest.raises(UsageError, match=r"eps 0\.2"):
        transform_for(replace(space, eps=0.2), dataset)


def test_zca_is_cached_and_a_damaged_entry_rebuilt(tmp_path, monkeypatch, caplog):
    dataset = toy()
    space = make_space("zca", dataset)
    (entry,) = (tmp_path / "home" / "cache" / "zca").glob("*.safetensors")
    assert entry.name == f"{dataset.train.hash}.safetensors"
    spaces._whitening.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(spaces, "fit_zca", lambda *a: pytest.fail("fitted again"))
        assert make_space("zca", dataset) == space
    whole = entry.read_bytes()
    for content in (b"", whole[:-5], whole[:-1] + bytes([whole[-1] ^ 1])):
        entry.unlink()
        entry.write_bytes(content)
        spaces._whitening.cache_clear()
        caplog.clear()
        assert make_space("zca", dataset) == space
        assert caplog.text.count("damaged") == 1 and entry.read_bytes() == whole


def test_unknown_kinds_and_too_large_images():
    with pytest.raises(UsageError, match="did you mean normalised"):
        make_space("normalized", toy())
    pixels = memory_split(torch.zeros(2, 3, 65, 65, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(UsageError, match="at most 12288 values"):
        make_space("zca", replace(toy(), side=65, train=pixels))
