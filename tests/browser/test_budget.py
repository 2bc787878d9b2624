"""The page is light, can be installed, and opens where its server is away."""

from playwright.sync_api import Page

MOST_BYTES = 150_000
_BYTES_OF_ALL = """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .filter(({ name }) => name.includes("/page/") || name === location.href)
    .reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0)"""


def test_all_of_the_page_is_light(page: Page) -> None:
    assert 20_000 < page.evaluate(_BYTES_OF_ALL) < MOST_BYTES


def test_the_page_can_be_installed(page: Page) -> None:
    browser = page.context.new_cdp_session(page)
    manifest = browser.send("Page.getAppManifest")
    assert manifest["errors"] == []
    assert manifest["url"].endswith("/page/manifest.webmanifest")
    # A context of its own is incognito, in which nothing is installed.
    errors = [each["errorId"] for each in browser.send("Page.getInstallabilityErrors")["installabilityErrors"]]
    assert errors in ([], ["in-incognito"])
