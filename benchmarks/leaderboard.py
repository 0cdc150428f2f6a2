"""Records to the site: CPU seconds of building the leaderboard of 2,000 generated records, its size, a filter's time.

    python benchmarks/leaderboard.py [--records 2000] [--out DIR] [--browser /usr/bin/chromium] [--profile]

The records are those of `benchmarks/tables.py`. With a browser (headless, driven by playwright), every choice of the
filters is made once, and the time from the choice to the next frame is the browser's own.
"""

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

from ddbench.leaderboard.build import build
from ddbench.leaderboard.entries import read
from tables import generated

from ddbench.files import write_atomic
from ddbench.store import RecordStore

CHOOSE = """async () => {
  const form = document.getElementById("filters"), times = [];
  for (const control of form.querySelectorAll("select")) {
    for (const option of [...control.options].reverse()) {
      const begun = performance.now();
      control.value = option.value;
      control.dispatchEvent(new Event("input", { bubbles: true }));
      document.body.getBoundingClientRect();
      const script = performance.now();
      await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
      times.push([script - begun, performance.now() - begun]);
    }
  }
  return times;
}"""


def main() -> None:
    """Write the records, build, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="folder to keep the site in")
    parser.add_argument("--browser", help="path of a Chromium")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = RecordStore(Path(folder) / "records")
        for record in generated(given.records):
            write_atomic(store.path(record.key()), record.to_json())
        out = given.out or Path(folder) / "site"
        profile = cProfile.Profile() if given.profile else None
        begun, cpu = time.perf_counter(), time.process_time()
        if profile:
            profile.enable()
        made = build(read([store.root]), out)
        if profile:
            profile.disable()
            pstats.Stats(profile).sort_stats("cumulative").print_stats(40)
        used, wall = time.process_time() - cpu, time.perf_counter() - begun
        first = sum((out / name).stat().st_size for name in ("index.html", "assets/site.css", "assets/board.js"))
        print(f"{made.records} records, {made.rows} rows: {used:.1f} CPU s, {wall:.1f} s")
        print(f"front page with its style sheet and script: {first / 1e6:.2f} MB")
        if given.browser:
            _look(out, given.browser)


def _look(out: Path, browser: str) -> None:
    """Print how long the page takes to load, and the filters to act."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1440, "height": 900})
        begun = time.perf_counter()
        page.goto((out / "index.html").resolve().as_uri())
        print(f"load: {time.perf_counter() - begun:.2f} s")
        times = page.evaluate(CHOOSE)
        for name, found in zip(
            ("script and layout", "to the next frame"), map(sorted, zip(*times, strict=True)), strict=True
        ):
            print(f"filter, {name}: median {found[len(found) // 2]:.0f} ms, longest {found[-1]:.0f} ms, n {len(found)}")
        chromium.close()


if __name__ == "__main__":
    main()
