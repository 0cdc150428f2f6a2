"""Make the pictures of the documentation again: the leaderboard's front page as a browser shows it, and a plot.

Run `python docs/pictures.py` from a clone's root, with playwright and a Chromium, and look at what changed.
"""

import shutil
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from ddbench.cli import main

IMAGES = Path(__file__).parent / "images"
VIEWS: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1440, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2.0, "is_mobile": True},
}
COLORS = 64
"""Size of a picture's palette: text stays sharp, and the file small."""


def command(*words: str) -> None:
    """Run a command of ddbench in this process; SystemExit where it fails."""
    try:
        main(words)
    except SystemExit as done:
        if done.code:
            raise


def photograph(index: Path, browser: Any) -> None:
    """Photograph the front page for each view and color scheme."""
    for view, device in VIEWS.items():
        for scheme in ("light", "dark"):
            page = browser.new_context(color_scheme=scheme, **device).new_page()
            page.goto(index.as_uri())
            save(page.screenshot(), IMAGES / f"leaderboard-{view}-{scheme}.png")


def save(png: bytes, path: Path) -> None:
    """Write a picture with a palette."""
    Image.open(BytesIO(png)).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)


def run() -> None:
    """Make every picture."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        site = Path(folder) / "site"
        command("leaderboard", "build", "--results", "results/measured", "--no-pictures", "--out", str(site))
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        photograph(site / "index.html", browser)
        browser.close()
    chosen = ("--dataset", "digits", "--protocol", "hard-v1", "--methods", "rded,sre2l,herding,dq,prune")
    plot = IMAGES / "accuracy-ipc.png"
    command("plot", "--results", "results/measured", "--kind", "ipc", *chosen, "--out", str(plot))
    save(plot.read_bytes(), plot)


if __name__ == "__main__":
    run()
