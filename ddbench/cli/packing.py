"""Soft labels under a budget of bytes."""

from pathlib import Path
from typing import Annotated, Any

import typer

import ddbench
from ddbench.cli import options as o
from ddbench.cli.output import print_json, progress, say
from ddbench.report.format import size
from ddbench.synset.label_compression import full_size, parts
from ddbench.synset.synset import SynSet, load


@o.command(
    "ddbench pack-labels sre2l.safetensors --ratio 40 --out sre2l-40x.safetensors",
    "ddbench pack-labels sre2l.safetensors --encoding topk --topk 5 --bytes 2MB --out small.safetensors",
)
def pack_labels(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A set whose teachers label online, or whose labels are stored.")
    ],
    out: o.OutFile,
    encoding: Annotated[
        str, typer.Option("--encoding", metavar="NAME", help="How logits are written: fp16, int8 or topk.")
    ] = "fp16",
    topk: Annotated[
        int | None, typer.Option("--topk", metavar="K", help="Logits kept of a row, for --encoding topk.")
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option("--ratio", metavar="X", help="So many times fewer bytes than all label batches in fp16."),
    ] = None,
    limit: Annotated[
        str | None, typer.Option("--bytes", metavar="SIZE", help="Bytes that labels may take: 2000, 2MB, 1.5MiB.")
    ] = None,
    keep: Annotated[
        str, typer.Option("--keep", metavar="NAME", help="Label batches kept where some are dropped: first or random.")
    ] = "first",
    draw: Annotated[
        str,
        typer.Option(
            "--draw", metavar="NAME", help="How a training takes them: uniform (one a step) or cycle (in turn)."
        ),
    ] = "uniform",
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="S", min=0, help="Of the batches to label (default: the set's synthesis seed)."),
    ] = None,
    dataset: o.FolderOfSet = None,
    dataset_name: o.GivenName = None,
    *,
    where: o.DeviceFlags,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Pack a set's soft labels: in fewer bytes, or fewer of them.

    With --ratio or --bytes as many label batches are kept as fit, and a training draws one of them for every step, as
    LPLD does. Teachers are asked only where what is stored does not suffice.
    """
    limits = None if limit is None else o.byte_count(limit, "--bytes")
    before = load(file)
    with progress(quiet) as reporter:
        made = ddbench.pack_labels(
            before,
            encoding=encoding,
            topk=topk,
            ratio=ratio,
            bytes=limits,
            keep=keep,
            draw=draw,
            seed=seed,
            dataset=dataset,
            dataset_name=dataset_name,
            out=out,
            compute=where.compute(),
            reporter=reporter,
        )
    facts = packing_facts(before, made, out)
    if as_json:
        print_json(facts)
        return
    for line in _lines(facts):
        say(line, quiet=quiet)
    print(f"{out} {made.hash}")


def packing_facts(before: SynSet, made: SynSet, out: Path) -> dict[str, Any]:
    """What packing did, as plain data; sizes in bytes."""
    assert made.targets is not None
    now, steps = parts(made), made.targets.tensors.get("steps")
    return {
        "file": str(out),
        "hash": made.hash,
        "before": {"hash": before.hash, "bytes": parts(before)},
        "bytes": now,
        "full_fp16_bytes": full_size(made),
        "ratio": full_size(made) / now["targets"],
        "encoding": made.targets.params.get("encoding", "fp16"),
        "label_batches": None if steps is None else len(steps),
        "draw": None if steps is None else made.targets.params.get("draw", "cycle"),
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    """The facts for people: bytes by part, before and after."""
    old, new = facts["before"]["bytes"], facts["bytes"]
    lines = [f"{name}: {size(old.get(name, 0))} before, {size(new.get(name, 0))} now" for name in {**old, **new}]
    batches = "" if facts["label_batches"] is None else f", {facts['label_batches']:,} label batches"
    drawn = ", drawn uniformly" if facts["draw"] == "uniform" else ""
    ratio = facts["ratio"]
    times = f"{ratio:.1f} times fewer than" if ratio >= 1 else f"{1 / ratio:.2f} times as many as"
    full = f"{times} all in fp16 ({size(facts['full_fp16_bytes'])})"
    return [*lines, f"labels in {facts['encoding']}{batches}{drawn}: {new['targets']:,} bytes, {full}"]
