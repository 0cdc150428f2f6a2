"""What there is: methods, data sets, protocols, networks."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ddbench import networks as known
from ddbench.cli import options as o
from ddbench.cli.output import print_facts, print_json, print_prose, print_table, say
from ddbench.data.dataset import DatasetCard
from ddbench.data.registry import dataset_names
from ddbench.data.registry import describe as describe_dataset
from ddbench.distillation.method import find_method, method_names
from ddbench.errors import UsageError
from ddbench.evaluation.protocol import Protocol, Tier, find_protocol, protocol_names
from ddbench.report.facts import allowed, method_facts, protocol_facts, recipe_budgets
from ddbench.report.format import component, plain, settings


@o.command("ddbench methods", "ddbench methods dm")
def methods(
    name: Annotated[str | None, typer.Argument(metavar="[METHOD]", help="Show this one in full.")] = None,
    as_json: o.Json = False,
) -> None:
    """List the methods; or one with its steps, hyper-parameters, recipes."""
    if name is not None:
        facts = method_facts(find_method(name))
        print_json(facts) if as_json else _show_method(facts)
        return
    listed, broken = [], []
    for each in method_names():
        try:
            listed.append(method_facts(find_method(each)))
        except UsageError as error:
            broken.append(str(error))
    if as_json:
        print_json(listed)
    else:
        rows = [
            (m["name"], m["title"], m["paper"], m["arxiv"], ", ".join(m["budgets"]), len(m["recipes"])) for m in listed
        ]
        print_table(("method", "title", "paper", "arXiv", "budget", "recipes"), rows, right=("recipes",))
    for line in broken:
        say(f"ddbench: left out: {line}")


def _show_method(facts: dict[str, Any]) -> None:
    print_prose(facts["description"])
    if facts["differences"]:
        print("\nDifferences from the paper")
        print_facts(("-", line) for line in facts["differences"])
    print("\nHyper-parameters (--set KEY=VALUE)")
    rows = [
        (h["name"], "needed" if h["required"] else plain(h["default"]), allowed(h), h["description"])
        for h in facts["hyper"]
    ]
    print_table(("name", "default", "allowed", "meaning"), rows)
    if facts["generic"]:
        print(f"With --recipe generic: {settings(facts['generic']) or 'the defaults'}\n")
    if not facts["recipes"]:
        print("No published recipes: every cell takes the defaults.")
        return
    print("Recipes (--recipe NAME; * is the default of its cell)")
    for entry in facts["recipes"]:
        _show_recipe(entry)


def _show_recipe(entry: dict[str, Any]) -> None:
    star = " *" if entry["default"] else ""
    print(f"\n{entry['name']}{star}: {entry['dataset']}, {recipe_budgets(entry)}, {entry['network']}")
    print_facts((("  hyper", settings(entry["hyper"]) or "the defaults"), ("  source", entry["source"])))


@o.command("ddbench datasets", "ddbench datasets cifar10", "ddbench datasets folder:my-images")
def datasets(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one, or folder:PATH.")] = None,
    as_json: o.Json = False,
) -> None:
    """List the data sets; or one, and how to get it."""
    cards = [describe_dataset(each) for each in (dataset_names() if name is None else (name,))]
    if as_json:
        print_json([asdict(card) for card in cards] if name is None else asdict(cards[0]))
    elif name is not None:
        _show_card(cards[0])
    else:
        columns = ("data set", "title", "classes", "px", "train", "test", "here")
        rows = [(c.name, c.title, c.classes, c.side, _count(c.train), _count(c.test), _here(c)) for c in cards]
        print_table(columns, rows, right=("classes", "px", "train", "test"))
        print("  folder:PATH is any folder of images: train/<class>/ and test/<class>/ or val/<class>/.")
        print("  on use: downloaded when first used. by hand: ddbench datasets NAME says what to get.")


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _here(card: DatasetCard) -> str:
    if card.available:
        return "yes"
    return "on use" if card.how_to_get.startswith("torchvision downloads") else "by hand"


def _show_card(card: DatasetCard) -> None:
    color = {1: "grey", 3: "RGB"}.get(card.channels, "")
    print_facts(
        (
            ("data set", card.name),
            ("title", card.title),
            ("classes", card.classes),
            ("images", f"{card.side} x {card.side} px, {color}; {_count(card.train)} train, {_count(card.test)} test"),
            ("here", "yes" if card.available else "no"),
            ("how to get", card.how_to_get),
        )
    )


@o.command("ddbench protocols", "ddbench protocols hard-v1")
def protocols(
    name: Annotated[str | None, typer.Argument(metavar="[PROTOCOL]", help="Show every constant of this one.")] = None,
    as_json: o.Json = False,
) -> None:
    """List the protocols; or one with every constant."""
    if name is not None:
        protocol = find_protocol(name)
        print_json(protocol_facts(protocol)) if as_json else _show_protocol(protocol)
        return
    known = [find_protocol(each) for each in protocol_names()]
    if as_json:
        print_json([protocol_facts(each) for each in known])
    else:
        print_table(("protocol", "digest", "what it is"), [(p.name, p.digest()[:12], p.summary) for p in known])


def _show_protocol(protocol: Protocol) -> None:
    where = {"own": "the set's own", "teacher": "the reference teacher's"}[protocol.space]
    upper = protocol.tiers[-1].up_to if protocol.tiers else None
    covered = f"{protocol.smallest} to {upper} px" if upper else f"from {protocol.smallest} px"
    facts = [("protocol", protocol.name), ("version", protocol.version), ("digest", protocol.digest())]
    print_facts([*facts, ("what it is", protocol.summary), ("space", where), ("covers", f"images {covered}")])
    if protocol.shipped:
        print("\nStudents follow the recipe that travels in the set (ddbench show FILE).")
    _show_tiers("Students", protocol.tiers)
    _show_tiers("Reference teacher (network: the student's default)", protocol.teacher)


def _show_tiers(title: str, tiers: Sequence[Tier]) -> None:
    """The first size in full, every further one by what differs from the one before."""
    before: dict[str, Any] = {}
    for tier in tiers:
        changed = {key: value for key, value in tier.student.items() if before.get(key, ...) != value}
        print(f"\n{title}, {_sizes(tier)}" + (", otherwise as before" if before and len(changed) < len(before) else ""))
        print_facts((f"  {key}", component(value)) for key, value in changed.items())
        before = dict(tier.student)


def _sizes(tier: Tier) -> str:
    return f"up to {tier.up_to} px" if tier.up_to else "any larger size"


@o.command("ddbench networks", "ddbench networks resnet18 --dataset cifar10")
def networks(
    name: Annotated[str | None, typer.Argument(metavar="[NETWORK]", help="Show this one only.")] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME", help="Count the parameters for this data set's images.")
    ] = None,
    as_json: o.Json = False,
) -> None:
    """List the networks, with --dataset their parameters."""
    names = known.network_names() if name is None else (name,)
    cards = [known.describe(each) for each in names]
    card = describe_dataset(dataset) if dataset is not None else None
    rows: list[dict[str, Any]] = []
    for each in cards:
        row: dict[str, Any] = {
            "name": each.name,
            "norm": each.norm,
            "description": each.description,
            "source": each.source,
        }
        if card is not None:
            row["parameters"] = _parameters(each.name, card, strict=name is not None)
        rows.append(row)
    if as_json:
        print_json(rows if name is None else rows[0])
        return
    columns = ["network", "norm", *(["parameters"] if card else []), "what it is"]
    shown = [[r["name"], r["norm"], *([_count(r["parameters"])] if card else []), r["description"]] for r in rows]
    print_table(columns, shown, right=("parameters",))
    print("  Names: BASE[-wWIDTH][-in|-bn|-none], such as convnet-d3-w64-bn; timm:NAME; torchvision:NAME.")


def _parameters(network: str, card: DatasetCard, *, strict: bool) -> int | None:
    """Trainable values; None in a list for a network that is not for images of this size."""
    try:
        return known.parameter_count(network, card.channels, card.side, card.classes)
    except UsageError:
        if strict:
            raise
        return None
