"""Presets: what the form holds, kept by name in the browser, and styles around its prompt."""

import json

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from browsing import reload

KEY = "pocket-diffusion presets"


@pytest.fixture
def presets(page: Page) -> Page:
    """A page whose presets and settings are unfolded."""
    for folded in ("Presets", "Settings"):
        page.get_by_text(folded, exact=True).click()
    return page


def fill(page: Page, **values: object) -> None:
    for name, value in values.items():
        field(page, name).fill(str(value))


def field(page: Page, name: str) -> Locator:
    return page.locator(f"[form=form][name={name}], #form [name={name}]")


def save(page: Page, name: str, *parts: str) -> None:
    """Save these parts of the form."""
    page.get_by_label("Save the form as").fill(name)
    for part in ("words", "settings"):
        page.locator(f"#preset [name={part}]").set_checked(part in parts)
    page.get_by_role("button", name="Save").click()


def preset(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def test_words_and_settings_are_kept_in_the_browser_and_taken_but_for_the_seed(presets: Page) -> None:
    fill(presets, prompt="a lake", negative_prompt="boats", steps=7, guidance_scale=3.5, seed=1)
    field(presets, "sampler").select_option("dpmpp_2m")
    field(presets, "scheduler").select_option("karras")
    save(presets, "Quick", "words", "settings")
    expect(presets.locator("#preset-line")).to_have_text("Saved: Quick")
    presets.get_by_role("button", name="Back to defaults").click()
    fill(presets, prompt="dunes", negative_prompt="", seed=2, width=64)
    reload(presets)
    presets.get_by_text("Presets", exact=True).click()
    preset(presets, "Quick").click()
    for name, value in (
        ("prompt", "a lake"), ("negative_prompt", "boats"), ("steps", "7"), ("guidance_scale", "3.5"), ("width", ""),
        ("sampler", "dpmpp_2m"), ("scheduler", "karras"), ("seed", "2"),
    ):  # fmt: skip
        expect(field(presets, name)).to_have_value(value)
    preset(presets, "Delete Quick").click()
    expect(presets.get_by_label("Save the form as")).to_be_focused()
    reload(presets)
    presets.get_by_text("Presets", exact=True).click()
    expect(preset(presets, "At sunset")).to_be_visible()
    expect(preset(presets, "Quick")).to_have_count(0)


def test_a_style_is_put_around_the_prompt_and_taken_off(presets: Page) -> None:
    prompt, negative = field(presets, "prompt"), field(presets, "negative_prompt")
    fill(presets, prompt="a painting of {prompt}, bright", negative_prompt="boats")
    save(presets, "Painted", "words")
    fill(presets, prompt="a lake", negative_prompt="houses", steps=3)
    style = preset(presets, "Painted")
    expect(style).to_have_attribute("aria-pressed", "false")
    style.click()
    expect(prompt).to_have_value("a painting of a lake, bright")
    expect(negative).to_have_value("houses, boats")
    expect(style).to_have_attribute("aria-pressed", "true")
    found = Axe().run(presets)
    assert found.violations_count == 0, found.generate_report()
    prompt.fill("a painting of dunes, bright")  # within the style
    style.click()
    expect(prompt).to_have_value("dunes")
    expect(negative).to_have_value("houses")
    expect(style).to_have_attribute("aria-pressed", "false")
    expect(field(presets, "steps")).to_have_value("3")


def test_a_style_without_a_prompt_is_its_own_words(page: Page) -> None:
    page.get_by_text("Presets", exact=True).click()
    style = preset(page, "At sunset")
    style.click()
    expect(field(page, "prompt")).to_have_value("at sunset")
    style.click()
    expect(field(page, "prompt")).to_have_value("")


def test_settings_alone_leave_the_words(presets: Page) -> None:
    fill(presets, prompt="a lake", steps=9)
    save(presets, "Slow", "settings")
    fill(presets, prompt="dunes", steps=2)
    preset(presets, "Slow").click()
    expect(field(presets, "steps")).to_have_value("9")
    expect(field(presets, "prompt")).to_have_value("dunes")


def test_what_cannot_be_saved_is_said(presets: Page) -> None:
    line = presets.locator("#preset-line")
    save(presets, "Nothing")
    expect(line).to_have_text("Tick the words, the settings, or both.")
    save(presets, " ", "words")
    expect(line).to_have_text("A preset needs a name.")
    many = json.dumps([{"name": str(i), "prompt": "a lake"} for i in range(100)])
    presets.evaluate("([key, many]) => localStorage.setItem(key, many)", [KEY, many])
    save(presets, "One more", "words")
    expect(line).to_have_text("There are 100 presets: delete one first.")
    presets.evaluate("localStorage.setItem('filler', 'x'.repeat(5_000_000))")
    fill(presets, prompt="a lake " * 40_000)
    save(presets, "7", "words")
    expect(line).to_have_text("This browser has no room for it: delete other presets, or earlier prompts.")
