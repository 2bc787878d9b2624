"""The page as a studio: what is looked at, compared, varied, restored and deleted."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin
from playwright.sync_api import BrowserContext, Page, Route, expect

from browsing import reload, wait_until_ready
from serving import RunningServer, occupied, running_server


def draw(page: Page, prompt: str, count: int) -> None:
    """Draw a small picture, and wait until there are so many."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#gallery li")).to_have_count(count)


@pytest.fixture
def quick(page: Page) -> Page:
    """A page whose form asks for little."""
    page.get_by_text("Settings", exact=True).click()
    for label, value in (("Steps", 2), ("Width", 64), ("Height", 64)):
        page.get_by_label(label, exact=True).fill(str(value))
    return page


def test_words_that_the_model_never_saw_are_told_and_examples_are_known(quick: Page) -> None:
    quick.get_by_label("Prompt", exact=True).fill("a zeppelin above a lake <lora:style:1>")
    expect(quick.locator("#unknown u")).to_have_text(["zeppelin"])
    quick.get_by_role("button", name="Surprise me").click()
    expect(quick.get_by_label("Prompt", exact=True)).not_to_have_value("")
    expect(quick.locator("#unknown")).to_be_empty()


def test_variations_have_the_seed_in_common(quick: Page) -> None:
    quick.get_by_label("Seed").fill("7")
    draw(quick, "a lake", 1)
    quick.get_by_role("button", name="Variations").click()
    expect(quick.locator("#gallery li")).to_have_count(5)
    *varied, first = [image.get_attribute("alt") for image in quick.locator("#gallery img").all()]
    assert first == "a lake, seed 7"
    assert all(alt.startswith("a lake, seed 7, variation ") for alt in varied)
    assert len(set(varied)) == 4


def test_draw_while_drawing_queues_another(quick: Page, server: RunningServer) -> None:
    quick.get_by_label("Prompt", exact=True).fill("a lake")
    with occupied(server):
        quick.get_by_role("button", name="Draw").click()
        expect(quick.locator("#line")).to_have_text(re.compile("Waiting for one drawing"))
        expect(quick.locator("#frame[aria-busy]")).to_be_visible()
        quick.get_by_role("button", name="Draw").click()
        expect(quick.locator("#upcoming")).to_have_text("1 more follows")
    expect(quick.locator("#gallery li")).to_have_count(2)


def test_two_pictures_are_compared(quick: Page) -> None:
    draw(quick, "a lake", 1)
    draw(quick, "dunes", 2)
    quick.get_by_role("button", name="Compare").click()
    expect(quick.locator("#other")).to_be_visible()
    quick.get_by_label("Before and now").fill("100")
    expect(quick.locator("#other")).to_have_css("clip-path", "inset(0px)")
    quick.get_by_role("button", name="Compare").click()
    expect(quick.locator("#other")).to_be_hidden()


def test_a_deleted_picture_does_not_return(quick: Page) -> None:
    late: list[Route] = []
    draw(quick, "a lake", 1)
    quick.route("**/pictures/*", lambda route: late.append(route))
    draw(quick, "dunes", 2)
    quick.get_by_role("button", name="Delete").click()  # before its file is read
    for route in late:
        route.continue_()
    quick.unroute("**/pictures/*")
    expect(quick.locator("#gallery li")).to_have_count(1)
    reload(quick)
    expect(quick.get_by_role("link", name="Download")).to_be_visible()
    expect(quick.locator("#gallery li")).to_have_count(1)


def test_proportions_keep_the_number_of_pixels(quick: Page) -> None:
    quick.get_by_role("button", name="Landscape").click()
    expect(quick.get_by_label("Width", exact=True)).to_have_value("160")
    expect(quick.get_by_label("Height", exact=True)).to_have_value("104")


def test_a_picture_of_the_web_ui_gives_its_settings_back(quick: Page, tmp_path: Path) -> None:
    text = (
        "a beach, (calm:1.2)\nNegative prompt: people\nSteps: 7, Sampler: DPM++ 2M Karras, CFG scale: 3.5, Seed: 42, "
        'Size: 96x64, Model hash: 12ab, Lora hashes: "a: 1, b: 2"'
    )
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", text)
    Image.new("RGB", (96, 64), "red").save(tmp_path / "other.png", pnginfo=info)
    quick.set_input_files("#file", tmp_path / "other.png")
    expect(quick.locator("#restore")).to_be_visible()
    reload(quick)
    quick.locator("#restore").click()
    expect(quick.get_by_label("Prompt", exact=True)).to_have_value("a beach, (calm:1.2)")
    expect(quick.get_by_label("Not in the picture")).to_have_value("people")
    for name, value in (
        ("steps", "7"), ("guidance_scale", "3.5"), ("seed", "42"), ("width", "96"), ("height", "64"),
        ("sampler", "dpmpp_2m"), ("scheduler", "karras"),
    ):  # fmt: skip
        expect(quick.locator(f"[name={name}]")).to_have_value(value)


def test_a_server_that_keeps_pictures_is_the_gallery(
    new_context: Callable[..., BrowserContext], tmp_path: Path
) -> None:
    with running_server("--threads", 1, "--output", tmp_path / "kept") as server:
        for _ in range(2):  # another browser sees it too
            page = new_context().new_page()
            page.goto(server.url)
            wait_until_ready(page)
            if not [*(tmp_path / "kept").iterdir()]:
                page.get_by_text("Settings", exact=True).click()
                page.get_by_label("Steps", exact=True).fill("1")
                draw(page, "a lake", 1)
            expect(page.locator("#gallery li")).to_have_count(1)
        page.get_by_role("button", name="Delete").click()
        expect(page.locator("#gallery li")).to_have_count(0)
        assert [*(tmp_path / "kept").iterdir()] == []
