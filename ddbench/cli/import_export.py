"""Sets from and to elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from ddbench.api.running import loaded_set
from ddbench.cli import options as o
from ddbench.cli.output import say
from ddbench.data.registry import load_dataset
from ddbench.extras.import_export import export_set, import_set


@o.command(
    "ddbench import images.pt --labels labels.pt --dataset cifar10 --space normalised --out set.safetensors",
    "ddbench import my-images --dataset digits --space pixel --name mine --out set.safetensors",
)
def import_(
    images: Annotated[
        Path, typer.Argument(metavar="FILE|DIR", help="Images: .pt, .npz or .npy, or a folder with one per class.")
    ],
    out: o.OutFile,
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset", metavar="NAME", help="Data set that it stands for, or folder:PATH.", show_default=False
        ),
    ],
    space: Annotated[
        str,
        typer.Option(
            "--space", metavar="NAME", help="What the images' values are: pixel, normalised or zca.", show_default=False
        ),
    ],
    dataset_name: o.GivenName = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="FILE", help="Labels, if they are not beside the images.")
    ] = None,
    syn_lr: Annotated[
        str | None, typer.Option("--syn-lr", metavar="X|FILE", help="Learned step size: a number, or its file.")
    ] = None,
    soft: Annotated[
        str | None,
        typer.Option(
            "--soft", metavar="FORM", help="What labels [n, K] are: logits, probabilities or classes (default: seen)."
        ),
    ] = None,
    class_names: Annotated[
        str | None,
        typer.Option(
            "--class-names",
            metavar="NAMES",
            help="Names behind the class indices, comma-separated, if in another order.",
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Method name in tables.")] = "imported",
    quiet: o.Quiet = False,
) -> None:
    """Make a set of images and labels from elsewhere.

    Class indices mean the data set's own order of classes, unless the file or --class-names says otherwise.
    """
    made = import_set(
        images,
        labels,
        _number(syn_lr),
        dataset=load_dataset(dataset, dataset_name=dataset_name),
        space=space,
        soft=soft,
        class_names=None if class_names is None else [part.strip() for part in class_names.split(",")],
        name=name,
        out=out,
    )
    brings = [
        part for part, there in (("soft labels", made.targets), ("a student recipe", made.student_recipe)) if there
    ]
    say(
        f"{name} on {made.dataset}: {len(made):,} images in {made.space.kind} space"
        + (f", with {' and '.join(brings)}" if brings else ""),
        quiet=quiet,
    )
    print(f"{out} {made.hash}")


def _number(text: str | None) -> float | str | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text


@o.command("ddbench export set.safetensors --out set.pt", "ddbench export set.safetensors --out images")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A set.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FILE|DIR", help="FILE.pt, FILE.npz, or a new folder of PNGs.", show_default=False
        ),
    ],
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="pt, npz or folder (default: by the ending of --out)."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME", help="folder:PATH, for a set made on a folder.")
    ] = None,
    dataset_name: o.GivenName = None,
) -> None:
    """Write a set for other code: .pt, .npz, or PNGs.

    Images and labels, with soft labels and step size where the set has them, as .pt or .npz; or a folder of PNGs.

    PNGs hold 8 bits a pixel: what lies between or outside is lost.
    """
    synset, data = loaded_set(file, dataset, dataset_name)
    print(export_set(synset, data.load(), out, form))
