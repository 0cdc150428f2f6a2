"""Pages of tables that are made of records."""

from pathlib import Path


def tell(script: str, title: str, table: str, records: str, *, write: bool) -> None:
    """Print a table; where asked, write it as the page beside the script, which says that it is of these `records`."""
    print(table)
    if write:
        path = Path(script)
        note = f"Made by `python benchmarks/{path.name} --write` from the records{records}."
        path.with_suffix(".md").write_text(f"# {title}\n\n{table}\n\n{note}\n", encoding="utf-8")
