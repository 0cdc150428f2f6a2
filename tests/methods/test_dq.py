"""`dq` from end to end: bins, what is drawn of them, encoders, patch dropping against its definition."""

import sys
from itertools import permutations
from pathlib import Path

import pytest
import small_tasks
import torch
import torchvision
from ddbench.methods.engines.selection import bins as bins_engine
from ddbench.methods.engines.selection.bins import BinFields, bin_shares, bins_of
from ddbench.methods.engines.selection.graph_cut import LastLayer, loss_gradient
from ddbench.methods.engines.selection.patch_drop import (
    PatchDropFields,
    PatchDropper,
    cam_plus_plus,
    importance_order,
    kept_patches,
    patch_dropper,
)
from pydantic import ValidationError
from small_tasks import colored_folder, refused

from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.errors import UsageError
from ddbench.randomness import forked, rng
from ddbench.settings import cache_dir

NETWORK = "convnet-d1-w4-bn"
QUICK = {"weights": "random", "student_epochs": 2, "student_batch": 10}
NEVER = {"weights": "trained", "teacher_epochs": 1_000_000}  # a training that no test would live to see the end of


def a_task(budget=3, *, seed=1, data=None, **more):
    return small_tasks.a_task(budget, network=NETWORK, seed=seed, data=data or load_dataset("digits"), **more)


def distilled(budget=3, *, seed=1, **changes):
    return small_tasks.distilled("dq", a_task(budget, seed=seed), **{**QUICK, **changes})


@pytest.mark.parametrize(("budget", "total"), [(Budget(1), 10), (Budget(13), 130), (Budget(fraction=0.125), 180)])
def test_the_set_has_exactly_what_the_budget_asks_for(budget, total):
    synset, train = distilled(budget), load_dataset("digits").train
    assert len(synset) == total == synset.indices.unique().numel()
    counts = synset.per_class()
    assert max(counts) - min(counts) <= (budget.ipc is None)
    assert torch.equal(train.labels[synset.indices], synset.classes)


def test_the_whole_split_can_be_kept():
    synset = distilled(Budget(fraction=1.0))
    assert synset.indices.sort().values.tolist() == list(range(len(load_dataset("digits").train)))


def test_every_bin_gives_its_share():
    task, fields = a_task(Budget(25)), BinFields.model_validate({"weights": "random"})
    found, kept = bins_of(task, fields, [25] * 10), set(distilled(Budget(25)).indices.tolist())
    for bins in found:
        drawn = [len(kept & set(part.tolist())) for part in bins]
        assert sum(drawn) == 25 and set(drawn) <= {2, 3}


def test_bins_part_each_class_and_go_from_its_centre_outwards():
    """Central by the definition's own sum, of the similarities that the encoder's gradients have."""
    task, fields = a_task(), BinFields.model_validate({"weights": "random", "bins": 4})
    encoder, found = bins_engine._encoder(task, fields), bins_of(task, fields, [3] * 10)
    first, last = 0.0, 0.0
    for pool, bins in zip(task.class_indices(), found, strict=True):
        assert torch.cat(bins).sort().values.tolist() == pool.tolist()
        assert max(map(len, bins)) - min(map(len, bins)) <= 1
        features, logits = encoder(task, pool)
        similarity = LastLayer.of(loss_gradient(logits, task.dataset.labels[pool], "double"), features)
        spread = similarity.total() / len(pool)
        at = {place: float(value) for place, value in zip(pool.tolist(), spread, strict=True)}
        first += sum(at[p] for p in bins[0].tolist()) / len(bins[0])
        last += sum(at[p] for p in bins[-1].tolist()) / len(bins[-1])
    assert first > last


def test_shares_sum_exactly_and_are_quotas_rounded_up_or_down():
    sizes = [15, 15, 15, 14, 14]
    for count in (0, 1, 3, 31, 72, 73):
        for ties in ([0, 1, 2, 3, 4], [4, 2, 0, 1, 3]):
            shares = bin_shares(sizes, count, ties)
            assert sum(shares) == count
            assert all(abs(n - count * size / 73) < 1 and n <= size for n, size in zip(shares, sizes, strict=True))
    assert sum(bin_shares([500] * 10, 625, range(10))) == 625  # where rounding each bin gives 620


def test_the_largest_remainders_are_rounded_up_and_equal_ones_by_the_tie_break():
    assert bin_shares([50, 30, 20], 4, [0, 1, 2]) == [2, 1, 1]  # quotas 2.0, 1.2, 0.8
    assert bin_shares([5, 5, 5], 7, [2, 0, 1]) == [2, 3, 2]
    drawn = [bin_shares([5, 5, 5], 1, ties) for ties in permutations(range(3))]
    assert [sum(column) for column in zip(*drawn, strict=True)] == [2, 2, 2]


def test_within_a_bin_every_sample_is_drawn_by_some_seed():
    bins = [torch.arange(5), torch.arange(5, 10)]
    drawn = [bins_engine.drawn(a_task(seed=seed), 0, bins, 4).tolist() for seed in range(40)]
    assert all(len(set(places)) == 4 and sum(place < 5 for place in places) == 2 for places in drawn)
    assert {place for places in drawn for place in places} == set(range(10))


def test_bins_are_shared_by_synthesis_seeds_and_draws_are_not():
    task, other, staged = a_task(seed=1), a_task(seed=2), a_task(stage_seed=5)
    fields = BinFields.model_validate({"weights": "random"})
    one, two, three = ([torch.cat(b).tolist() for b in bins_of(t, fields, [3] * 10)] for t in (task, other, staged))
    assert one == two != three
    assert not torch.equal(distilled(seed=1).indices, distilled(seed=2).indices)


def test_a_pass_that_was_stopped_goes_on_at_its_class():
    fields = BinFields.model_validate({"weights": "random"})
    whole = bins_of(a_task(), fields, [1] * 10)
    made = {path: path.stat().st_ino for path in cache_dir().glob("stages/dq-bins/*/class-*.safetensors")}
    (lost,) = (path for path in made if path.stem == "class-00007")
    lost.unlink()
    again = bins_of(a_task(), fields, [1] * 10)
    assert all(torch.equal(torch.cat(a), torch.cat(b)) for a, b in zip(whole, again, strict=True))
    assert len(made) == 10 and lost.exists()
    assert all(path.stat().st_ino == number for path, number in made.items() if path != lost), "made again"


def test_the_softmax_of_the_loss_and_lambda_change_bins():
    base = distilled(Budget(10)).indices
    assert not torch.equal(base, distilled(Budget(10), softmax="single").indices)
    assert not torch.equal(base, distilled(Budget(10), cut_weight=0.1).indices)


def test_the_student_is_the_papers():
    recipe = distilled(student_epochs=200, student_batch=16).student_recipe
    assert recipe.optimizer == {"name": "sgd", "momentum": 0.9, "lr": 0.1, "weight_decay": 5e-4}
    assert (recipe.epochs, recipe.batch, recipe.mix, recipe.network) == (200, 16, None, NETWORK)
    assert [a["name"] for a in recipe.augmentations] == ["pad-crop"]  # and a flip, where a flipped digit is none


def test_the_encoder_may_be_another_network_than_the_students():
    synset = distilled(encoder="lenet", weights="trained", teacher_epochs=1)
    assert synset.student_recipe.network == NETWORK and len(synset) == 30


@pytest.mark.parametrize(
    ("budget", "changes", "line"),
    [
        (Budget(150), {}, r"150 samples of class '\d' were asked for, but there are 1\d\d"),
        (Budget(1), {"bins": 400}, r"samples of class '0' do not fill 400 bins: lower bins"),
        (Budget(1), {"encoder": "torchvision:squeezenet1_1", "student_epochs": 1}, "has no embedding|does not work"),
        (Budget(1), {"weights": "pretrained"}, "has no pretrained weights"),
        (Budget(1), {"patch_keep": 0.8, "mae": "no/such/folder"}, "cannot be loaded .*config.json"),
    ],
)
def test_a_wish_that_cannot_be_met_is_one_line_before_anything_is_trained(budget, changes, line, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with refused(line):
        distilled(budget, **{**NEVER, **changes})


def test_fields_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match="set mae"):
        PatchDropFields(patch_keep=0.5)
    with pytest.raises(ValidationError, match="input_side is for weights = pretrained"):
        BinFields(input_side=224)


# pretrained encoders


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Drawn weights of torchvision's smallest ShuffleNet, where torchvision looks for its own; the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    with forked(0, "weights"):
        network = torchvision.models.shufflenet_v2_x0_5(weights=None)
    url = torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.url
    torch.save(network.state_dict(), folder / url.rpartition("/")[2])
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # nothing is fetched
    return network


@pytest.fixture
def colors(tmp_path):
    """A folder data set of 40 noisy images of 16 px in two classes."""
    return colored_folder(tmp_path / "colors", 16, 20)


def test_a_pretrained_encoder_reads_resized_images_and_has_a_head_drawn_by_the_stage_seed(weights, colors):
    fields = BinFields(weights="pretrained", encoder="torchvision:shufflenet_v2_x0_5", input_side=32, bins=4)
    task = a_task(2, data=colors)
    encoder = bins_engine._encoder(task, fields)
    places = torch.arange(6)
    h, logits = encoder(task, places)
    pixels = task.read(task.space("pixel"), places)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    large = torch.nn.functional.interpolate((pixels - mean) / std, (32, 32), mode="bilinear", align_corners=False)
    weights.fc = torch.nn.Identity()
    with torch.no_grad():
        assert torch.allclose(h.float(), weights.eval()(large), atol=1e-4)
    assert logits.shape == (6, 2) and logits.dtype == torch.float64
    assert encoder.hash == bins_engine._encoder(a_task(2, data=colors), fields).hash
    assert encoder.hash != bins_engine._encoder(a_task(2, data=colors, stage_seed=1), fields).hash
    found = bins_of(task, fields, [2, 2])
    assert sorted(torch.cat([torch.cat(b) for b in found]).tolist()) == list(range(40))


# patch dropping


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 5, 3, padding=1)
        self.second = torch.nn.Conv2d(5, 6, 3, stride=2, padding=1)
        self.head = torch.nn.Linear(6, 4)

    def maps(self, images):
        return self.second(self.first(images).relu())

    def forward(self, images):
        return self.head(self.maps(images).mean((2, 3)))


def small():
    with forked(0, "small"):
        return Small().double().eval()


def test_grad_cam_plus_plus_is_the_papers_definition():
    """With Y = exp(z) as in the paper: its derivatives by autograd, the weights' sums written out, image by image."""
    network = small()
    images = torch.randn(3, 3, 8, 8, generator=rng(0, "images"), dtype=torch.float64)
    found = cam_plus_plus(network, images)
    for image, mine in zip(images, found, strict=True):
        maps = network.maps(image[None]).detach().requires_grad_()
        z = network.head(maps.mean((2, 3)))[0]
        best = z[int(z.argmax())]
        (g,) = torch.autograd.grad(best, maps)
        y = best.detach().exp()
        wanted = torch.zeros(4, 4, dtype=torch.float64)
        for k in range(6):
            a, first = maps[0, k].detach(), y * g[0, k]
            second, third = y * g[0, k] ** 2, y * g[0, k] ** 3  # of exp(z), z linear in the maps
            alpha = second / (2 * second + a.sum() * third)
            wanted += (alpha * first.relu()).sum() * a
        assert torch.allclose(mine * y, wanted.relu(), rtol=1e-9, atol=1e-12)


def test_grad_cam_leaves_no_hooks_and_needs_maps():
    network = small()
    cam_plus_plus(network, torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    assert not any(part._forward_hooks for part in network.modules())
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    with pytest.raises(UsageError, match="no feature maps"):
        cam_plus_plus(flat, torch.zeros(1, 3, 2, 2))


def test_kept_patches_are_the_papers():
    assert kept_patches(196, 0.8) == 156 and kept_patches(196, 0.75) == 147 and kept_patches(16, 0.01) == 1


def test_patches_are_ordered_by_the_resized_map_the_first_of_equals_first():
    order = importance_order(torch.tensor([[[0.0, 2.0], [1.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]]), 2)
    assert order.tolist() == [[1, 3, 2, 0], [0, 1, 2, 3]]


@pytest.fixture
def mae(tmp_path):
    """A masked autoencoder of 32 px with 16 patches, drawn, in a folder."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTMAEConfig(
        **tiny, **{f"decoder_{key}": value for key, value in tiny.items()}, image_size=32, patch_size=8
    )
    with forked(0, "mae"):
        ViTMAEForPreTraining(config).save_pretrained(tmp_path / "mae")
    return str(tmp_path / "mae")


CAM = "torchvision:shufflenet_v2_x0_5"


def dropper_of(mae, keep, cam=None) -> PatchDropper:
    made = patch_dropper(a_task(), PatchDropFields(patch_keep=keep, mae=mae, cam_network=CAM))
    return made if cam is None else PatchDropper(made.model, cam, keep)


def test_exactly_the_least_important_patches_are_predicted_from_the_others(mae, weights):
    importance = torch.rand(2, 4, 4, generator=rng(0, "importance"))
    dropper = dropper_of(mae, 0.8, lambda images: importance)
    pixels = torch.rand(2, 3, 32, 32, generator=rng(0, "pixels"))
    large = dropper.fill(pixels, importance_order(importance, 4))
    changed = (large != pixels).any(1).view(2, 4, 8, 4, 8).any(4).any(2).flatten(1)
    least = importance.flatten(1).argsort(1)[:, : 16 - int(16 * 0.8)]
    assert [set(row.nonzero()[:, 0].tolist()) for row in changed] == [set(row.tolist()) for row in least]
    hidden = pixels.clone()  # what is dropped is not seen: other pixels there change nothing
    for image, places in zip(hidden, least.tolist(), strict=True):
        for place in places:
            y, x = 8 * (place // 4), 8 * (place % 4)
            image[:, y : y + 8, x : x + 8] = 0.5
    again = dropper.fill(hidden, importance_order(importance, 4))
    assert torch.allclose(again, large, atol=1e-6)
    stored = dropper(pixels)
    assert stored.dtype == torch.uint8
    assert torch.equal(stored, (large.clamp(0, 1) * 255).round().to(torch.uint8))


def test_what_is_predicted_is_the_autoencoders_output_as_pixels(mae, weights):
    importance = torch.rand(1, 4, 4, generator=rng(0, "importance"))
    dropper = dropper_of(mae, 0.5, lambda images: importance)
    pixels = torch.rand(1, 3, 32, 32, generator=rng(0, "pixels"))
    found = dropper.fill(pixels, importance_order(importance, 4))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    rows = dropper.model((pixels - mean[:, None, None]) / std[:, None, None], noise=-importance.flatten(1)).logits[0]
    for place in importance.flatten().argsort()[:8].tolist():
        y, x = 8 * (place // 4), 8 * (place % 4)
        wanted = rows[place].view(8, 8, 3) * std + mean  # a patch is a row of pixels, its channels last
        assert torch.allclose(found[0, :, y : y + 8, x : x + 8], wanted.permute(2, 0, 1), atol=1e-6)


def test_digits_with_dropped_patches_are_images_of_the_chosen_places(mae, weights):
    plain, dropped = distilled(), distilled(patch_keep=0.95, mae=mae, cam_network=CAM)
    assert dropped.indices is None and dropped.codec == "uint8" and dropped.images.shape == (30, 1, 8, 8)
    assert torch.equal(plain.classes, dropped.classes) and dropped.student_recipe == plain.student_recipe
    originals = load_dataset("digits").train.read(plain.indices).float()
    apart = torch.cdist(dropped.images.float().flatten(1), originals.flatten(1))
    assert apart.argmin(1).tolist() == list(range(30)), "an image does not stand at its own original's place"
    assert not torch.equal(dropped.images, load_dataset("digits").train.read(plain.indices))
    assert dropped.hash == distilled(patch_keep=0.95, mae=mae, cam_network=CAM).hash


def test_what_the_autoencoder_lacks_is_one_line(mae, weights, tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    fields = PatchDropFields(patch_keep=0.8, mae=mae, cam_network=CAM)
    file = Path(mae) / "model.safetensors"
    state = load_file(file)
    save_file({key: value for key, value in state.items() if not key.startswith("decoder")}, file, {"format": "pt"})
    with pytest.raises(UsageError, match="no whole masked autoencoder: it has no decoder"):
        patch_dropper(a_task(), fields)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'ddbench\[mae\]'"):
        patch_dropper(a_task(), fields)


def test_a_cam_network_without_feature_maps_is_refused_before_work(mae, monkeypatch):
    with pytest.raises(UsageError, match="has no pretrained weights"):
        patch_dropper(a_task(), PatchDropFields(patch_keep=0.8, mae=mae, cam_network="lenet"))
