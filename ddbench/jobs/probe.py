"""Probe of a dry run: a task whose long loops end early, and whose stages and teachers are kept in memory only.

A loop that ends early leaves the method with what it has by then, a half-trained teacher say, and the method goes on to
its next phase. The probe's clock runs ahead by what was left of the loop: what it shows at the end is what the method
would have taken. So loops may be nested: what an inner one leaves counts in every iteration of the outer one.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddbench.budget import Budget
from ddbench.data.dataset import Dataset
from ddbench.distillation.task import Task
from ddbench.hashing import tensors_digest
from ddbench.synset.teachers import Teacher
from ddbench.training.cache import Cache
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.sealed import Artifact

PROBE_STEPS = 50  # timed iterations of a phase at most
SHORTER, OVER = 15, 60
"""In times of a phase: when new phases are timed by one iteration and known ones by none; when the probe is over."""


class Enough(BaseException):  # a method that catches Exception must not swallow it
    """Ends a probe that would learn no more, or that takes too long."""


@dataclass
class Phase:
    """Loops of one label.

    Attributes:
        label: as people read it.
        each: seconds of an iteration, of which `timed` were timed.
        timed: 0 where only the iteration that warms up was.
        total: iterations of all its loops.
        loops: how many loops.
        left: iterations that the last loop that was run left undone.
        cut: whether a loop was cut short, so that time was added for it.
    """

    label: str
    each: float = 0.0
    timed: int = 0
    total: int = 0
    loops: int = 0
    left: int = 0
    cut: bool = False

    def words(self) -> str:
        """For people: "recovering: 2,000 iterations of 5 ms (50 timed)"."""
        several = f" in {self.loops:,} loops" if self.loops > 1 else ""
        return f"{self.label}: {self.total:,} iterations{several} of {brief(self.each)} ({self.timed} timed)"


class Probe(Task):
    """See the module docstring.

    Attributes:
        stages: entries by name of the stages that were opened, in order, as they were then.
    """

    def __init__(
        self,
        dataset: Dataset,
        budget: Budget,
        network: str,
        seed: int,
        device: torch.device,
        *,
        seconds: float,
        compiles: bool = False,
    ) -> None:
        """Like a task.

        Args:
            dataset: see `Task`.
            budget: see `Task`.
            network: see `Task`.
            seed: see `Task`.
            device: see `Task`.
            seconds: that a phase is timed for, about; 0: the probe is over where the first loop begins.
            compiles: a first iteration may be slow for that.
        """
        super().__init__(dataset, budget, network, seed, device)
        self.seconds, self.compiles = seconds, compiles
        self.stages: dict[str, list[int]] = {}
        self._ahead = 0.0
        self._first: float | None = None
        self._phases: dict[str, Phase] = {}
        self._opened: dict[Path, Cache] = {}
        self._entered: list[str] = []
        self._in_memory: dict[str, Teacher] = {}

    def clock(self) -> float:
        """Seconds, as they would have passed without any loop being cut short."""
        return self._now() + self._ahead

    def cut(self) -> list[Phase]:
        """List the phases that were cut short, in the order in which they began."""
        return [phase for phase in self._phases.values() if phase.cut]

    def loop(self, start: int, total: int, label: str) -> Iterator[int]:
        """Time iterations after the first; end the loop when that is enough, or when it is over.

        Of the loops of one label the first that is cut short tells the time of an iteration. Of each further one a
        single iteration is made, so that what the method reads after the loop is there.

        Raises:
            Enough: the loop begins where one of its label was cut short (the method wants the rest of that work, and
                would go on to want it), or the probe takes too long.
        """
        count = total - start
        if count <= 0:
            return
        phase = self._phases.setdefault(label, Phase(label))
        self._first = self._now() if self._first is None else self._first
        passed = self._now() - self._first
        if self.seconds == 0 or phase.left == count or passed > OVER * self.seconds:
            raise Enough
        phase.total += count
        phase.loops += 1
        late = passed > SHORTER * self.seconds
        done = 0
        if not (late and phase.each):
            once = late or phase.cut
            each, timed, began, real = 0.0, 0, self.clock(), self._now()
            for step in range(start, total):
                yield step
                done += 1
                now, clock = self._now(), self.clock()
                slow = now - real >= 2 * self.seconds and not self.compiles
                warms = done == 1 and not once and not slow
                timed += not warms
                each = (clock - began) / max(1, timed)
                if warms:
                    began, real = clock, now
                elif once or timed >= PROBE_STEPS or now - real > self.seconds:
                    break
            if not phase.cut:
                phase.each, phase.timed = each, timed
            phase.left = count - done
        if done < count:
            phase.cut = True
            self._ahead += (count - done) * phase.each

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def open_cache(self, name: str, key: Mapping[str, Any]) -> Cache:
        """A stage that reads the cache and saves nothing; what is made in it is there when it is opened again."""
        real = super().open_cache(name, key)
        stage = self._opened.setdefault(real.folder, _Unsaved(real.name, real.key, self._entered))
        self.stages.setdefault(name, []).append(len(stage.entries()))
        return stage

    def keep_teacher(self, teacher: Teacher) -> str:
        """Keep a network, half-trained perhaps, in memory."""
        self._in_memory[teacher.hash] = teacher
        return teacher.hash

    def recall_teacher(self, wanted: str) -> Teacher | None:
        """A network from memory or from the cache."""
        return self._in_memory.get(wanted) or super().recall_teacher(wanted)

    def left_out(self) -> str:
        """Say where a probe ended that ended before the method did."""
        where = f"the stage {self._entered[-1]!r} only, " if self._entered else ""
        return f"{where}what follows is left out"


class _Unsaved(Cache):
    """A stage that keeps what is made in memory, and its name in `entered` while something is made in it."""

    def __init__(self, name: str, key: Mapping[str, Any], entered: list[str]) -> None:
        super().__init__(name, key)
        self._made: dict[str, Artifact] = {}
        self._entered = entered

    def entries(self) -> list[str]:
        """Names of the entries in the cache and in memory, sorted."""
        return sorted({*super().entries(), *self._made})

    def load(self, entry: str) -> Artifact | None:
        """An entry from memory or from the cache, or None."""
        return self._made.get(entry) or super().load(entry)

    def save(self, entry: str, tensors: Mapping[str, torch.Tensor], info: Mapping[str, Any] | None = None) -> Artifact:
        """Keep the product, and write nothing."""
        plain = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        self._made[entry] = Artifact(plain, dict(info or {}), tensors_digest(plain, info or {}))
        return self._made[entry]

    def checkpoint(self, entry: str) -> Checkpoint:
        """One that keeps nothing, and begins anew even where the real one has something."""
        return Checkpoint(None)

    def drop(self, entry: str) -> None:
        """Forget an entry in memory; the cache stays as it is."""
        self._made.pop(entry, None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nothing is written, so nobody is kept out."""
        self._entered.append(self.name)
        yield
        self._entered.pop()  # not after the end of a probe, which then knows where it was


def brief(seconds: float) -> str:
    """A short duration for people: "1.5 s", "20 ms", "150 s"."""
    value, unit = (seconds, "s") if seconds >= 1 else (1000 * seconds, "ms")
    return f"{float(f'{value:.2g}'):,.15g} {unit}"  # two digits that count, never as a power of ten
