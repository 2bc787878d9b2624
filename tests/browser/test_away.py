"""The page while its server is away: what it says, what it still does, and what it finds again."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Page, expect

from serving import RunningServer, running_server

SECONDS = 60_000  # milliseconds that a server may take to start, or a page to notice, on a busy machine
AWAY = "The server does not answer; trying again"
MODEL = "landscapes, 128 × 128"


@contextmanager
def back(gone: RunningServer, *options: object) -> Iterator[RunningServer]:
    """Start a server anew, at the address of one that is gone."""
    with running_server("--threads", 1, "--port", gone.port, *options) as server:
        yield server


def end(server: RunningServer) -> None:
    server.process.kill()
    server.process.wait()


def begin_long(page: Page) -> None:
    page.get_by_text("Settings", exact=True).click()
    for label, value in (("Steps", 150), ("Width", 512), ("Height", 512)):
        page.get_by_label(label, exact=True).fill(str(value))
    page.get_by_label("Prompt", exact=True).fill("a lake")
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#line")).to_have_text(re.compile("Step"), timeout=SECONDS)


def test_a_drawing_that_a_server_lost_is_said_and_cancelled_while_that_is_away(browser: Browser) -> None:
    page = browser.new_page(service_workers="block")
    with running_server("--threads", 1) as first:
        page.goto(first.url)
        begin_long(page)
        end(first)
        expect(page.locator("#line")).to_have_text(AWAY, timeout=SECONDS)
        expect(page.locator("#status")).to_have_text(AWAY, timeout=SECONDS)
        assert Axe().run(page).violations_count == 0
        page.get_by_role("button", name="Draw").click()
        expect(page.locator("#upcoming")).to_have_text("1 more follows")
    with back(first) as second:
        expect(page.locator("#error")).to_have_text(
            "The drawing is lost: the server does not know it any more. Draw it again. 1 more was not drawn.",
            timeout=SECONDS,
        )
        page.get_by_role("button", name="Draw").click()
        expect(page.locator("#line")).to_have_text(re.compile("Step"), timeout=SECONDS)
        end(second)
        expect(page.locator("#line")).to_have_text(AWAY, timeout=SECONDS)
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#line")).to_have_text("Cancelled: the server ends what nobody follows", timeout=SECONDS)
    page.close()


def test_a_drawing_is_found_again_by_a_browser_that_was_cut_off(page: Page) -> None:
    page.evaluate(
        "() => void (EventSource = class extends EventSource { constructor(u) { window.events = super(u); } })"
    )
    begin_long(page)
    page.context.set_offline(True)  # which leaves what is open already
    page.evaluate("events.dispatchEvent(new Event('error'))")
    expect(page.locator("#line")).to_have_text(AWAY, timeout=SECONDS)
    page.context.set_offline(False)
    expect(page.locator("#line")).to_have_text(re.compile("Step"), timeout=SECONDS)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#line")).to_have_text("Cancelled: the drawing was cancelled", timeout=SECONDS)


def kept(page: Page) -> list[str]:
    """Wait until the browser keeps the page, and return the paths of what it keeps."""
    return page.evaluate(
        """async () => {
            const cache = await caches.open("pocket-diffusion page");
            for (;;) {
                const kept = await cache.keys();
                if (kept.length) return kept.map(({ url }) => new URL(url).pathname);
                await new Promise((resolve) => setTimeout(resolve, 50));
            }
        }"""
    )


def test_the_page_opens_without_its_server_and_goes_on_once_that_is_back(browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    with running_server("--threads", 1) as first:
        page.goto(first.url)
        kept(page)
        page.get_by_text("Settings", exact=True).click()
        page.get_by_label("Steps", exact=True).fill("2")
        page.locator("select[name=sampler]").select_option("euler")
        end(first)
    page.reload()
    expect(page.locator("#line")).to_have_text(AWAY, timeout=SECONDS)
    assert Axe().run(page).violations_count == 0
    page.get_by_label("Prompt", exact=True).fill("a lake")
    page.get_by_role("button", name="Draw").click()  # as soon as there is a server
    with back(first):
        expect(page.locator("#picture")).to_have_attribute("alt", re.compile("a lake, seed"), timeout=SECONDS)
        expect(page.locator("[name=steps]")).to_have_value("2")
        expect(page.locator("select[name=sampler]")).to_have_value("euler")
        paths = kept(page)
        assert "/" in paths
        assert all(path == "/" or path.startswith("/page/") for path in paths)  # no picture, and nothing of the API
    context.close()


def test_a_browser_that_keeps_the_page_is_asked_for_a_new_token(browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()

    def let_in(page: Page, server: RunningServer, token: str) -> None:
        page.goto(server.url.replace("//", f"//anyone:{token}@") + "/openapi.json")
        page.goto(server.url)
        expect(page.locator("#model")).to_have_text(MODEL, timeout=SECONDS)
        kept(page)

    with running_server("--threads", 1, "--token", "first") as first:
        let_in(page, first, "first")
        end(first)
    with back(first, "--token", "second") as second:
        with page.expect_response(lambda response: response.status == 401) as refusal, pytest.raises(Error):
            page.goto(second.url)
        assert not refusal.value.from_service_worker  # so that the browser asks
        let_in(context.new_page(), second, "second")  # the other one may still be on its way to the browser's refusal
    context.close()
