"""What the tests of the page share."""

from playwright.sync_api import Page

ENDLESS = {"Steps": 150, "Width": 512, "Height": 512, "Pictures": 4}
"""Settings of a drawing that a test will not see the end of, by their labels."""


def wait_until_ready(page: Page) -> None:
    """Wait until the page knows what its server has, and what a reload interrupted: its script ends with that."""
    page.wait_for_function("() => import('/page/page.js')")


def wait_until_kept(page: Page) -> None:
    """Wait until the browser keeps the pictures that the gallery shows, so that a reload finds them."""
    page.wait_for_function(
        """async () => {
            const { Store } = await import("/page/store.js");
            const kept = await (await Store.open()).all();
            return kept.length >= document.querySelectorAll("#gallery li").length;
        }""",
        polling=50,
    )


def reload(page: Page) -> None:
    """Reload a page with all its pictures, and wait until it is ready."""
    wait_until_kept(page)
    page.reload()
    wait_until_ready(page)
