"""Weights & Biases, for who asks for it (`--wandb`): a run per student, and the metrics that distillations report.

Offline unless logged in, so that it works without an account; `wandb sync FOLDER/wandb/offline-run-...` sends the runs
later. WANDB_MODE decides if it is set. Nothing of the machine but what a record says is sent.
"""

import logging
import netrc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from ddbench.errors import UsageError
from ddbench.progress import Reporter
from ddbench.records.record import Record, Run
from ddbench.system.files import make_folder

MODES = ("online", "offline", "disabled")
log = logging.getLogger("ddbench")


def logged_in() -> bool:
    """Tell whether wandb would find an account's key: WANDB_API_KEY, or an entry in the netrc file. Asks no server."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname
    try:
        known = netrc.netrc(Path(os.environ.get("NETRC") or "~/.netrc").expanduser())
    except (OSError, netrc.NetrcParseError):
        return False
    return host in known.hosts


def mode() -> str:
    """WANDB_MODE, else "online" where logged in, else "offline"; UsageError for a mode that is none."""
    named = os.environ.get("WANDB_MODE")
    if named and named not in MODES:
        raise UsageError(f"WANDB_MODE={named!r}: allowed are {', '.join(MODES)}")
    return named or ("online" if logged_in() else "offline")


@contextmanager
def _warned() -> Iterator[None]:
    """Turn whatever the service or its client raises into a warning: the records must reach the store."""
    try:
        yield
    except Exception as error:
        log.warning("wandb: %s", " ".join(str(error).split()) or type(error).__name__)


class WandbLog:
    """Sends records and metrics to W&B. Use as a context manager, or call `finish`."""

    def __init__(self, folder: Path | str, *, project: str = "ddbench", group: str | None = None) -> None:
        """Log below `folder`/wandb, to `project`; `group` ties the runs of one sweep together.

        Raises:
            UsageError: wandb is not installed, WANDB_MODE is unknown, or the folder cannot be made.
        """
        try:
            import wandb
        except ImportError as error:
            raise UsageError("--wandb needs the package wandb: pip install wandb") from error
        self._wandb: Any = wandb
        self.folder, self.project, self.group, self.mode = make_folder(Path(folder)), project, group, mode()
        self._metrics: Any = None
        self._last = -1

    def __enter__(self) -> "WandbLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def observe(self, record: Record) -> Record:
        """Log every run of the record that has no link yet; the record with the links in `Run.wandb`.

        A link is the run's URL or "offline:" and its folder's name. W&B out of reach is a warning, never an error:
        the record comes first.
        """
        runs = [run if run.wandb else run.model_copy(update={"wandb": self._log(record, run)}) for run in record.runs]
        return record.model_copy(update={"runs": runs})

    def reporter(self, inner: Reporter | None = None) -> Reporter:
        """A reporter that also logs the metrics that it is given, and passes everything on to `inner`."""
        return _Logging(self, inner or Reporter())

    def metrics(self, step: int | None, values: Mapping[str, float], label: str = "distillation") -> None:
        """Log numbers of a running distillation; a step that goes back opens a run of its own."""
        if self._metrics is not None and step is not None and step <= self._last:
            self._close_metrics()
        if self._metrics is None:
            self._metrics = self._open(label, {"kind": "distillation"})
        if self._metrics is not None:
            with _warned():
                self._metrics.log(dict(values), step=step)
            self._last = self._last if step is None else step

    def finish(self) -> None:
        """Close what is open."""
        self._close_metrics()

    def _close_metrics(self) -> None:
        if self._metrics is not None:
            with _warned():
                self._metrics.finish()
        self._metrics, self._last = None, -1

    def _log(self, record: Record, run: Run) -> str | None:
        budget = " ".join(f"{key} {value}" for key, value in record.budget.items())
        name = f"{record.method} {record.dataset} {budget} {record.protocol} seed {run.seed}"
        opened = self._open(name, _config(record, run))
        if opened is None:
            return None
        scores = {key: getattr(run, key) for key in ("top1", "top5", "final_loss", "seconds", "steps")}
        with _warned():
            opened.log({key: value for key, value in scores.items() if value is not None})
            if run.reason:
                opened.summary["reason"] = run.reason
            opened.finish(exit_code=0 if run.status == "ok" else 1)
            return self._link(opened)
        return None

    def _open(self, name: str, config: Mapping[str, Any]) -> Any:
        with _warned():
            return self._init(name, config)
        if self.mode == "online":
            log.warning("wandb: going on offline")
            self.mode = "offline"
            return self._open(name, config)
        return None

    def _init(self, name: str, config: Mapping[str, Any]) -> Any:
        quiet = {"silent": True, "console": "off"}
        private = dict.fromkeys(("x_disable_meta", "x_disable_stats", "disable_git", "disable_code"), True)
        return self._wandb.init(
            project=self.project,
            group=self.group,
            name=name[:128],
            dir=str(self.folder),
            mode=self.mode,
            config=dict(config),
            reinit="create_new",
            settings=self._wandb.Settings(**quiet, **private),
        )

    def _link(self, opened: Any) -> str | None:
        if self.mode == "online":
            return str(opened.url)
        return f"offline:{Path(opened.dir).parent.name}" if self.mode == "offline" else None


def _config(record: Record, run: Run) -> dict[str, Any]:
    """Give the facts that identify the run."""
    fields = (
        "method",
        "dataset",
        "budget",
        "protocol",
        "student_network",
        "distill_network",
        "synthesis_seed",
        "recipe",
    )
    settings = ("seed", "synset", "teacher", "device", "precision", "threads", "build", "commit", "status")
    return {f: getattr(record, f) for f in fields} | {s: getattr(run, s) for s in settings} | {"kind": "student"}


class _Logging(Reporter):
    """Passes on, and logs metrics under the label of the work that goes on."""

    def __init__(self, log: WandbLog, inner: Reporter) -> None:
        self._log, self._inner = log, inner

    def advance(self, label: str, done: int, total: int) -> None:
        """See the base class."""
        self._inner.advance(label, done, total)

    def metrics(self, step: int | None, values: dict[str, float]) -> None:
        """See the base class."""
        self._log.metrics(step, values)
        self._inner.metrics(step, values)

    def line(self, text: str) -> None:
        """See the base class."""
        self._inner.line(text)
