"""The recipe files that ship: strict, sourced, one default a cell, and numbers in them that fit together."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from ddbench.methods.engines.selection.dynamics import DynamicsFields
from ddbench.methods.engines.selection.pruning import SCORES

from ddbench import networks
from ddbench.budget import Budget
from ddbench.data.registry import describe, load_dataset
from ddbench.distillation.method import find_method, method_names
from ddbench.distillation.recipes import entries_for, published, resolve

PAPERS_EXPERTS = 50  # epochs that the papers train experts for; DATM's recipes name theirs
every_method = pytest.mark.parametrize("method", method_names())
decoupled = pytest.mark.parametrize("method", ["sre2l", "cda", "sre2l++", "cvdd", "infer", "rded"])
trajectory = pytest.mark.parametrize("method", ["mtt", "tesla", "ftd", "datm", "ast"])


def cells(method, *, ours=True):
    """Every entry with its hyper-parameters, once for each of its budgets; or the papers' alone."""
    kind = find_method(method).hyper
    for entry in published(find_method(method)).recipe:
        if not ours and not entry.source.startswith("arXiv "):
            continue
        hyper = kind.model_validate_json(json.dumps(entry.hyper))  # as JSON, where a list may stand for a tuple
        for budget in entry.budgets():
            yield entry, budget, hyper


@every_method
def test_every_field_is_valid_and_every_source_names_its_paper_or_says_that_it_is_ours(method):
    file = published(find_method(method))
    assert file.method == method
    find_method(method).hyper.model_validate_json(json.dumps(file.generic))
    for entry, _, _ in cells(method):
        networks.parse(entry.network)
        ours = entry.name.endswith(("demo", "-reduced"))
        assert entry.source.startswith("ours, not published" if ours else "arXiv "), entry.source
        assert entry.name != "assumed" or "not established" in entry.source or "does not state" in entry.source, entry


@every_method
def test_exactly_one_default_in_every_cell_and_no_name_twice(method):
    defaults, named = Counter(), Counter()
    for entry, budget, _ in cells(method):
        defaults[entry.dataset, str(budget)] += entry.default
        named[entry.dataset, str(budget), entry.name] += 1
    assert set(defaults.values()) <= {1} and set(named.values()) <= {1}


# squeeze, recover, relabel


@decoupled
def test_recipes_resolve_and_their_networks_read_the_images(method):
    for entry, budget, _ in cells(method, ours=False):
        card = describe(entry.dataset)
        data = replace(load_dataset("digits"), id=entry.dataset, side=card.side)
        found = resolve(find_method(method), data, budget, recipe=entry.name)
        assert found.name == entry.name and found.network == entry.network
        for member in getattr(found.hyper, "committee", ()):
            networks.parse(member, side=card.side)


@decoupled
def test_what_students_see_and_what_is_chosen_fits_the_images(method):
    for entry, budget, hyper in cells(method, ours=False):
        card, factor = describe(entry.dataset), getattr(hyper, "factor", 1)
        assert (hyper.student_pad * card.side).is_integer() or hyper.student_crop != "pad", entry
        assert card.side % factor == 0 and (method != "rded" or hyper.student_batch <= budget.ipc * card.classes), entry
        assert not hyper.bn_batch or hyper.student_batch % hyper.bn_batch == 0, entry
        assert method != "rded" or budget.ipc * factor**2 <= hyper.pool, entry
        assert hyper.weights == ("pretrained" if entry.dataset == "imagenet-1k" else "trained"), entry


# trajectories


@trajectory
def test_epochs_are_within_the_experts_and_windows_are_not_empty(method):
    for entry, _, hyper in cells(method):
        assert hyper.last_epoch() <= getattr(hyper, "final_epoch", PAPERS_EXPERTS), entry
        if method == "datm":
            first, end = hyper.current_max_start_epoch, hyper.expansion_end_epoch
            assert (first is None) == (end is None), entry
            assert hyper.min_start_epoch < (first or hyper.max_start_epoch) <= hyper.max_start_epoch, entry
            assert end is None or end <= hyper.iterations, entry


@trajectory
def test_a_batch_is_smaller_than_the_set_and_the_network_fits_the_images(method):
    for entry, budget, hyper in cells(method, ours=False):
        card = describe(entry.dataset.removesuffix("-64"))
        side = 64 if entry.dataset.endswith("-64") else card.side
        assert entry.network == {32: "convnet-d3", 64: "convnet-d4", 128: "convnet-d5"}[side], entry
        assert hyper.space == "normalised" or 3 * side**2 <= 12_288, entry  # the largest whitening
        assert (hyper.batch_syn or 0) < card.classes * budget.ipc, entry  # left out: all images


def test_ftd_whitens_where_mtt_does_or_its_command_says_so():
    spaces = {
        method: {(e.dataset, b.ipc): h.space for e, b, h in cells(method, ours=False) if e.default}
        for method in ("mtt", "ftd")
    }
    assert spaces["ftd"] == {cell: spaces["mtt"][cell] for cell in spaces["ftd"]} | {("cifar100", 10): "zca"}


# real images


@pytest.mark.parametrize("method", ["prune", "prune-kd"])
def test_windows_fit_the_epochs_that_every_recipe_reads(method):
    for _, _, hyper in cells(method):
        if hyper.score in SCORES:
            SCORES[hyper.score].require_epochs(hyper)


@pytest.mark.parametrize(
    ("dataset", "budget", "methods", "names"),
    [
        ("fashion-mnist", Budget(fraction=0.1), ("prune",), None),
        ("imagenet-1k", Budget(10), ("pca", "prune"), ("paper", "rethinking-el2n")),
        ("tiny-imagenet-20", Budget(10), ("pca", "prune"), None),
    ],
)
def test_recipes_that_compare_scores_share_one_training(dataset, budget, methods, names):
    """The reduced ones on fashion-mnist, and pca's with the pruning that it begins with."""
    trainings = set()
    how = [f for f in DynamicsFields.model_fields if f.startswith("score_") and f not in ("score_first", "score_last")]
    for method in methods:
        for entry in entries_for(published(find_method(method)), dataset, budget):
            hyper = find_method(method).hyper.model_validate(entry.hyper)
            if names is None or entry.name in names:
                trainings.add((entry.network, *(getattr(hyper, name) for name in how)))
    assert len(trainings) == 1


def test_dq_trains_small_sets_in_small_batches():
    for entry, budget, hyper in cells("dq"):
        if entry.dataset == "cifar10":
            assert hyper.student_batch == (16 if budget.fraction * hyper.patch_keep <= 0.1 else 128), entry
