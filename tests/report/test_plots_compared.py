"""Plots that compare: fronts, students, hard and soft labels, LRS over its weight, learning curves, images."""

from contextlib import suppress

import numpy as np
import pytest
import torch
from made_records import a_record
from matplotlib.colors import to_rgb
from PIL import Image
from typer.testing import CliRunner

from ddbench.cli.app import app
from ddbench.errors import UsageError
from ddbench.hashing import digest
from ddbench.records.statistics import t_interval
from ddbench.records.store import RecordStore
from ddbench.report import scores
from ddbench.report.frame import curve_of, results_frame
from ddbench.report.plots.costs import accuracy_against_seconds, front_cells, on_front
from ddbench.report.plots.curves import learning_curves
from ddbench.report.plots.images import images_side_by_side
from ddbench.report.plots.labels import crossings, hard_and_soft, lrs_against_weight, lrs_parts
from ddbench.report.plots.registry import PLOTS, Plot, figures, plot, plot_all
from ddbench.report.plots.students import accuracy_by_student
from ddbench.report.plots.style import labeled

PLACE = ("cifar10", "hard-v1", "convnet-d3")
LEVELS = {"dm": 0.50, "mtt": 0.60, "sre2l": 0.30, "random": 0.40, "whole": 0.90}
SHIPPED = {"dm": (0.52, 0.45), "mtt": (0.58, 0.55), "sre2l": (0.55, 0.20)}  # the set, and random by its recipe


def recipe_of(method, ipc):
    return {"method": method, "name": "paper", "ipc": ipc}


def record(method, values, *, ipc=10, protocol="hard-v1", student="convnet-d3", seconds=None, lender=None, curve=None):
    facts = {"images": 10 * ipc, "bytes": {"images": 3072 * ipc}, "cost": {"seconds": seconds} if seconds else {}}
    changes = {"protocol": protocol, "protocol_digest": digest(protocol), "dataset": "cifar10"}
    changes |= {"student_network": student, "distill_network": None}
    changes |= {"borrowed": lender, "lender": digest(recipe_of(lender, ipc))} if lender else {}
    budget = None if method == "whole" else ipc
    return a_record(method, values, ipc=budget, recipe=recipe_of(method, ipc), facts=facts, curve=curve, **changes)


def near(level):
    return [level - 0.01, level, level + 0.01]


@pytest.fixture(scope="module")
def records():
    curves = {"dm": {0: 0.5, 50: 0.9, 100: 1.0}, "mtt": {0: 0.4, 10: 0.8, 20: 1.0}}
    found = [
        record(method, near(level), seconds=100 * i + 0.5, curve=curves.get(method))
        for i, (method, level) in enumerate(LEVELS.items())
    ]
    found += [record(method, near(level - 0.1), student="vgg11") for method, level in LEVELS.items() if method != "mtt"]
    soft = {"dm": 0.45, "mtt": 0.40, "sre2l": 0.70, "whole": 0.95}
    found += [record(method, near(level), protocol="soft-v1", student="resnet18") for method, level in soft.items()]
    for method, (own, borrowed) in SHIPPED.items():
        found.append(record(method, near(own), protocol="shipped-v1"))
        found.append(record("random", near(borrowed), protocol="shipped-v1", lender=method))
    return found


@pytest.fixture(scope="module")
def frame(records):
    return results_frame(records)


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].get_lines()}


def shown(figure):
    return [text.get_text() for text in figure.axes[0].texts]


# fronts


def test_the_front_is_what_nothing_beats_on_both_sides():
    generator = torch.Generator().manual_seed(0)
    costs, gains = torch.randint(0, 8, (2, 60), generator=generator).tolist()
    wanted = []
    for i in range(60):
        better = [
            j
            for j in range(60)
            if costs[j] <= costs[i] and gains[j] >= gains[i] and (costs[j], gains[j]) != (costs[i], gains[i])
        ]
        wanted.append(not better)
    assert on_front(costs, gains) == wanted and 0 < sum(wanted) < 60
    assert on_front([1, 1], [2, 2]) == [True, True]  # equals do not push each other off


def test_cells_on_the_front_are_ringed_and_named(frame):
    front = front_cells(frame, "distill_seconds", *PLACE)
    assert front["label"].tolist() == ["dm", "mtt", "whole"]  # sre2l and random cost more than mtt and give less
    ring = lines(accuracy_against_seconds(frame, *PLACE))["Pareto front"]
    assert list(ring.get_xdata()) == [0.5, 100.5, 400.5]
    assert list(ring.get_ydata()) == pytest.approx([50, 60, 90]) and ring.get_linestyle() == "None"


def test_seconds_are_on_a_logarithmic_axis_with_words(frame):
    (axes,) = accuracy_against_seconds(frame, *PLACE).axes
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "Distillation time"
    low, high = axes.get_xlim()
    assert low < 0.5 and high > 400.5
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1 s", "10 s", "1 min"]
    with pytest.raises(UsageError, match="distill seconds"):
        accuracy_against_seconds(frame, "cifar10", "soft-v1", "resnet18")


# students


def test_the_map_has_a_number_for_every_method_and_student(frame):
    figure = accuracy_by_student(frame, "cifar10", "hard-v1", "ipc 10")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["convnet-d3", "vgg11"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mtt", "dm", "random", "sre2l", "whole"]
    assert shown(figure) == ["60.0", "—", "50.0", "40.0", "40.0", "30.0", "30.0", "20.0", "90.0", "80.0"]
    assert figure.get_figwidth() == pytest.approx(3.4)


def test_numbers_can_be_read_on_their_cells_also_in_gray(frame):
    """Contrast of text and cell by luminance, as of WCAG: at least 4 to 1."""
    (axes,) = accuracy_by_student(frame, "cifar10", "hard-v1", "ipc 10").axes
    faces = [tuple(patch.get_facecolor()[0][:3]) for patch in axes.collections]
    words = [to_rgb(text.get_color()) for text in axes.texts if text.get_text() != "—"]

    def luminance(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for face, word in zip(faces, words, strict=True):
        high, low = sorted((luminance(face), luminance(word)), reverse=True)
        assert (high + 0.05) / (low + 0.05) > 4
    order = sorted(range(len(faces)), key=lambda i: luminance(faces[i]))
    tops = [float(text.get_text()) for text in axes.texts if text.get_text() != "—"]
    assert [tops[i] for i in order] == sorted(tops, reverse=True)  # darker is better


# hard and soft labels


def test_dumbbells_hold_both_sides_and_the_gap(frame):
    figure = hard_and_soft(frame, "cifar10", "ipc 10")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sre2l", "dm", "mtt", "whole"]
    found = {name: list(line.get_xdata()) for name, line in lines(figure).items()}
    assert found["hard-v1, convnet-d3"] == pytest.approx([30, 50, 60, 90])
    assert found["soft-v1, resnet18"] == pytest.approx([70, 45, 40, 95])
    assert shown(figure) == ["+40.0", "\N{MINUS SIGN}5.0", "\N{MINUS SIGN}20.0", "+5.0"]
    looks = {(line.get_marker(), line.get_markerfacecolor()) for line in axes.get_lines()}
    assert looks == {("o", "white"), ("s", "#0072B2")}
    with pytest.raises(UsageError, match="ipc 3"):
        hard_and_soft(frame, "cifar10", "ipc 3")


# LRS


def test_parts_are_the_differences_that_the_scores_name(frame):
    parts = lrs_parts(frame, "cifar10", "ipc 10")
    assert parts.keys() == {"dm", "mtt", "sre2l"}
    for method, (own, borrowed) in SHIPPED.items():
        assert parts[method].hlr == pytest.approx(LEVELS["whole"] - LEVELS[method])
        assert parts[method].ior == pytest.approx(own - borrowed) and parts[method].shipped
    hard = lrs_parts(frame[frame["protocol"] == "hard-v1"], "cifar10", "ipc 10")
    assert hard["dm"].ior == pytest.approx(LEVELS["dm"] - LEVELS["random"]) and not hard["dm"].shipped
    assert lrs_parts(frame[frame["method"] != "whole"], "cifar10", "ipc 10") == {}


def test_random_that_borrows_from_another_is_not_taken(records):
    """dm's recipe lent to random is not mtt's."""
    without = [r for r in records if r.borrowed != "mtt"]
    parts = lrs_parts(results_frame(without), "cifar10", "ipc 10")
    assert parts["dm"].shipped and not parts["mtt"].shipped
    assert parts["mtt"].ior == pytest.approx(LEVELS["mtt"] - LEVELS["random"])


def test_crossings_are_where_the_scores_are_equal_and_the_order_changes(frame):
    parts = lrs_parts(frame, "cifar10", "ipc 10")
    found = crossings(parts)
    assert len(found) == 3
    for weight, first, second in found:
        assert parts[first].lrs(weight) == pytest.approx(parts[second].lrs(weight), abs=1e-12)
        before, after = (parts[first].lrs(w) - parts[second].lrs(w) for w in (weight - 1e-3, weight + 1e-3))
        assert before * after < 0
    changes = {frozenset((a, b)) for _, a, b in found}
    for a, b in (("dm", "mtt"), ("dm", "sre2l"), ("mtt", "sre2l")):
        ends = [parts[a].lrs(w) > parts[b].lrs(w) for w in (0, 1)]
        assert (ends[0] != ends[1]) == (frozenset((a, b)) in changes)


def test_lines_are_the_published_score_over_its_weight(frame):
    figure = lrs_against_weight(frame, "cifar10", "ipc 10")
    drawn = lines(figure)
    for method, (own, borrowed) in SHIPPED.items():
        x, y = drawn[method].get_xdata(), drawn[method].get_ydata()
        wanted = [scores.lrs(LEVELS["whole"] - LEVELS[method], own - borrowed, weight) for weight in x]
        assert list(y) == pytest.approx(wanted) and (x[0], x[-1]) == (0, 1)
    weights = [weight for weight, *_ in crossings(lrs_parts(frame, "cifar10", "ipc 10"))]
    assert list(drawn["ranking changes"].get_xdata()) == pytest.approx(weights)
    with pytest.raises(UsageError, match="whole and random"):
        lrs_against_weight(frame[frame["method"] != "whole"], "cifar10", "ipc 10")


# learning curves


def test_a_curve_has_the_mean_and_the_interval_at_every_step():
    values = {(0, 0): {0: 0.2, 9: 0.5}, (0, 1): {0: 0.4, 9: 0.6}, (0, 2): {9: 0.7}}
    curve = curve_of(values)
    assert curve["step"].tolist() == [0, 9] and curve["top1"].tolist() == pytest.approx([0.3, 0.6])
    low, high = t_interval([0.5, 0.6, 0.7])
    assert (curve["ci_low"][1], curve["ci_high"][1]) == pytest.approx((low, high))


def test_curves_are_against_steps_or_shares_of_them(records):
    figure = learning_curves(results_frame(records), *PLACE, "ipc 10")
    drawn = lines(figure)
    assert list(drawn["mtt, 20 steps"].get_xdata()) == [0, 50, 100]
    assert list(drawn["mtt, 20 steps"].get_ydata()) == pytest.approx([24, 48, 60])
    assert "%" in figure.axes[0].get_xlabel() and {"random: 40.0", "whole: 90.0"} <= drawn.keys()
    alone = learning_curves(results_frame([r for r in records if r.method != "mtt"]), *PLACE, "ipc 10")
    assert list(lines(alone)["dm"].get_xdata()) == [0, 50, 100] and "%" not in alone.axes[0].get_xlabel()
    with pytest.raises(UsageError, match="--snapshots"):
        learning_curves(results_frame(records), "cifar10", "soft-v1", "resnet18", "ipc 10")


# images


def test_images_stand_in_rows_by_set_and_columns_by_class():
    levels = torch.tensor([0.2, 0.4, 0.6])
    one = levels[:, None, None, None].expand(3, 1, 8, 8)
    sets = {"dm": (one, torch.tensor([2, 0, 1])), "mtt": (one[:1], torch.tensor([1]))}
    (axes,) = images_side_by_side(sets, ("a", "b", "c"), "digits").axes
    page = np.asarray(axes.get_images()[0].get_array())
    height, width = page.shape[0] // 2, page.shape[1] // 3
    centres = [[page[int((r + 0.5) * height), int((c + 0.5) * width), 0] for c in range(3)] for r in range(2)]
    assert centres[0] == pytest.approx([0.4, 0.6, 0.2]) and centres[1] == pytest.approx([1, 0.2, 1])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dm", "mtt"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]


def test_images_that_do_not_go_together_are_refused():
    one, classes = torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(UsageError, match="1 x 8 x 8 and 3 x 8 x 8"):
        images_side_by_side({"a": (one, classes), "b": (one.expand(1, 3, 8, 8), classes)}, ("a",))
    with pytest.raises(UsageError, match="not 0"):
        images_side_by_side({}, ("a",))


# all together


def every_figure(frame):
    images = {"dm": (torch.rand(10, 3, 32, 32), torch.arange(10))}
    for name, draw in figures(frame):
        with suppress(UsageError):  # nothing to show
            yield name, draw()
    yield "images", images_side_by_side(images, tuple("abcdefghij"))


def test_everything_that_the_cells_allow_is_drawn_once(frame):
    names = [name for name, _ in every_figure(frame)]
    assert len(set(names)) == len(names)
    assert {name.partition("_")[0] for name in names} == {
        *("accuracy-ipc", "accuracy-bytes", "accuracy-seconds", "bars", "curves", "images", "labels", "students"),
        "weights",
    }


@pytest.mark.parametrize("more", ["", " (generic, build 2.14.1+cu130)"])
def test_no_text_is_cut_off_or_too_small(frame, more):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    shown = labeled(frame)
    for name, figure in every_figure(shown.assign(label=shown["label"] + more)):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        page = figure.bbox
        for text in figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible()):
            if text.get_text().strip() and text.figure is not None:
                box = text.get_window_extent(renderer)
                inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.width + 1 and box.y1 <= page.height + 1
                assert inside or not _drawn(text), (name, text.get_text())
                assert text.get_fontsize() >= 8
        for legend in figure.legends:
            lowest = figure.axes[0].get_tightbbox(renderer).y0
            assert legend.get_window_extent(renderer).y1 <= lowest + 1, name


def _drawn(text):
    """Tick labels beyond the limits of an axis exist but are not drawn."""
    for axes in text.figure.axes:
        for axis, place, limits in ((axes.xaxis, 0, axes.get_xlim()), (axes.yaxis, 1, axes.get_ylim())):
            if any(text in (tick.label1, tick.label2) for tick in axis.majorTicks):
                return min(limits) <= text.get_position()[place] <= max(limits)
    return True


@pytest.fixture
def store(records, tmp_path):
    found = RecordStore(tmp_path / "records")
    for each in records:
        found.add(each)
    return found


def invoke(*words):
    return CliRunner().invoke(app, ["plot", *map(str, words)])


CHOICES = {
    **{key: {"network": "convnet-d3", "protocol": "hard-v1"} for key in ("ipc", "bytes", "seconds", "curves")},
    **{"bars": {}, "students": {"protocol": "hard-v1"}, "labels": {"ipc": 10}, "weights": {}},
}


@pytest.mark.parametrize("kind", CHOICES)
def test_each_kind_is_drawn_by_one_call_and_by_the_command(store, frame, tmp_path, kind):
    assert plot(frame, kind, **CHOICES[kind]).axes
    out = tmp_path / f"{kind}.png"
    words = [word for name, value in CHOICES[kind].items() for word in (f"--{name}", value)]
    result = invoke("--results", store.root, "--kind", kind, *words, "--out", out)
    assert result.exit_code == 0, result.stderr
    with Image.open(out) as image:
        assert min(image.size) > 200


def test_the_help_says_which_question_each_answers():
    words = " ".join(invoke("--help").stdout.replace("│", " ").split())
    assert all(f"{kind}: {each.question}" in words for kind, each in PLOTS.items())
    assert CHOICES.keys() | {"images", "label-bytes"} == PLOTS.keys()


def test_a_plot_is_added_by_one_entry(store, frame, tmp_path, monkeypatch):
    monkeypatch.setitem(PLOTS, "mine", Plot("who is it?", "budgets:bars", ("dataset", "budget")))
    assert plot(frame, "mine").axes
    assert "mine-cifar10-ipc-10.svg" in {path.name for path in plot_all(frame, tmp_path / "all", [".svg"])}
    assert invoke("--results", store.root, "--kind", "mine", "--out", tmp_path / "mine.png").exit_code == 0


@pytest.mark.parametrize(
    ("kind", "choice", "words"),
    [
        ("pie", {}, "plot kind"),
        ("images", {}, "--sets"),
        ("ipc", {"network": "convnet-d3"}, "--protocol among hard-v1, "),
        ("bars", {"ipc": 7}, "ipc 7"),
    ],
)
def test_a_plot_that_cannot_be_chosen_is_refused(frame, kind, choice, words):
    with pytest.raises(UsageError, match=words):
        plot(frame, kind, **choice)


def test_the_command_draws_sets_side_by_side(toys, tmp_path):
    for method in ("random", "toy"):
        words = f"distill {method} --ipc 1 --recipe generic --out {tmp_path}/{method}.safetensors"
        assert CliRunner().invoke(app, words.split()).exit_code == 0
    result = invoke("--kind", "images", "--sets", tmp_path, "--out", tmp_path / "images.png")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "images.png").exists()
    for words in (["--kind", "images"], ["--kind", "bars", "--sets", tmp_path]):
        bad = invoke(*words, "--out", tmp_path / "bad.png")
        assert bad.exit_code == 2 and "--sets" in bad.stderr
    assert not (tmp_path / "bad.png").exists()
