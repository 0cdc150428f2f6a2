"""Plots and pictures: what is on the axes, that text can be read, and that files are whole and repeatable."""

import json
from collections import Counter
from itertools import pairwise

import pandas as pd
import pytest
import torch
from made_records import a_record, without_set
from PIL import Image
from typer.testing import CliRunner

from ddbench.cli.app import app
from ddbench.errors import UsageError
from ddbench.hashing import digest
from ddbench.records.record import Record
from ddbench.records.store import RecordStore
from ddbench.report.frame import results_frame
from ddbench.report.pictures import picture_grid
from ddbench.report.plots.budgets import accuracy_against_ipc, bars
from ddbench.report.plots.costs import accuracy_against_bytes
from ddbench.report.plots.label_bytes import accuracy_against_label_bytes
from ddbench.report.plots.registry import plot, plot_all
from ddbench.report.plots.style import LEGEND_LINE, save

PLACE = ("digits", "hard-v1", "convnet-d2")


def record(method, ipc, values):
    name, size = "quick-reduced" if method == "dm" else "paper", ipc or 140
    if not values:
        return without_set(method, "failed", "loss is not finite", ipc=ipc, name=name)
    facts = {"images": 10 * size, "bytes": {"images": 640 * size}, "cost": {}}
    return a_record(method, values, ipc=ipc, name=name, facts=facts)


@pytest.fixture(scope="module")
def frame():
    rows = [record(m, i, [0.5 + 0.04 * i, 0.52 + 0.04 * i]) for m in ("dm", "random", "kcenter") for i in (1, 3, 10)]
    rows += [record("herding", 1, [0.6]), record("herding", 3, []), record("herding", 10, [0.95])]
    return results_frame([*rows, record("infer", 3, []), record("whole", None, [0.99])])


def opened(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def test_only_measured_ipcs_are_ticks(frame):
    (axes,) = accuracy_against_ipc(frame, *PLACE).axes
    assert axes.get_xscale() == "log" and axes.figure.get_figwidth() == pytest.approx(3.4)
    assert list(axes.get_xticks()) == [1, 3, 10] and not len(axes.get_xticks(minor=True))


def test_lines_hold_the_means_in_percent_and_break_at_gaps(frame):
    (axes,) = accuracy_against_ipc(frame, *PLACE).axes
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert set(lines) == {"dm†", "random", "kcenter", "herding", "whole: 99.0"}
    assert lines["random"] == pytest.approx([55, 63, 91])
    assert lines["herding"] == pytest.approx([60, float("nan"), 95], nan_ok=True)
    assert list(lines["whole: 99.0"]) == pytest.approx([99, 99])
    assert len(axes.collections) >= 3  # bands and error bars


def test_methods_are_told_apart_without_color(frame):
    (axes,) = accuracy_against_ipc(frame, *PLACE).axes
    drawn = [line for line in axes.get_lines() if not line.get_label().startswith("whole")]
    assert len({line.get_marker() for line in drawn}) == len({line.get_color() for line in drawn}) == len(drawn)


def test_a_method_looks_the_same_in_every_plot(frame):
    figures = [accuracy_against_ipc(frame, *PLACE), accuracy_against_bytes(frame, *PLACE)]
    looks = [
        {line.get_label(): (line.get_color(), line.get_marker()) for line in f.axes[0].get_lines()} for f in figures
    ]
    assert all(looks[0][name] == looks[1][name] for name in ("dm†", "random", "kcenter"))


def test_axes_have_names_with_units(frame):
    by_ipc, by_bytes = accuracy_against_ipc(frame, *PLACE).axes[0], accuracy_against_bytes(frame, *PLACE).axes[0]
    assert by_ipc.get_ylabel() == by_bytes.get_ylabel() == "Top-1 accuracy (%)"
    assert "IPC" in by_ipc.get_xlabel() and "Bytes" in by_bytes.get_xlabel()
    assert all(label.get_text().endswith("iB") for label in by_bytes.get_xticklabels())


def test_a_legend_of_long_names_has_fewer_columns_and_is_not_cut():
    names = [f"{name} (build 2.14.1+cu130)" for name in ("datadam", "dm", "mtt")]
    one = results_frame([record("dm", ipc, [0.6, 0.62]) for ipc in (1, 3)])
    figures = [
        accuracy_against_ipc(pd.concat([one.assign(label=name) for name in each]), *PLACE)
        for each in (["datadam", "dm", "mtt"], names, [f"{name} {'x' * 40}" for name in names])
    ]
    (short,), (long,), (longest,) = (figure.legends for figure in figures)
    assert [legend._ncols for legend in (short, long, longest)] == [2, 1, 1]
    assert long.get_window_extent().x0 >= 0 and long.get_window_extent().x1 <= figures[1].bbox.width
    assert figures[1].get_figheight() == pytest.approx(figures[0].get_figheight() + LEGEND_LINE)
    assert figures[1].axes[0].get_window_extent().height == pytest.approx(
        figures[0].axes[0].get_window_extent().height, rel=0.05
    )


def test_bars_show_every_method_also_what_failed(frame):
    figure = bars(frame, "digits", "ipc 3")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["random", "kcenter", "infer", "herding", "dm†"]
    assert [text.get_text() for text in axes.texts].count("failed") == 2
    assert axes.get_xlim() == (0, 100)
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([63, 63, 63])


def test_a_single_panel_of_bars_keeps_clear_of_the_figures_own_texts():
    figure = bars(results_frame([record(method, 10, [0.6, 0.61]) for method in ("dm", "random")]), "digits", "ipc 10")
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in (figure._suptitle, axes.title, *axes.get_xticklabels())]
    below = figure._supxlabel.get_window_extent()
    assert not boxes[0].overlaps(boxes[1])
    assert not any(below.overlaps(box) for box in boxes[2:])


def labeled(method, form, lines, top1, recipe="paper"):
    """A record of a set with labels, packed or as the method gives them."""
    plain = record(method, 10, [top1, top1 + 0.02]).model_dump(mode="json", by_alias=True)
    encoding, topk = ("topk", int(form[4:])) if form.startswith("topk") else (form, None)
    packed = {"recipe": recipe, "encoding": encoding, "topk": topk}
    name = f"{recipe}+{form}-{lines.get('targets')}B" if form != "online" else recipe
    plain["recipe"] = {"method": method, "name": name, **({"labels": packed} if form != "online" else {})}
    plain["recipe_hash"] = digest(plain["recipe"])
    plain["synsets"] = {key: facts | {"bytes": {"images": 6400, **lines}} for key, facts in plain["synsets"].items()}
    return Record.model_validate_json(json.dumps(plain))


@pytest.fixture(scope="module")
def packed_frame():
    rows = [labeled(m, "fp16", {"targets": size}, top1) for m in ("cda", "sre2l") for size, top1 in SIZES.items()]
    rows += [labeled(m, "online", {"external": 30_000}, 0.9) for m in ("cda", "sre2l")]
    rows += [labeled("sre2l", form, {"targets": 50_000}, 0.8) for form in ("int8", "topk2", "topk3")]
    return results_frame([*rows, record("random", 10, [0.5])])


SIZES = {100_000: 0.9, 2_500: 0.7, 10_000: 0.8}


def test_accuracy_against_label_bytes_has_a_line_per_method_and_form(packed_frame):
    (axes,) = accuracy_against_label_bytes(packed_frame, *PLACE).axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    forms = {"online", "fp16", "int8", "topk2", "topk3"}
    assert set(lines) == {"cda, online", "cda, fp16", *(f"sre2l, {form}" for form in forms)}
    assert list(lines["cda, fp16"].get_xdata()) == [2_500, 10_000, 100_000]
    assert list(lines["cda, fp16"].get_ydata()) == pytest.approx([71, 81, 91])
    assert list(lines["sre2l, online"].get_xdata()) == [30_000]
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "Bytes of the labels"
    assert all(label.get_text().endswith("iB") for label in axes.get_xticklabels())
    gray = {(line.get_marker(), line.get_markerfacecolor() == "white") for line in lines.values()}
    assert len(gray) == len(lines)  # told apart without color
    assert {line.get_marker() for name, line in lines.items() if name.endswith("fp16")} == {"s"}


def test_label_bytes_name_the_recipe_where_a_method_has_several():
    rows = [labeled("sre2l", "fp16", {"targets": 100}, 0.5, recipe=name) for name in ("paper", "other-reduced")]
    (axes,) = accuracy_against_label_bytes(results_frame(rows), *PLACE).axes
    assert {line.get_label() for line in axes.get_lines()} == {
        "sre2l (paper), fp16",
        "sre2l (other-reduced)†, fp16",
    }


def test_label_bytes_are_drawn_where_labels_are_packed(packed_frame, frame, tmp_path):
    names = {path.name for path in plot_all(packed_frame, tmp_path / "packed", [".svg"])}
    assert "accuracy-label-bytes-digits-hard-v1-convnet-d2.svg" in names
    online = results_frame([labeled("sre2l", "online", {"external": 30_000}, 0.9)])
    assert not any("label-bytes" in path.name for path in plot_all(online, tmp_path / "online", [".svg"]))
    assert plot(packed_frame, "label-bytes").axes
    with pytest.raises(UsageError, match="no bytes of labels"):
        accuracy_against_label_bytes(frame, *PLACE)


def test_many_methods_get_a_page_and_no_bands():
    many = results_frame([record(f"m{i:02}", ipc, [0.5, 0.6]) for i in range(22) for ipc in (1, 10)])
    figure = accuracy_against_ipc(many, *PLACE)
    assert figure.get_figwidth() == pytest.approx(7)
    looks = {(line.get_marker(), line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines()}
    assert len(looks) == 22


def test_what_is_not_there_is_an_error(frame):
    for make in (accuracy_against_ipc, accuracy_against_bytes):
        with pytest.raises(UsageError, match="mnist"):
            make(frame, "mnist", "hard-v1", "convnet-d2")
    with pytest.raises(UsageError, match="ipc 7"):
        bars(frame, "digits", "ipc 7")


HEADS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


def test_all_plots_are_drawn(frame, tmp_path):
    paths = plot_all(frame, tmp_path / "plots", [".svg"])
    assert paths == sorted((tmp_path / "plots").iterdir())
    kinds = Counter(path.name.partition("-digits")[0] for path in paths)
    assert kinds == {"accuracy-ipc": 1, "accuracy-bytes": 1, "bars": 3, "weights": 3}


def test_a_single_plot_is_of_the_student_that_most_results_have(tmp_path):
    counts = {"convnet-d2": (1,), "mlp": (1, 3)}
    records = [a_record("dm", [0.6, 0.61], ipc=i, student_network=name) for name, each in counts.items() for i in each]
    store, out = RecordStore(tmp_path / "records"), tmp_path / "a.png"
    for each in records:
        store.add(each)
    words = ["plot", "--kind", "ipc", "--results", str(store.root), "--out", str(out)]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0 and out.exists()
    assert found.stderr.startswith("students of mlp") and "--network" in found.stderr
    assert CliRunner().invoke(app, [*words, "--network", "convnet-d2"]).stderr == ""
    records.append(a_record("dm", [0.6, 0.61], ipc=3, student_network="convnet-d2"))
    with pytest.raises(UsageError, match="one plot shows one student: choose with --network among"):
        plot(results_frame(records), "ipc")


def test_several_processes_draw_the_same_plots(frame, tmp_path):
    one, two = (plot_all(frame, tmp_path / str(workers), [".svg", ".png"], workers) for workers in (1, 2))
    assert [path.name for path in one] == [path.name for path in two]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_no_cells_no_plots(tmp_path):
    assert plot_all(results_frame([]), tmp_path) == []


def test_the_same_results_give_the_same_file(frame, tmp_path):
    for suffix, head in HEADS.items():
        files = [save(bars(frame, "digits", "ipc 1"), tmp_path / f"{name}{suffix}") for name in ("a", "b")]
        assert files[0].read_bytes() == files[1].read_bytes() and files[0].read_bytes().startswith(head)
    with pytest.raises(UsageError, match="png"):
        save(bars(frame, "digits", "ipc 1"), tmp_path / "a.gif")
    assert not (tmp_path / "a.gif").exists()


def test_picture_holds_the_pixels_enlarged(tmp_path):
    images = torch.zeros(4, 3, 8, 8)
    images[:, 0] = torch.tensor([0.0, 1 / 3, 2 / 3, 1.0]).view(4, 1, 1)  # red only, one level per image
    path = picture_grid(images, torch.tensor([0, 0, 1, 1]), ("cat", "dog"), tmp_path / "a.png")
    colors = {color: count for count, color in opened(path).getcolors(100_000)}
    assert [colors[(level, 0, 0)] for level in (85, 170, 255)] == [64 * 64] * 3


def test_rows_are_classes_in_order(tmp_path):
    images = torch.stack([torch.full((1, 8, 8), level) for level in (0.8, 0.4, 0.6)])
    path = picture_grid(images, torch.tensor([2, 0, 1]), ("a", "b", "c"), tmp_path / "a.png")
    column = [opened(path).getpixel((40, y))[0] for y in range(opened(path).height)]
    levels = [level for level, after in pairwise(column) if level != 255 and level == after]
    assert list(dict.fromkeys(levels)) == [102, 153, 204]


def test_large_sets_are_cut_with_a_note(tmp_path):
    classes = torch.arange(100).repeat_interleave(20)
    names = tuple(f"class {i}" for i in range(100))
    path = picture_grid(torch.rand(2000, 1, 8, 8), classes, names, tmp_path / "a.png", title="random, IPC 20")
    small = picture_grid(torch.rand(100, 1, 8, 8), torch.arange(10).repeat_interleave(10), names, tmp_path / "b.png")
    assert opened(path).size[0] < 1000 and opened(path).size[1] < 1000
    assert opened(path).size[1] > opened(small).size[1]  # the title and the note


def test_large_images_are_made_smaller(tmp_path):
    path = picture_grid(torch.rand(2, 3, 224, 224), torch.tensor([0, 1]), ("a", "b"), tmp_path / "a.png")
    assert max(opened(path).size) < 400


BAD = [
    (torch.rand(2, 2, 8, 8), torch.tensor([0, 1]), "C 1 or 3"),
    (torch.rand(0, 1, 8, 8), torch.tensor([], dtype=torch.int64), "n > 0"),
    (torch.rand(2, 1, 8, 8), torch.tensor([0]), "classes of shape"),
    (torch.rand(2, 1, 8, 8), torch.tensor([0, 2]), "class names"),
    (torch.full((2, 1, 8, 8), float("nan")), torch.tensor([0, 1]), "not finite"),
]


@pytest.mark.parametrize(("images", "classes", "words"), BAD)
def test_pictures_of_nonsense_are_refused(tmp_path, images, classes, words):
    with pytest.raises(UsageError, match=words):
        picture_grid(images, classes, ("a", "b"), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
