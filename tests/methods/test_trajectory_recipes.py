"""The published recipes of the trajectory-matching methods: the papers' cells, and numbers that fit together."""

import pytest

from ddbench.data.registry import describe
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import RecipeEntry, published

SUBSETS = ("imagenette", "imagewoof", "imagemeow", "imagesquawk", "imagefruit", "imageyellow")
MTT = {"cifar10": (1, 10, 50), "cifar100": (1, 10, 50), "tiny-imagenet": (1, 10, 50), **dict.fromkeys(SUBSETS, (1, 10))}
CELLS = {
    "mtt": MTT,
    "tesla": {"cifar10": (1,), "cifar100": (50,), "imagenet-1k-64": (1,)},
    "ftd": MTT | {"tiny-imagenet": (1, 10)},
    "datm": {"cifar10": (1, 10, 50, 500, 1000), "cifar100": (1, 10, 50, 100), "tiny-imagenet": (1, 10, 50)},
    "ast": {"cifar10": (10,), "cifar100": (1, 10, 50), "tiny-imagenet": (1,)},
}
PAPERS_EXPERTS = 50  # epochs that the papers train experts for; DATM's recipes name theirs
by_method = pytest.mark.parametrize("method", CELLS)


def entries(method):
    return published(find_method(method)).recipe


def is_published(entry: RecipeEntry) -> bool:
    return entry.source.startswith("arXiv ")


@by_method
def test_the_cells_of_the_paper_are_the_published_defaults(method):
    chosen = [entry for entry in entries(method) if entry.default and is_published(entry)]
    found = sorted((entry.dataset, budget.ipc) for entry in chosen for budget in entry.budgets())
    assert found == sorted((name, ipc) for name, ipcs in CELLS[method].items() for ipc in ipcs)


@by_method
def test_epochs_are_within_the_experts_and_windows_are_not_empty(method):
    for entry in entries(method):
        hyper = find_method(method).hyper.model_validate(entry.hyper)
        assert hyper.last_epoch() <= getattr(hyper, "final_epoch", PAPERS_EXPERTS), entry
        if method == "datm":
            first, end = hyper.current_max_start_epoch, hyper.expansion_end_epoch
            assert (first is None) == (end is None), entry
            assert hyper.min_start_epoch < (first or hyper.max_start_epoch) <= hyper.max_start_epoch, entry
            assert end is None or end <= hyper.iterations, entry


@by_method
def test_a_batch_is_smaller_than_the_set_and_the_network_fits_the_images(method):
    for entry in filter(is_published, entries(method)):
        card = describe(entry.dataset.removesuffix("-64"))
        side = 64 if entry.dataset.endswith("-64") else card.side
        assert entry.network == {32: "convnet-d3", 64: "convnet-d4", 128: "convnet-d5"}[side], entry
        assert entry.hyper["space"] == "normalised" or 3 * side**2 <= 12_288, entry  # the largest whitening
        for budget in entry.budgets():
            assert entry.hyper.get("batch_syn", 0) < card.classes * budget.ipc, entry  # left out: all images


def test_teslas_step_sizes_are_half_of_the_released_commands():
    rates = {entry.dataset: entry.hyper["lr_img"] for entry in filter(is_published, entries("tesla"))}
    assert rates == {"cifar10": 1000 / 2, "cifar100": 1000 / 2, "imagenet-1k-64": 10_000 / 2}


def test_ftd_whitens_where_mtt_does_or_its_command_says_so():
    mtt = {(e.dataset, e.ipc): e.hyper["space"] for e in entries("mtt") if is_published(e) and e.default}
    ftd = {(e.dataset, e.ipc): e.hyper["space"] for e in entries("ftd") if is_published(e) and e.default}
    assert ftd == {cell: mtt[cell] for cell in ftd} | {("cifar100", 10): "zca"}
