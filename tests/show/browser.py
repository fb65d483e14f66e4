"""A real browser without a window: what a page becomes in it, and how it looks."""

import shutil
import subprocess
from pathlib import Path

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no browser is installed")


def _run(page: Path, *options: str) -> str:
    alone = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={page.parent / 'profile'}"]
    still = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=5000"]
    command = [str(PROGRAM), *alone, *still, *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def document(page: str, folder: Path, script: str = "") -> str:
    """The HTML of the document once its scripts have run, and then another one."""
    path = folder / "page.html"
    path.write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return _run(path, "--dump-dom")


def screenshot(page: str, folder: Path, output: Path, *, dark: bool = False) -> None:
    """A PNG of the page."""
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    theme = ["--force-dark-mode"] if dark else []
    _run(path, f"--screenshot={output}", "--window-size=1100,520", *theme)


def evaluated(path: Path, function: str, argument: object) -> object:
    """What an asynchronous function says in the document that this file is."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        launched = started.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        page = launched.new_page()
        page.goto(path.as_uri())
        found = page.evaluate(function, argument)
        launched.close()
    return found
