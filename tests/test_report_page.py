"""The report page, in a browser: what it shows, what people do with it, and that hostile texts do nothing."""

import base64
import csv
import gzip
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from helpers.report import CLASSES, HOSTILE, issues

from hf_clear.report import apply_corrections, save_report
from hf_clear.report.sheets import escaped, unescaped

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium (on Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a file in a window of its own; at the end of the test, nothing must have gone wrong in any."""
    wrong, contexts = [], []

    def open_it(path, size=(1280, 900), scheme="light"):
        window = {"width": size[0], "height": size[1]}
        contexts.append(browser.new_context(viewport=window, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)  # CI may be slow
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url[:99]))
        own = (path.as_uri(), "data:image/svg+xml", "blob:")
        page.goto(path.as_uri())
        page.wait_for_selector("#table tbody tr")
        return page

    yield open_it
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("typeof window.hacked") == "undefined"
        context.close()
    assert not wrong


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    table, log_history = issues()
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    warnings = [f"A warning {HOSTILE[0]}", "NUL \x00 and half a character \ud800"]
    save_report(path, table, log_history=log_history, warnings=warnings, title=f"A title {HOSTILE[1]}")
    return path, table


def column(page, number: int) -> list[str]:
    return page.eval_on_selector_all(f"#table tbody td:nth-child({number})", "cells => cells.map(c => c.innerText)")


def wait_for(page, text: str) -> None:
    page.wait_for_function("text => document.getElementById('status').innerText.includes(text)", arg=text)


def test_sorting_searching_and_paging(report, open_page):
    path, table = report
    page = open_page(path)
    suspects = table[table.is_label_issue].sort_values("label_score", kind="stable")
    assert len(suspects) > 60
    heads = page.eval_on_selector_all("#table thead th", "cells => cells.map(c => c.innerText)")
    assert heads == ["Accept", "Sample", HOSTILE[2], "text", "Given label", "→ Right label"] + [
        *("Label right", "Sure", "Loss", "Reasons")
    ]
    assert column(page, 2) == [str(row) for row in suspects.sample_index[:25]]  # worst first
    page.click("#next")
    assert column(page, 2) == [str(row) for row in suspects.sample_index[25:50]]
    page.fill("#page", "99")
    page.press("#page", "Enter")
    assert column(page, 2)[-1] == str(suspects.sample_index.iloc[-1])
    assert page.is_disabled("#next") and page.is_disabled("#last")

    page.focus("#table thead th:nth-child(9) button")  # by keyboard
    page.keyboard.press("Enter")
    by_loss = suspects.sort_values("loss")
    assert column(page, 9) == [f"{loss:.2f}" for loss in by_loss.loss[:25]]
    page.keyboard.press("Enter")
    assert column(page, 9)[0] == f"{by_loss.loss.iloc[-1]:.2f}"
    assert page.get_attribute("#table thead th:nth-child(9)", "aria-sort") == "descending"

    page.fill("#search", "TEXT 1 blue")
    names = ("text", "given_label", "predicted_label", "sample_index")
    where = suspects[[*names]].astype(str).agg(" ".join, axis=1).str.lower()
    wanted = suspects[where.map(lambda words: all(word in words for word in ("text", "1", "blue")))]
    wait_for(page, f" of {len(wanted)} found")
    assert 0 < len(wanted) < len(suspects)
    page.fill("#search", "")
    page.select_option("#given", label="blue")
    of_class = suspects[suspects.given_label == "blue"]
    wait_for(page, f" of {len(of_class)} found")
    assert set(column(page, 5)) == {"blue"}


def test_corrections_are_downloaded_as_they_were_accepted(report, open_page, tmp_path):
    path, table = report
    page = open_page(path)
    suspects = table[table.is_label_issue].sort_values("label_score", kind="stable")
    assert page.is_disabled("#download")
    page.focus("#table tbody tr:nth-child(2) input")
    page.keyboard.press("Space")
    page.select_option("#table tbody tr:nth-child(4) select", label=HOSTILE[3])  # not the suggestion
    page.check("#table tbody tr:nth-child(5) input")
    page.uncheck("#table tbody tr:nth-child(5) input")
    assert page.inner_text("#status").endswith("2 accepted")
    page.select_option("#state", "accepted")
    assert column(page, 2) == [str(suspects.sample_index.iloc[row]) for row in (1, 3)]

    def downloaded() -> list[dict]:
        with page.expect_download() as download:
            page.click("#download")
        assert download.value.suggested_filename == "corrections.csv"
        download.value.save_as(tmp_path / "corrections.csv")
        with open(tmp_path / "corrections.csv", encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))

    second, fourth = sorted((suspects.iloc[1], suspects.iloc[3]), key=lambda row: row.sample_index)
    expected = {suspects.sample_index.iloc[1]: suspects.predicted_label.iloc[1]}
    expected[suspects.sample_index.iloc[3]] = HOSTILE[3]
    rows = downloaded()
    for row, own in zip(rows, (second, fourth), strict=True):
        assert list(row) == ["sample_index", HOSTILE[2], "text", "given_label", "corrected_label"]
        assert row["sample_index"] == str(own.sample_index) and unescaped(row["text"]) == own.text
        assert row["given_label"].removeprefix("'") == own.given_label
        assert row["corrected_label"].removeprefix("'") == expected[own.sample_index]

    page.select_option("#state", "")
    page.click("#accept-found")
    rows = downloaded()
    assert [int(row["sample_index"]) for row in rows] == sorted(suspects.sample_index)
    texts = dict(zip(suspects.sample_index.astype(str), suspects.text))
    formulas = [row for row in rows if texts[row["sample_index"]].startswith(("=", "+", "-", "@"))]
    assert formulas and all(row["text"].startswith("'") for row in formulas)
    assert all(row["text"] == escaped(texts[row["sample_index"]]) for row in rows), "as to_csv writes them"
    by_row = table.sort_values("sample_index")
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(CLASSES))})
    given = [CLASSES.index(name) for name in by_row.given_label]
    dataset = Dataset.from_dict({"text": by_row.text.tolist(), "label": given}, features=features)
    corrected = apply_corrections(dataset, tmp_path / "corrections.csv")  # and what was chosen above is still so
    wanted = {**dict(zip(suspects.sample_index, suspects.predicted_label)), **expected}
    assert corrected["label"][:] == [CLASSES.index(wanted.get(row, CLASSES[own])) for row, own in enumerate(given)]
    warns = "() => !dispatchEvent(new Event('beforeunload', {cancelable: true}))"
    assert not page.evaluate(warns)
    select = "#table tbody tr:nth-child(2) select"
    before = page.input_value(select)
    page.select_option(select, index=(int(before) + 1) % len(CLASSES))
    assert page.evaluate(warns), "as many as were downloaded, and not the same"
    page.select_option(select, before)
    assert not page.evaluate(warns)
    page.click("#accept-none")
    assert page.inner_text("#status").endswith("0 accepted") and page.is_disabled("#download")


def test_texts_names_and_pictures_are_shown_as_they_are(report, open_page):
    path, table = report
    page = open_page(path)
    page.select_option("#size", "100")
    suspects = table[table.is_label_issue].sort_values("label_score", kind="stable")
    shown = page.eval_on_selector_all("#table td.text:nth-child(4) span", "cells => cells.map(c => c.textContent)")
    assert shown == [text for text in suspects.text]
    assert page.title().startswith("A title <") and HOSTILE[0] in page.inner_text(".warning li")
    assert set(HOSTILE[3:5]) <= set(
        page.eval_on_selector_all("#classes tbody th", "cells => cells.map(c => c.textContent)")
    )
    for img in page.query_selector_all("figure img"):
        img.scroll_into_view_if_needed()
        assert page.wait_for_function("img => img.complete && img.naturalWidth > 100", arg=img)
    policy = page.get_attribute("meta[http-equiv]", "content")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert page.evaluate("document.querySelectorAll('[style], [onerror], [onmouseover], main script[src]').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(report, open_page, scheme):
    page = open_page(report[0], (360, 740), scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.locator("#table tbody tr:first-child td.text").last.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360
    page.select_option("#sorter", "loss")
    losses = [float(loss) for loss in column(page, 9)]
    assert losses == sorted(losses)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    source = page.eval_on_selector("figure img", "img => atob(img.currentSrc.split(',')[1])")
    assert dark == (scheme == "dark") == ("#e6edf3" in source)


@pytest.mark.parametrize("width", [1200, 380])
def test_long_names_of_classes_are_shown_in_full(tmp_path, open_page, width):
    names = [f"balance_not_updated_after_{what}" for what in ("bank_transfer", "cheque_or_cash_deposit")]
    names.append("x" * 500)
    table = pd.DataFrame({"sample_index": range(4), "given_label": names[:1] + names})
    table["predicted_label"] = names[1:2] * 2 + names[2:] + names[:1]
    table = table.assign(text="a text " * 9, label_score=0.1, suggestion_confidence=0.9, loss=1.0)
    table["reasons"] = [["predicted_otherwise", "high_loss"]] * 4
    page = open_page(save_report(tmp_path / "report.html", table), (width, 900))

    assert f"“{names[0]}” to “{names[1]}”" in page.inner_text(".summary")
    select, shown = "#table tbody tr:first-child select", "#table tbody tr:first-child .choice span"
    for chosen in (names[1], names[2], names[0]):
        page.select_option(select, label=chosen)
        assert page.inner_text(shown) == page.get_attribute(select, "title") == chosen
        inner, outer = page.locator(shown).bounding_box(), page.locator(select).bounding_box()
        assert outer["x"] <= inner["x"] and inner["x"] + inner["width"] <= outer["x"] + outer["width"] <= width
        assert outer["y"] <= inner["y"] and inner["y"] + inner["height"] <= outer["y"] + outer["height"]
    regions = [f"document.querySelector('#{part} .scroll')" for part in ("suspects", "classes")]
    for region in ("document.documentElement", *regions[: 1 + (width > 400)]):  # five numbers are wider than a phone
        assert page.evaluate(f"{region}.scrollWidth <= {region}.clientWidth")


def unpacked(path) -> dict:
    content = re.search(r'id="data">([^<]*)<', path.read_text(encoding="utf-8")).group(1)
    return json.loads(gzip.decompress(base64.b64decode(content)))


def test_a_hundred_thousand_samples(tmp_path, open_page):
    rng = np.random.default_rng(0)
    size = 100_000
    words = [f"{number:x}{number * 7919 % 1000:x} " for number in range(30_000)]
    texts = "".join(words[number] for number in rng.integers(0, len(words), 4_000_000).tolist())
    labels = np.array([f"class {number}" for number in range(77)])
    given, score = rng.integers(0, 77, size), rng.beta(0.2, 0.3, size)
    table = pd.DataFrame(
        {
            "sample_index": np.arange(size),
            "text": [texts[250 * row : 250 * (row + 1)] for row in range(size)],
            "given_label": labels[given],
            "predicted_label": labels[(given + (score < 0.5)) % 77],
            "label_score": score,
            "loss": -np.log(score.clip(1e-3)),
        }
    )
    path = save_report(tmp_path / "report.html", table)

    assert path.stat().st_size < 5_000_000
    data = unpacked(path)
    worst = table[table.label_score < 0.5].sort_values("label_score", kind="stable").sample_index.tolist()
    shown = len(data["sample_index"])
    assert data["sample_index"] == worst[:shown] and 25_000 < shown < len(worst)
    page = open_page(path)
    assert f"the worst {shown:,} of {len(worst):,} suspects" in page.inner_text("#suspects .warning").replace("\n", " ")
    assert page.inner_text("#status") == f"1–25 of {shown:,} found, 0 accepted"
