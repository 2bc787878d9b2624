"""The page while its server is away: what it says, what it still does, and what it finds again."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Error, Page, expect

from browsing import ENDLESS
from serving import RunningServer, reserved_port, running_server

AWAY = "The server does not answer; trying again"
MODEL = "landscapes, 128 × 128"


Start = Callable[..., AbstractContextManager[RunningServer]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return what starts servers that follow one another at one address."""
    with reserved_port() as port:
        yield partial(running_server, "--threads", 1, "--port", port)


def end(server: RunningServer) -> None:
    server.process.kill()
    server.process.wait()


def begin_endless(page: Page) -> None:
    page.get_by_text("Settings", exact=True).click()
    for label, value in ENDLESS.items():
        page.get_by_label(label, exact=True).fill(str(value))
    page.get_by_label("Prompt", exact=True).fill("a lake")
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#line")).to_have_text(re.compile("Step"))


def test_a_drawing_that_a_server_lost_is_said_and_cancelled_while_that_is_away(
    new_context: Callable[..., BrowserContext], start: Start
) -> None:
    page = new_context(service_workers="block").new_page()
    with start() as first:
        page.goto(first.url)
        begin_endless(page)
        end(first)
        expect(page.locator("#line")).to_have_text(AWAY)
        expect(page.locator("#status")).to_have_text(AWAY)
        assert Axe().run(page).violations_count == 0
        page.get_by_role("button", name="Draw").click()
        expect(page.locator("#upcoming")).to_have_text("1 more follows")
    with start() as second:
        expect(page.locator("#error")).to_have_text(
            "The drawing is lost: the server does not know it any more. Draw it again. 1 more was not drawn."
        )
        page.get_by_role("button", name="Draw").click()
        expect(page.locator("#line")).to_have_text(re.compile("Step"))
        end(second)
        expect(page.locator("#line")).to_have_text(AWAY)
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#line")).to_have_text("Cancelled: the server ends what nobody follows")


def test_a_drawing_is_found_again_by_a_browser_that_was_cut_off(page: Page) -> None:
    page.evaluate(
        "() => void (EventSource = class extends EventSource { constructor(u) { window.events = super(u); } })"
    )
    begin_endless(page)
    page.context.set_offline(True)  # which leaves what is open already
    page.evaluate("events.dispatchEvent(new Event('error'))")
    expect(page.locator("#line")).to_have_text(AWAY)
    page.context.set_offline(False)
    expect(page.locator("#line")).to_have_text(re.compile("Step"))
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#line")).to_have_text("Cancelled: the drawing was cancelled")


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


def test_the_page_opens_without_its_server_and_goes_on_once_that_is_back(
    new_context: Callable[..., BrowserContext], start: Start
) -> None:
    page = new_context().new_page()
    with start() as first:
        page.goto(first.url)
        kept(page)
        page.get_by_text("Settings", exact=True).click()
        page.get_by_label("Steps", exact=True).fill("2")
        page.locator("select[name=sampler]").select_option("euler")
        end(first)
    page.reload()
    expect(page.locator("#line")).to_have_text(AWAY)
    assert Axe().run(page).violations_count == 0
    page.get_by_label("Prompt", exact=True).fill("a lake")
    page.get_by_role("button", name="Draw").click()  # as soon as there is a server
    with start():
        expect(page.locator("#picture")).to_have_attribute("alt", re.compile("a lake, seed"))
        expect(page.locator("[name=steps]")).to_have_value("2")
        expect(page.locator("select[name=sampler]")).to_have_value("euler")
        paths = kept(page)
        assert "/" in paths
        assert all(path == "/" or path.startswith("/page/") for path in paths)  # no picture, and nothing of the API


def test_a_browser_that_keeps_the_page_is_asked_for_a_new_token(
    new_context: Callable[..., BrowserContext], start: Start
) -> None:
    context = new_context()
    page = context.new_page()

    def let_in(page: Page, server: RunningServer, token: str) -> None:
        page.goto(server.url.replace("//", f"//anyone:{token}@") + "/openapi.json")
        page.goto(server.url)
        expect(page.locator("#model")).to_have_text(MODEL)
        kept(page)

    with start("--token", "first") as first:
        let_in(page, first, "first")
        end(first)
    with start("--token", "second") as second:
        with page.expect_response(lambda response: response.status == 401) as refusal, pytest.raises(Error):
            page.goto(second.url)
        assert not refusal.value.from_service_worker  # so that the browser asks
        let_in(context.new_page(), second, "second")  # the other one may still be on its way to the browser's refusal
