"""The page as a place to play: pictures dragged, grids of settings, presets."""

import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect


@pytest.fixture
def quick(page: Page) -> Page:
    """A page whose form asks for little."""
    page.get_by_text("Settings", exact=True).click()
    for label, value in (("Steps", 2), ("Width", 64), ("Height", 64), ("Seed", 7)):
        page.get_by_label(label, exact=True).fill(str(value))
    page.get_by_label("Prompt", exact=True).fill("a lake")
    return page


def draw(page: Page, prompt: str = "a lake") -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#picture")).to_have_attribute("alt", f"{prompt}, seed 7")


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)).convert("RGB"))


def test_a_picture_of_the_gallery_is_dragged_to_be_started_from(quick: Page) -> None:
    draw(quick)
    shown = quick.locator("#picture").evaluate("image => image.src")
    with quick.expect_response(shown) as full:
        quick.evaluate("url => fetch(url)", shown)
    source = quick.get_by_alt_text("The picture to start from")
    quick.drag_and_drop("#gallery img", "#frame")  # which is harmless
    expect(source).to_be_hidden()
    quick.drag_and_drop("#gallery img", "#drop")
    expect(source).to_be_visible()
    with quick.expect_request("**/api/jobs") as asked:
        quick.get_by_role("button", name="Draw", exact=True).click()
    sent = b64decode(asked.value.post_data_json["image"])
    np.testing.assert_array_equal(pixels(sent), pixels(full.value.body()))


def choose(page: Page, axis: str, setting: str, *values: str) -> None:
    """Fill in an axis of the grid: typed, or ticked where there are boxes."""
    group = page.get_by_role("group", name=axis.capitalize(), exact=True)
    group.get_by_label(f"What varies {axis}").select_option(setting)
    if setting in ("Sampler", "Noise levels", "Cache"):
        for value in values:
            group.get_by_label(value, exact=True).check()
    elif values:
        group.get_by_role("textbox").fill(", ".join(values))


@pytest.fixture
def grid(quick: Page) -> Page:
    quick.get_by_text("X/Y grid", exact=True).click()
    return quick


def test_a_grid_of_two_settings_is_drawn_looked_at_and_downloaded(grid: Page) -> None:
    orders: list[dict[str, object]] = []
    grid.on("request", lambda request: orders.append(request.post_data_json) if request.method == "POST" else None)
    choose(grid, "across", "Steps", "1-2", "3")
    choose(grid, "down", "Part of the prompt", "lake", "beach")
    expect(grid.locator("#grid-count")).to_have_text("3 × 2: 6 pictures, of at most 36")
    grid.get_by_role("button", name="Draw the grid").click()
    pictures = grid.locator("#sheet img")
    expect(grid.locator("#line")).to_have_text("The grid is drawn: 6 of 6 pictures")
    with grid.expect_download() as download:
        grid.get_by_role("link", name="Download the grid").click()
    expect(pictures).to_have_count(6)
    assert [(order["steps"], order["prompt"], order["seed"], order["keep"]) for order in orders] == [
        (steps, prompt, 7, False) for prompt in ("a lake", "a beach") for steps in (1, 2, 3)
    ]
    assert Axe().run(grid).violations_count == 0
    with Image.open(download.value.path()) as sheet:
        sheet.verify()  # its checksums too
    with Image.open(download.value.path()) as sheet:
        assert sheet.info["Description"] == (
            "Across: Steps: 1; Steps: 2; Steps: 3. Down: lake; beach. Prompt: a lake. Seed: 7."
        )
        assert sheet.width == 4 * (64 + 8)
        corner = pictures.last.evaluate(
            "async image => [...new Uint8Array(await (await fetch(image.src)).arrayBuffer())]"
        )
        box = (3 * 72, sheet.height - 72, 3 * 72 + 64, sheet.height - 8)
        np.testing.assert_array_equal(np.asarray(sheet.crop(box).convert("RGB")), pixels(bytes(corner)))
    expect(grid.locator("#gallery li")).to_have_count(0)  # which a grid does not flood
    grid.get_by_role("button", name="Steps: 3, beach").click()
    expect(grid.locator("#picture")).to_have_attribute("alt", "a beach, seed 7")
    expect(grid.get_by_role("button", name="Use its settings")).to_be_focused()
    expect(grid.locator("#gallery li")).to_have_count(1)
    grid.get_by_role("button", name="Use its settings").click()
    expect(grid.get_by_label("Steps", exact=True)).to_have_value("3")
    grid.get_by_role("button", name="Show the grid").click()
    expect(pictures).to_have_count(6)
    grid.get_by_role("button", name="Close the grid").click()
    expect(grid.locator("#sheet")).to_be_hidden()


def test_values_that_are_ticked_are_drawn_and_refused_ones_say_why(grid: Page) -> None:
    grid.get_by_label("Seed").fill("")
    choose(grid, "across", "Sampler", "Euler", "DDIM")
    choose(grid, "down", "Cache", "none", "reuse:3")  # which two steps are too few for
    grid.get_by_role("button", name="Draw the grid").click()
    expect(grid.locator("#line")).to_have_text("The grid is drawn: 2 of 4 pictures")
    for cell in grid.locator("#sheet tbody tr").nth(1).locator("td").all():
        expect(cell).to_have_text(re.compile("cache.* steps"))
    pictures = grid.locator("#sheet img").all()
    assert [each.get_attribute("alt") for each in pictures] == [
        "Sampler: DDIM, Cache: none",
        "Sampler: Euler, Cache: none",
    ]


def test_a_grid_is_cancelled_and_no_reload_goes_on_with_it(grid: Page) -> None:
    grid.get_by_label("Width", exact=True).fill("1024")
    grid.get_by_label("Height", exact=True).fill("1024")
    choose(grid, "across", "Steps", "150", "149", "148")
    grid.get_by_role("button", name="Draw the grid").click()
    expect(grid.locator("#upcoming")).to_have_text("2 more follow")
    grid.get_by_role("button", name="Draw the grid").click()
    expect(grid.locator("#grid-error")).to_have_text("A grid is being drawn: wait for it, or cancel it.")
    expect(grid.locator("#line")).to_have_text(re.compile("Step"))
    assert grid.evaluate("Object.keys(sessionStorage).filter((key) => /job|upcoming/.test(key))") == []
    grid.get_by_role("button", name="Cancel").click()
    expect(grid.locator("#line")).to_have_text("Cancelled: 0 of 3 pictures are drawn")
    grid.get_by_label("Steps", exact=True).fill("150")
    grid.get_by_role("button", name="Draw", exact=True).click()
    expect(grid.locator("#frame[aria-busy]")).to_be_visible()
    grid.get_by_role("button", name="Draw the grid").click()  # which waits for the drawing
    expect(grid.locator("#upcoming")).to_have_text("3 more follow")
    grid.get_by_role("button", name="Cancel").click()
    expect(grid.locator("#line")).to_have_text("Cancelled: the drawing was cancelled")
    expect(grid.locator("#sheet")).to_be_hidden()


def test_what_is_wrong_with_a_grid_is_said(grid: Page) -> None:
    for setting, values, fault in (
        ("nothing", (), "Choose what varies across."),
        ("Steps", (), "Steps: fill in values, with commas between them."),
        ("Steps", ("1-37",), "Steps: 1-37 has more than 36 values."),
        ("Steps", ("5-1",), "Steps: 5-1 runs backwards; the smaller number comes first."),
        ("Steps", ("151",), "Steps: 151 is not between 1 and 150."),
        ("Steps", ("2.5",), "Steps: 2.5 is no whole number."),
        ("Guidance", ("much",), "Guidance: much is no number."),
        ("Sampler", (), "Sampler: tick values."),
        ("Part of the prompt", ("boat",), "Prompt: “boat” is not in the prompt; the first value is looked for in it."),
    ):
        choose(grid, "across", setting, *values)
        grid.get_by_role("button", name="Draw the grid").click()
        expect(grid.locator("#grid-error")).to_have_text(fault)
    choose(grid, "across", "Steps", "1-10")
    for setting, values, fault in (
        ("Steps", ("1",), "Choose different settings for across and down."),
        ("Guidance", ("1-4",), "40 pictures are too many: at most 36. Take fewer values."),
    ):
        choose(grid, "down", setting, *values)
        grid.get_by_role("button", name="Draw the grid").click()
        expect(grid.locator("#grid-error")).to_have_text(fault)
    expect(grid.locator("#sheet")).to_be_hidden()
