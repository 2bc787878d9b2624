"""What is tried again: earlier prompts, and the seed of a picture."""

import json

from playwright.sync_api import Page, expect

from browsing import reload


def draw(page: Page, prompt: str) -> None:
    with page.expect_response("**/api/jobs"):
        page.get_by_label("Prompt", exact=True).fill(prompt)
        page.get_by_role("button", name="Draw").click()
    expect(page.locator("#picture")).to_have_attribute("alt", f"{prompt}, seed 7")


def test_earlier_prompts_are_taken_again_over_a_reload_and_forgotten(page: Page) -> None:
    page.evaluate("prompts => localStorage.setItem('pocket-diffusion prompts', prompts)", json.dumps(["dunes"] * 40))
    page.get_by_label("Seed").fill("7")
    draw(page, "a lake")
    draw(page, "a beach")
    draw(page, "a lake")
    reload(page)
    page.get_by_text("Earlier prompts").click()
    prompts = page.locator("#prompts button")
    expect(prompts.nth(0)).to_have_text("a lake")
    expect(prompts.nth(1)).to_have_text("a beach")
    expect(prompts.nth(2)).to_have_text("dunes")
    expect(prompts).to_have_count(30)  # the oldest have gone
    prompts.nth(1).click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a beach")
    page.get_by_role("button", name="Forget them").click()
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    expect(page.get_by_text("Earlier prompts")).to_be_hidden()


def test_the_seed_of_a_picture_is_kept_and_let_go(page: Page) -> None:
    seed = page.get_by_label("Seed")
    seed.fill("7")
    draw(page, "a lake")
    page.get_by_role("button", name="New seeds").click()
    expect(seed).to_have_value("")
    page.get_by_role("button", name="Keep the seed").click()
    expect(seed).to_have_value("7")
