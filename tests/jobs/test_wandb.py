"""Weights & Biases, really offline: what is written can be read back, and records come first."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import wandb

from ddbench.errors import UsageError
from ddbench.hashing import digest
from ddbench.jobs.wandb_log import WandbLog, logged_in, mode
from ddbench.progress import Reporter
from ddbench.records.record import Record, Run, SynSetFacts, now

SET = "a" * 64
SEEN = [(0, 2.40625), (1, 1.59375), (0, 2.71875)]
RECIPE = {"name": "paper", "hyper": {"lr": 0.5}}


@pytest.fixture(autouse=True)
def nobody_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))


def run(seed: int, **more: Any) -> Run:
    scored = {"status": "ok", "top1": 0.625, "synset": SET, "steps": 400, "seconds": 1.5}
    common = {"device": "cpu", "precision": "float32", "threads": 1, "build": "2.9.0", "date": now()}
    return Run(seed=seed, **{**common, **scored, **more})


def record(*runs: Run) -> Record:
    return Record(
        protocol="hard-v1",
        protocol_version=1,
        protocol_digest="b" * 64,
        dataset="digits",
        budget={"ipc": 1},
        student_network="convnet-d2-w64",
        method="random",
        recipe=RECIPE,
        recipe_hash=digest(RECIPE),
        synthesis_seed=0,
        synsets={SET: SynSetFacts(images=10, bytes={"images": 640})},
        runs=list(runs),
    )


def missing(folder: Path, texts: Iterable[object]) -> list[object]:
    """Which texts the runs' files below a folder lack; they hold names and JSON values as plain bytes.

    wandb's own process writes them, up to a moment after a run is finished.
    """
    for _ in range(100):
        held = b"".join(file.read_bytes() for file in folder.rglob("*.wandb"))
        lacking = [text for text in texts if str(text).encode() not in held]
        if not lacking:
            break
        time.sleep(0.1)
    return lacking


def test_a_record_gets_links_to_runs_that_hold_its_scores(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    failed = run(1, status="failed", reason="diverged", top1=None, synset=None)
    with WandbLog(tmp_path / "logs") as log:
        seen = log.observe(record(run(0), failed))
    links = [r.wandb for r in seen.runs]
    assert all(link and link.startswith("offline:offline-run-") for link in links) and len(set(links)) == 2
    assert [r.model_copy(update={"wandb": None}) for r in seen.runs] == [run(0, date=seen.runs[0].date), failed]
    texts = ("random digits ipc 1 hard-v1 seed 0", "top1", "0.625", "steps", "400", '"ipc":1', '"lr":0.5', SET)
    folder = tmp_path / "logs" / "wandb" / str(links[0]).removeprefix("offline:")
    assert folder.is_dir() and not missing(folder, texts)
    assert capfd.readouterr() == ("", "")
    assert Record.from_json(seen.to_json(), "seen") == seen


def test_a_run_that_has_a_link_keeps_it(tmp_path: Path) -> None:
    with WandbLog(tmp_path / "logs") as log:
        assert log.observe(record(run(0, wandb="offline:before"))).runs[0].wandb == "offline:before"
    assert not (tmp_path / "logs" / "wandb").exists()


def test_metrics_are_logged_and_passed_on_and_a_new_start_is_a_new_run(tmp_path: Path) -> None:
    class Seen(Reporter):
        def __init__(self) -> None:
            self.calls: list[Any] = []

        def metrics(self, step: int | None, values: dict[str, float]) -> None:
            self.calls.append((step, values))

    inner = Seen()
    with WandbLog(tmp_path / "logs") as log:
        reporter = log.reporter(inner)
        for step, loss in SEEN:
            reporter.metrics(step, {"loss": loss})
        reporter.advance("dm", 1, 2)
        reporter.line("still here")
    assert inner.calls == [(step, {"loss": loss}) for step, loss in SEEN]
    assert not missing(tmp_path / "logs", [loss for _, loss in SEEN])
    assert len(list((tmp_path / "logs" / "wandb").glob("offline-run-*"))) == 2


def test_a_service_that_fails_loses_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init = wandb.init

    def unreachable(**how: Any) -> Any:
        if how["mode"] == "online":
            raise ConnectionError("no route to host")
        return init(**how)

    monkeypatch.setattr(wandb, "init", unreachable)
    monkeypatch.setenv("WANDB_MODE", "online")
    with WandbLog(tmp_path / "logs") as log:
        assert str(log.observe(record(run(0))).runs[0].wandb).startswith("offline:")
        monkeypatch.setattr(wandb, "init", lambda **_: 1 / 0)
        assert log.observe(record(run(0))).runs[0].wandb is None


def test_offline_unless_logged_in_and_wandb_mode_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    assert not logged_in() and mode() == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password nothing\n")
    (tmp_path / "netrc").chmod(0o600)
    assert logged_in() and mode() == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    assert mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "nothing")
    assert mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode() == "disabled"
    with WandbLog(tmp_path / "logs") as log:
        assert log.observe(record(run(0))).runs[0].wandb is None
    monkeypatch.setenv("WANDB_MODE", "loud")
    with pytest.raises(UsageError, match="online, offline, disabled"):
        mode()
