"""Take the README's pictures of the page of a running server: `python docs/make_page_pictures.py URL`."""

import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

FOLDER = Path(__file__).parent / "pictures"
PROMPTS = (
    ("a lighthouse on an island at night under the stars", 2),
    ("two red houses in a meadow with flowers at noon, with a rainbow", 1),
    ("three yellow balloons over hills at sunrise", 1),
    ("a sailboat with a blue sail on the sea at sunset", 4),
    ("a lake under snowy mountains at sunset", 1),
)
PATIENCE = 60_000  # milliseconds


def draw(page: Page, prompt: str, seed: int) -> None:
    """Have a picture drawn and wait for it."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Seed").fill(str(seed))
    page.get_by_role("button", name="Draw").click()
    page.locator(f'#picture[alt="{prompt}, seed {seed}"]').wait_for(timeout=PATIENCE)


def desktop(browser: Browser, url: str, scheme: str) -> Image.Image:
    """Return the page with some pictures drawn."""
    page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
    page.goto(url)
    for prompt, seed in PROMPTS:
        draw(page, prompt, seed)
    page.wait_for_timeout(500)  # the last preview fades
    return Image.open(BytesIO(page.screenshot()))


def tablet(browser: Browser, url: str) -> Image.Image:
    """Return the page on a tablet, with a grid of prompts and steps."""
    page = browser.new_page(viewport={"width": 1180, "height": 820}, has_touch=True)
    page.goto(url)
    page.get_by_label("Prompt", exact=True).fill(PROMPTS[-1][0])
    page.get_by_label("Seed").fill(str(PROMPTS[-1][1]))
    page.get_by_text("X/Y grid", exact=True).click()
    for axis, setting, values in (
        ("across", "Steps", "3, 6, 15"),
        ("down", "Part of the prompt", "sunset, noon, night"),
    ):
        page.get_by_label(f"What varies {axis}").select_option(setting)
        page.get_by_role("textbox", name=f"Values {axis}").fill(values)
    page.get_by_role("button", name="Draw the grid").click()
    page.get_by_role("link", name="Download the grid").wait_for(timeout=PATIENCE)
    return Image.open(BytesIO(page.screenshot()))


def phone(browser: Browser, url: str) -> Image.Image:
    """Return the page on a phone, with a mask painted over a picture."""
    page = browser.new_page(viewport={"width": 390, "height": 844}, device_scale_factor=2, has_touch=True)
    page.goto(url)
    draw(page, *PROMPTS[2])
    page.get_by_role("button", name="Start from it").click()
    page.get_by_label("Brush").fill("25")
    page.get_by_label("Prompt", exact=True).fill("a red balloon over hills at sunrise")
    mask = page.locator("#mask")
    mask.hover()  # which waits, as each hovering does, until the page stands still
    box = mask.bounding_box() or {}
    for along in (0.4, 0.6):
        height = box["height"] * along
        mask.hover(position={"x": box["width"] * 0.3, "y": height})
        page.mouse.down()
        mask.hover(position={"x": box["width"] * 0.7, "y": height})
        page.mouse.up()
    page.evaluate("scrollBy(0, document.getElementById('source').getBoundingClientRect().top - 16)")
    return Image.open(BytesIO(page.screenshot()))


def main() -> None:
    """Write the pictures."""
    chromium = shutil.which("chromium")
    if chromium is None or len(sys.argv) != 2:
        raise SystemExit("needs Debian's package `chromium`, and the URL of a running server")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        schemes = [desktop(browser, sys.argv[1], scheme) for scheme in ("light", "dark")]
        both = Image.new("RGB", (2 * schemes[0].width, schemes[0].height))
        for i, picture in enumerate(schemes):
            both.paste(picture, (i * picture.width, 0))
        both.resize((both.width // 2, both.height // 2), Image.Resampling.LANCZOS).quantize(256).save(
            FOLDER / "page-desktop.png", optimize=True
        )
        tablet(browser, sys.argv[1]).quantize(256).save(FOLDER / "page-tablet.png", optimize=True)
        small = phone(browser, sys.argv[1])
        small.quantize(256).save(FOLDER / "page-phone.png", optimize=True)
        browser.close()


if __name__ == "__main__":
    main()
