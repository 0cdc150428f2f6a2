"""The site in a real browser: filters, sorting, the view of a record, colors, keyboard, phone, print; no network.

Debian's `chromium`, or another Chromium on the path, driven by playwright; where one of the two is missing these tests
say that they did not run.
"""

import shutil

import pytest
from ddbench.leaderboard.build import build
from ddbench.leaderboard.entries import Entry
from made_records import a_record
from playwright.sync_api import sync_playwright

from ddbench.records.record import Record

NASTY = "<script>alert(1)</script>"
WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


def found_browser():
    """The path of a Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def chromium():
    path = found_browser()
    if path is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium): no browser was tested")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def record(method, ipc=1, values=(0.5, 0.52), *, seed=0, **changes):
    """A record with one run per value."""
    run = {"commit": "c" * 40, "dirty": True, "versions": {"torch": "2.9.0"}, "wandb": "javascript:alert(4)"}
    facts = {"bytes": {"images": 2560 * ipc, "external": 300}}
    made = {"ipc": ipc, "synthesis": seed, "run": run, "facts": facts, "student_network": "convnet-d3"}
    return a_record(method, values, **made, **changes)


CLAIM = {"code": "https://example.org/code", "paper": "javascript:alert(5)", "authors": "<b>me</b>"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    records = [record(f"m{place:03d}", 1, (0.3 + place / 500, 0.31 + place / 500)) for place in range(120)]
    records += [record("dm", ipc, (0.6, 0.62), seed=seed) for ipc in (1, 10, 50) for seed in (0, 1)]
    records += [record("dm", 1, (0.4, 0.41), dataset="cifar10-jpeg@6c6a762a")]
    nasty = record(NASTY, 10, (0.7, 0.71), note="</script><script>alert(3)</script>\u2028")
    out = tmp_path_factory.mktemp("board") / "site"
    build([*map(Entry, records), Entry(nasty, "claimed", CLAIM)], out, reported={}, pictures=False)
    return out


@pytest.fixture
def page(chromium):
    """A page that fails the test at an error, a dialog, or a request beyond files."""
    context = chromium.new_context(viewport=WIDE)
    made, wrong = context.new_page(), []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    made.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    made.on("request", lambda request: None if request.url.startswith("file:") else wrong.append(request.url))
    yield made
    context.close()
    assert wrong == []


def names(page):
    return page.locator("table.board tbody th.method > a").all_inner_texts()


def column(page, place):
    return page.locator(f"table.board tbody tr > :nth-child({place})").all_inner_texts()


def opened(page, site, address=""):
    page.goto(f"{(site / 'index.html').as_uri()}{address}")
    return page


def test_filters_choose_rows_and_are_kept_in_the_address_bar(page, site):
    opened(page, site)
    assert len(names(page)) == 100 and page.inner_text("#count") == "125 rows; the first 100 are shown"
    page.get_by_role("button", name="Show all 125 rows").click()
    assert len(names(page)) == 125 and not page.locator("#more").is_visible()
    page.get_by_label("Budget", exact=True).select_option("ipc 10")
    assert sorted(names(page)) == sorted(["dm", NASTY]) and "#budget=ipc+10" in page.url
    page.get_by_label("Standing", exact=True).select_option("claimed")
    assert names(page) == [NASTY] and page.inner_text("#count") == "1 of 125 rows"
    kept = page.url
    page.get_by_role("button", name="Clear").click()
    assert len(names(page)) == 125 and "#" not in page.url
    page.goto("about:blank")
    page.goto(kept)
    assert names(page) == [NASTY] and page.get_by_label("Standing", exact=True).input_value() == "claimed"
    page.get_by_label("Budget", exact=True).select_option("")
    page.get_by_label("Standing", exact=True).select_option("")
    page.get_by_label("Method", exact=True).fill("M00")
    assert names(page) == [f"m00{place}" for place in range(9, -1, -1)]


def test_an_address_with_an_unknown_name_fits_no_row(page, site):
    opened(page, site, "#dataset=%3Cimg%20src%3Dx%3E&sort=nothing")
    assert names(page) == [] and page.inner_text("#count") == "0 of 125 rows"
    assert page.get_by_label("Data set", exact=True).input_value() == "<img src=x>"


def test_columns_sort_both_ways_and_say_so(page, site):
    opened(page, site, "#dataset=digits&budget=ipc+1")
    head = page.locator("th[data-sort=top1]")
    assert head.get_attribute("aria-sort") == "none"
    head.get_by_role("button").click()
    values = [float(text.split(" ±")[0]) for text in column(page, 7)]
    assert values == sorted(values, reverse=True) and head.get_attribute("aria-sort") == "descending"
    assert "sort=top1&way=down" in page.url
    head.get_by_role("button").click()
    values = [float(text.split(" ±")[0]) for text in column(page, 7)]
    assert values == sorted(values) and head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "none" and "sort" not in page.url
    opened(page, site, "#method=dm&sort=budget&way=down")
    assert column(page, 3) == ["IPC 50", "IPC 10", "IPC 1", "IPC 1"]
    opened(page, site, "#budget=ipc+10&sort=rank")
    assert names(page) == ["dm", NASTY]  # what has no rank comes last, either way
    opened(page, site, "#budget=ipc+10&sort=rank&way=down")
    assert names(page) == ["dm", NASTY]


def test_a_record_is_shown_with_what_is_needed_to_doubt_it(page, site):
    opened(page, site, "#method=dm&budget=ipc+50")
    page.locator("table.board summary").click()
    page.locator("td.details a").first.click()
    page.wait_for_selector("#hashes")
    text = page.inner_text("main")
    for words in ("dm on digits, IPC 50, hard-v1", "62.00", "c" * 40, "yes, changed", "torch 2.9.0", "128,000"):
        assert words in text, words
    assert "ddbench run dm --dataset digits --ipc 50" in text
    name = page.url.partition("#")[2]
    assert (site / "records" / f"{name}.js").is_file() and name in text
    page.get_by_text("Full record (JSON)").click()
    shown = page.locator("details pre").last.inner_text()
    assert Record.model_validate_json(shown).key_hash() == name


def test_strangers_text_stays_text_and_only_web_addresses_are_links(page, site):
    opened(page, site, "#standing=claimed")
    assert names(page) == [NASTY]
    page.locator("td.details a").click()
    page.wait_for_selector("#hashes")
    assert NASTY in page.inner_text("h1") and "</script><script>alert(3)</script>" in page.inner_text("main")
    links = page.locator("main a").evaluate_all("found => found.map(each => each.getAttribute('href'))")
    assert "https://example.org/code" in links and not [link for link in links if "javascript" in link]
    assert "javascript:alert(5)" in page.inner_text("main") and page.locator("main b").count() == 0
    page.locator("dd a").first.click()
    assert page.inner_text("h1") == NASTY


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "This page shows the record that its address names."),
        ("#" + "0" * 64, "There is no such record on this site."),
        ("#../../secret", "The address names no record."),
        ("#https://example.org/x", "The address names no record."),
    ],
)
def test_an_address_without_a_record_says_so(chromium, site, address, words):
    context = chromium.new_context()  # the browser logs the file that is not there
    made, asked = context.new_page(), []
    made.on("request", lambda request: asked.append(request.url))
    made.goto(f"{(site / 'record.html').as_uri()}{address}")
    made.get_by_text(words).wait_for()
    assert all(url.startswith(site.as_uri() + "/") for url in asked)
    context.close()


def test_colors_follow_the_system_and_the_button(chromium, site):
    for scheme, ground, other in (
        ("dark", "rgb(18, 23, 28)", "rgb(255, 255, 255)"),
        ("light", "rgb(255, 255, 255)", "rgb(18, 23, 28)"),
    ):
        context = chromium.new_context(color_scheme=scheme)
        made = opened(context.new_page(), site)
        color = "getComputedStyle(document.body).backgroundColor"
        assert made.evaluate(color) == ground
        made.locator("#theme").click()
        assert made.evaluate(color) == other
        made.reload()
        assert made.evaluate(color) == other  # kept
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(chromium, site, scheme):
    """WCAG 2.2 contrast of the colors that text is written in, on both grounds: 4.5 to 1 at least."""
    context = chromium.new_context(color_scheme=scheme)
    made = opened(context.new_page(), site)
    names = ("ground", "raised", "ink", "quiet", "accent", "good", "warn", "claim")
    read = "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim())"
    color = dict(zip(names, made.evaluate(read, list(names)), strict=True))

    def luminance(text):
        parts = [int(text[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for ground in ("ground", "raised"):
        for name in names[2:]:
            pair = sorted((luminance(color[ground]), luminance(color[name])))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (ground, name)
    context.close()


def test_keyboard_alone_reaches_filters_sorting_and_records(page, site):
    opened(page, site)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main" and "#" not in page.url
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "dataset"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.locator("th[data-sort=method] button").focus()
    page.keyboard.press("Enter")
    assert names(page)[0] == NASTY and page.locator("th[data-sort=method]").get_attribute("aria-sort") == "ascending"
    page.locator("td.details a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#hashes")


def test_a_screen_reader_finds_a_table_with_names(page, site):
    opened(page, site)
    table = page.get_by_role("table", name="Top-1 accuracy of students on the test images")
    assert table.get_by_role("columnheader").count() == 15
    assert table.get_by_role("rowheader").count() == 100
    assert page.get_by_role("status").inner_text().startswith("125 rows")
    for label in ("Data set", "Budget", "Protocol", "Student", "Standing"):
        assert page.get_by_role("combobox", name=label, exact=True).count() == 1
    assert page.get_by_role("searchbox", name="Method").count() == 1
    assert page.get_by_role("main").count() == page.get_by_role("contentinfo").count() == 1


@pytest.mark.parametrize("file", ["index.html", "methods.html", "methods/dm.html"])
def test_pages_fit_a_phone(chromium, site, file):
    context = chromium.new_context(viewport=PHONE)
    made = context.new_page()
    made.goto((site / file).as_uri())
    assert made.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    if file == "index.html":
        first = made.locator("table.board tbody tr").first
        assert first.locator(".where").is_visible() and not first.locator("td.place").first.is_visible()
        assert first.locator("td.top1").bounding_box()["x"] < PHONE["width"]
    context.close()


@pytest.mark.parametrize("width", [1280, 1440, 1660])
def test_the_whole_table_fits_a_laptop(chromium, site, width):
    context = chromium.new_context(viewport={"width": width, "height": 800})
    made = context.new_page()
    made.goto((site / "index.html").as_uri())
    hidden = made.locator(".scroll").evaluate("table => table.scrollWidth - table.clientWidth")
    assert hidden == 0
    context.close()


def test_without_scripts_every_row_is_there(chromium, site):
    context = chromium.new_context(java_script_enabled=False)
    made = opened(context.new_page(), site)
    assert made.locator("table.board tbody tr").count() == 125 and not made.locator("#filters").is_visible()
    context.close()


def test_print_shows_every_chosen_row_and_no_controls(page, site):
    opened(page, site)
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("table.board tbody tr").count() == 125
    assert not page.locator("#filters").is_visible() and not page.locator("nav").first.is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
