"""Seconds from 2,000 generated records to every table and every plot in three formats: `python benchmarks/plotting.py`.

The records are those of `benchmarks/tables.py`, with accuracies on the way of the distillation under one protocol.
"""

import argparse
import tempfile
from itertools import product
from pathlib import Path

from tables import generated, stored, timed

from ddbench.report import tables
from ddbench.report.frame import results_frame
from ddbench.report.plots.registry import plot_all
from ddbench.report.renderers import FORMATS
from ddbench.system.environment import cores
from ddbench.system.files import write_atomic


def main() -> None:
    """Print what each part takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="folder to keep the files in")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder) / "out"
        store = stored(generated(given.records, watched=True), Path(folder) / "records")
        with timed("together"):
            with timed("reading and pooling"):
                frame = results_frame(store)
            with timed("tables"):
                for form, view in product(FORMATS, tables.VIEWS):
                    write_atomic(out / "tables" / f"{view}.{form}", tables.render(frame, form, view))
            with timed("plots"):
                written = plot_all(frame, out / "plots", workers=cores())
        print(f"{given.records} records, {len(frame)} cells, {len(written)} files")


if __name__ == "__main__":
    main()
