"""Records to the site: CPU seconds of building the leaderboard of 2,000 generated records, its size, a filter's time.

    python benchmarks/leaderboard.py [--records 2000] [--out DIR] [--browser /usr/bin/chromium] [--profile]

The records are those of `benchmarks/tables.py`. With a browser (headless, driven by playwright), every choice of the
filters is made once: milliseconds to the next frame, and CPU time of the page's main thread, which other work on the
machine does not lengthen.
"""

import argparse
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.leaderboard.build import build
from ddbench.leaderboard.entries import read
from tables import generated, profiled, stored, timed

if TYPE_CHECKING:
    from playwright.sync_api import CDPSession

SIZES = (("wide", 1440, 900), ("phone", 390, 844))
OPTIONS = "[...document.querySelectorAll('#filters select')].flatMap(s => [...s.options].map(o => [s.name, o.value])).reverse()"
CHOOSE = """async ([name, value]) => {
  const control = document.getElementById("filters").elements[name], begun = performance.now();
  control.value = value;
  control.dispatchEvent(new Event("input", { bubbles: true }));
  document.body.getBoundingClientRect();
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - begun;
}"""


def main() -> None:
    """Write the records, build, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="folder to keep the site in")
    parser.add_argument("--browser", help="path of a Chromium")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the front page, light, dark, wide, phone")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = stored(generated(given.records), Path(folder) / "records")
        out = given.out or Path(folder) / "site"
        with profiled(given.profile), timed("reading and building"):
            made = build(read([store.root]), out)
        first = sum((out / name).stat().st_size for name in ("index.html", "assets/site.css", "assets/board.js"))
        print(f"{made.records} records, {made.rows} rows")
        print(f"front page with its style sheet and script: {first / 1e6:.2f} MB")
        if given.browser:
            _look(out, given.browser, given.pictures)


def _look(out: Path, browser: str, pictures: Path | None) -> None:
    """Print how long the page takes to load, and the filters to act; keep pictures of the page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1440, "height": 900})
        begun = time.perf_counter()
        page.goto((out / "index.html").resolve().as_uri())
        print(f"load: {time.perf_counter() - begun:.2f} s")
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        walls, cpus = [], []
        for choice in page.evaluate(OPTIONS):
            before = _busy(session)
            walls.append(page.evaluate(CHOOSE, choice))
            cpus.append(1000 * (_busy(session) - before))
        for name, found in (("to the next frame", sorted(walls)), ("CPU of the page", sorted(cpus))):
            print(f"filter, {name}: median {found[len(found) // 2]:.0f} ms, longest {found[-1]:.0f} ms, n {len(found)}")
        for (name, width, height), scheme in product(SIZES, ("light", "dark")) if pictures else ():
            page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto((out / "index.html").resolve().as_uri())
            page.screenshot(path=pictures / f"leaderboard-{name}-{scheme}.png")
        chromium.close()


def _busy(session: "CDPSession") -> float:
    """CPU seconds of the page's main thread so far."""
    found = session.send("Performance.getMetrics")["metrics"]
    return float(next(each["value"] for each in found if each["name"] == "TaskDuration"))


if __name__ == "__main__":
    main()
