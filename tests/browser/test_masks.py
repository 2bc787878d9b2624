"""The mask over the picture to start from: painted, erased, undone, inverted, read from a file, and kept."""

from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect

from browsing import reload


@pytest.fixture(autouse=True)
def source(page: Page, tmp_path: Path) -> None:
    """Start from a picture."""
    Image.new("RGB", (128, 64), "red").save(tmp_path / "red.png")
    page.locator("#file").set_input_files(tmp_path / "red.png")
    expect(page.get_by_alt_text("The picture to start from")).to_be_visible()


def covered(page: Page) -> np.ndarray:
    """Return which of 64 x 32 areas the mask covers."""
    alpha = page.locator("#mask").evaluate(
        """canvas => {
            const paper = new OffscreenCanvas(64, 32).getContext("2d");
            paper.drawImage(canvas, 0, 0, 64, 32);
            return [...paper.getImageData(0, 0, 64, 32).data].filter((_, i) => i % 4 === 3);
        }"""
    )
    return np.array(alpha).reshape(32, 64) > 127


def paint(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw a line with the mouse, between places as shares of the mask's sides."""
    canvas = page.locator("#mask")
    canvas.hover()  # which waits, as each hovering does, until the page stands still
    box = canvas.bounding_box()
    assert box
    first, last = [{"x": box["width"] * x, "y": box["height"] * y} for x, y in (start, end)]
    canvas.hover(position=first)
    page.mouse.down()
    canvas.hover(position=last)
    page.mouse.up()


def test_strokes_are_erased_undone_done_again_and_inverted(page: Page) -> None:
    undo, redo = (page.get_by_role("button", name=name, exact=True) for name in ("Undo", "Redo"))
    expect(undo).to_have_attribute("aria-disabled", "true")
    paint(page, (0.25, 0.1), (0.25, 0.9))
    painted = covered(page)
    assert painted[16, 16]
    assert not painted[16, 48]
    page.get_by_label("Erase").check()
    paint(page, (0.25, 0.1), (0.25, 0.9))
    assert not covered(page).any()
    expect(page.locator("#strength-value")).to_have_text("0.80")  # there is no mask any more
    undo.click()
    np.testing.assert_array_equal(covered(page), painted)
    expect(page.locator("#strength-value")).to_have_text("1.00")
    page.locator("#mask").press("Control+z")
    assert not covered(page).any()
    expect(undo).to_have_attribute("aria-disabled", "true")
    redo.click()
    page.get_by_role("button", name="Invert").click()
    inverted = covered(page)
    assert inverted[16, 48]
    assert not inverted[16, 16]
    expect(redo).to_have_attribute("aria-disabled", "true")  # what was undone has given way


@pytest.mark.parametrize("kind", ["opaque", "transparent"])
def test_a_mask_file_covers_what_is_bright_or_where_it_has_transparency_what_is_opaque(
    page: Page, tmp_path: Path, kind: str
) -> None:
    ground, colour = ("black", "red") if kind == "opaque" else ((255, 255, 255, 0), (0, 0, 0, 255))
    file = Image.new("RGBA" if kind == "transparent" else "RGB", (300, 150), ground)
    ImageDraw.Draw(file).rectangle((0, 0, 149, 149), fill=colour)
    file.save(tmp_path / "mask.png")
    page.get_by_label("Mask from a file").set_input_files(tmp_path / "mask.png")
    expect(page.locator("#strength-value")).to_have_text("1.00")
    np.testing.assert_array_equal(covered(page), np.arange(64) < np.full((32, 1), 32))


def test_what_is_no_mask_is_said(page: Page, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no picture")
    page.get_by_label("Mask from a file").set_input_files(tmp_path / "no.png")
    expect(page.locator("#source-error")).to_have_text("no.png is no picture that can be a mask.")


def test_a_reload_keeps_the_picture_and_its_mask_until_it_is_removed(page: Page) -> None:
    paint(page, (0.25, 0.1), (0.25, 0.9))
    painted = covered(page)
    page.wait_for_function("() => sessionStorage.getItem('pocket-diffusion mask')")
    reload(page)
    expect(page.get_by_alt_text("The picture to start from")).to_be_visible()
    expect(page.locator("#strength-value")).to_have_text("1.00")
    np.testing.assert_array_equal(covered(page), painted)
    page.get_by_role("button", name="Remove the picture").click()
    reload(page)
    expect(page.locator("#model")).to_have_text("landscapes, 128 × 128")
    expect(page.get_by_alt_text("The picture to start from")).to_be_hidden()


def test_a_mask_is_painted_on_the_stage_and_zoomed(page: Page) -> None:
    mask = page.locator("#mask")
    small = mask.bounding_box()
    page.get_by_role("button", name="Paint on the stage").click()
    expect(mask).to_be_focused()
    large = mask.bounding_box()
    frame = page.locator("#frame").bounding_box()
    assert small and large and frame
    assert large["width"] > 1.5 * small["width"]
    assert large["width"] == pytest.approx(min(frame["width"], 2 * frame["height"]), abs=2)
    paint(page, (0.75, 0.1), (0.75, 0.9))
    assert covered(page)[16, 48]
    assert Axe().run(page).violations_count == 0
    page.get_by_label("Zoom").fill("2")
    zoomed = mask.bounding_box()
    assert zoomed
    assert zoomed["width"] == pytest.approx(2 * large["width"], rel=0.05)
    page.get_by_role("button", name="Done").click()
    expect(page.locator("#board")).to_be_hidden()
    assert covered(page)[16, 48]
    expect(page.get_by_label("Zoom")).to_be_hidden()
