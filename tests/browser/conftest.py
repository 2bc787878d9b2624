"""One server and one browser for all tests of the page; a context of its own for each."""

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from browsing import wait_until_ready
from loras import random_lora, write_safetensors
from pocket_diffusion.bundle import Bundle
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from serving import RunningServer, running_server

PATIENCE = 120_000  # milliseconds for whatever a page, its server or the browser does: CI's machines have more to do

expect.set_options(timeout=PATIENCE)

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("adapters")
    opened = Bundle.open(DEFAULT_BUNDLE)
    write_safetensors(folder / "style.safetensors", random_lora(opened))
    with running_server("--threads", 2, "--lora-folder", folder) as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("there is no Chromium; install Debian's package `chromium`")
        pytest.skip("there is no Chromium; Debian's package `chromium` has it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def new_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Return what opens a browser of its own, as it were, which waits as long as `expect` does."""
    contexts = []

    def new_context(**options: object) -> BrowserContext:
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        return context

    yield new_context
    for context in contexts:
        context.close()


@pytest.fixture
def open_page(new_context: Callable[..., BrowserContext], server: RunningServer) -> Iterator[Callable[..., Page]]:
    """Open the page in a browser of its own; errors in it and requests elsewhere are failures."""
    pages, faults = [], []

    def check(url: str) -> None:
        if not url.startswith((server.url, "data:", "blob:")):
            faults.append(f"fetched {url}")

    def open_page(**options: object) -> Page:
        page = new_context(**{"service_workers": "block", **options}).new_page()  # which few tests need
        pages.append(page)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: check(request.url))
        page.goto(server.url)
        wait_until_ready(page)
        expect(page.locator("#model")).to_have_text("landscapes, 128 × 128")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert faults == []


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page()
