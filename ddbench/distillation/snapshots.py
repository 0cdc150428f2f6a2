"""Snapshots: the set as it was on the way of a distillation, kept in the cache beside the finished one.

A method offers them by `Task.snapshot`; they are asked for by shares of the distillation's steps. The set, its hash, its
draws and its key do not depend on them.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import perf_counter

from ddbench.errors import UsageError
from ddbench.synset.synset import SynSet, save

_NAME = re.compile(r"(\d+)-of-(\d+)")
MOST = 1000


def even_shares(count: int) -> tuple[float, ...]:
    """`count` shares with equal distances, the start among them: 0, 1 / count, ..., (count - 1) / count."""
    if not 1 <= count <= MOST:
        raise UsageError(f"1 to {MOST} snapshots can be kept, not {count}")
    return tuple(i / count for i in range(count))


def checked_shares(shares: Iterable[float]) -> tuple[float, ...]:
    """Shares of a distillation in [0, 1), sorted, each once; 1 would be the finished set, which is always scored."""
    checked = tuple(sorted(set(shares)))
    wrong = [share for share in checked if not 0 <= share < 1]
    if wrong:
        raise UsageError(f"a snapshot is at a share from 0 to below 1 of the distillation, not at {wrong[0]:g}")
    if len(checked) > MOST:
        raise UsageError(f"1 to {MOST} snapshots can be kept, not {len(checked)}")
    return checked


def steps_at(shares: Iterable[float], total: int) -> tuple[int, ...]:
    """Steps done at these shares of `total` steps, to the nearest, each once, sorted; below `total`."""
    return tuple(sorted({min(int(share * total + 0.5), total - 1) for share in shares}))


class Snapshots:
    """Writer of the snapshots of one distillation that are wanted."""

    def __init__(self, folder: Path, shares: Sequence[float], finish: Callable[[SynSet, int, int], SynSet]) -> None:
        """Keep snapshots at `shares` in `folder`; `finish(set, step, total)` adds where a set comes from."""
        self.folder, self.shares, self.finish = folder, tuple(shares), finish
        self._total, self._wanted = 0, frozenset[int]()
        self.seconds = 0.0
        """Seconds that making and writing them took: no part of what the set cost."""

    def steps(self, total: int) -> tuple[int, ...]:
        """Steps that are wanted."""
        return steps_at(self.shares, total)

    def offer(self, step: int, total: int, make: Callable[[], SynSet]) -> None:
        """Make and write the set after `step` of `total` steps, if it is wanted and not there from before a stop."""
        if total != self._total:  # asked at every step: what is wanted is looked up, not made anew
            self._total, self._wanted = total, frozenset(self.steps(total))
        if step not in self._wanted or (path := self.folder / f"{step:08}-of-{total:08}.safetensors").exists():
            return
        began = perf_counter()
        save(self.finish(make(), step, total), path)
        self.seconds += perf_counter() - began


def kept(folder: Path) -> tuple[dict[int, Path], int | None]:
    """Files that are there by step, sorted, and of how many steps; None where there is none."""
    files, totals = {}, set()
    for path in sorted(folder.glob("*.safetensors")):
        if named := _NAME.fullmatch(path.stem):
            files[int(named[1])] = path
            totals.add(int(named[2]))
    return files, max(totals, default=None)


def kept_at(folder: Path, shares: Sequence[float]) -> dict[int, Path] | None:
    """Files at these shares by step, or None unless all are there."""
    files, total = kept(folder)
    wanted = steps_at(shares, total) if total else ()
    return {step: files[step] for step in wanted} if wanted and set(wanted) <= files.keys() else None
