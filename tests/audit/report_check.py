"""The HTML report in a headless Chromium: ``make report-check`` (needs playwright and Chromium).

With a folder as its argument it also writes the pictures of ``docs/`` there.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from planting import PLANTS
from playwright.sync_api import Page, sync_playwright

from pilot_secure.audit.bundle import Bundle
from pilot_secure.audit.html import html_report
from pilot_secure.audit.verify import verify

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1200, "height": 900}


def check(page_file: Path, report: dict, pictures: Path | None) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("report-check: there is no chromium; `apt-get install chromium` first")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=DESK)
        faults, requests = [], []
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_file.as_uri())
        for result in report["results"]:
            box = page.locator(f"[data-rule={result['id']}]")
            assert box.locator(".verdict").inner_text() == result["verdict"]
            assert f"Looked at {result['checked']:,};" in box.text_content()
        facts = page.locator("#facts").inner_text()
        for value in (report["records"], report["payload_bytes"], report["payloads"]):
            assert f"{value:,}" in facts
        sizes = page.locator("#bytes").text_content()
        for phase in report["phases"]:
            assert f"up {phase['bytes_up']:,}" in sizes and f"down {phase['bytes_down']:,}" in sizes
        failed = next(r for r in report["results"] if r["verdict"] == "FAIL")
        if pictures is not None:
            page.screenshot(path=str(pictures / "audit-report.png"))
        page.locator(f"[data-rule={failed['id']}] a").first.click()
        seq = failed["findings"][0]["seq"]
        assert page.evaluate("document.activeElement.id") == f"entry-{seq}"
        assert page.locator(f"#entry-{seq}").is_visible()
        page.locator("#search").fill("client-02 unmask_shares")
        assert page.locator("#messages tr").count() >= 1
        page.locator("#tabs button").first.focus()
        page.keyboard.press("ArrowRight")
        assert "client-01 saw" in page.locator("#panel").inner_text()
        check_party(page, "client-01")
        page.keyboard.press("End")
        assert "client-05 saw" in page.locator("#panel").inner_text()
        check_party(page, "client-05")
        page.locator("#sequences summary").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#sequences svg circle", timeout=5000)
        check_sequence(page, report["attempts"][0])
        if pictures is not None:
            page.locator("#sequences details[open]").screenshot(
                path=str(pictures / "audit-sequence.png")
            )
        assert page.locator("#sequences svg circle").count() > 20
        page.set_viewport_size(PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert faults == [], faults
        assert requests == [page_file.as_uri()], requests
        browser.close()


def check_party(page: Page, party: str) -> None:
    """The tab counts the messages that its link lists: those of the transcript."""
    own = [m for m in page.evaluate("messages") if party in (m["sender"], m["recipient"])]
    size = sum(m["bytes"] for m in own)
    told = f"{party} saw {len(own):,} messages of {size:,} bytes."
    assert told in page.locator("#panel").inner_text()
    page.locator("#panel a").last.press("Enter")
    assert page.locator("#messages tr").count() == len(own)
    page.locator("#tabs button[aria-selected=true]").focus()


def check_sequence(page: Page, attempt: dict) -> None:
    """The first attempt's diagram: who, what, bytes and time as the transcript's records say."""
    first = next(m for m in page.evaluate("messages") if m["seq"] == attempt["first_seq"])
    dot = page.locator("#sequences svg circle title").first.text_content()
    assert dot == (
        f"entry {first['seq']}: {first['kind']} from {first['sender']} to {first['recipient']}, "
        f"{first['bytes']:,} bytes, at {first['at_ms'] / 1000:.3f} s"
    ), dot
    times = [m["at_ms"] for m in page.evaluate("messages")]
    assert times == sorted(times) and times[-1] > 0
    drawn = page.locator("#sequences svg text").all_text_contents()
    assert any(text.startswith(f"{times[0] / 1000:.3f}–") for text in drawn), drawn


def main(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "planted"
        PLANTS["S03"](run)
        bundle = Bundle.open(run)
        report = verify(bundle)
        page = Path(temporary) / "report.html"
        page.write_text(html_report(bundle, report), encoding="utf-8")
        check(page, json.loads(report.model_dump_json()), Path(arguments[0]) if arguments else None)
    print("report: no console errors, no request, numbers as in the JSON, click and keyboard work")


if __name__ == "__main__":
    main(sys.argv[1:])
