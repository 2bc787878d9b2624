"""The page in a real browser, as a person uses it."""

import json
import re
from base64 import b64decode
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, Response, Route, expect

from browsing import ENDLESS, reload, wait_until_kept, wait_until_ready
from serving import RunningServer, occupied


def settings(page: Page, **values: object) -> None:
    if page.locator("#settings").get_attribute("open") is None:
        page.get_by_text("Settings", exact=True).click()
    for label, value in values.items():
        page.get_by_label(label, exact=True).fill(str(value))


def draw(page: Page, prompt: str = "a lake", **values: object) -> Image.Image:
    """Have a picture drawn and return it."""
    if values:
        settings(page, **values)
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Draw").click()
    return finished(page)


def finished(page: Page) -> Image.Image:
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    expect(page.locator("#frame:not([aria-busy])")).to_be_visible()
    return fetched(page, page.locator("#picture").evaluate("image => image.src"))


def fetched(page: Page, url: str | None) -> Image.Image:
    """Return a picture that the page shows, which may be its own alone."""
    assert url
    content = page.evaluate("async url => [...new Uint8Array(await (await fetch(url)).arrayBuffer())]", url)
    return Image.open(BytesIO(bytes(content)))


def facts(picture: Image.Image) -> dict[str, Any]:
    return json.loads(picture.text["pocket-diffusion"])


def a_picture(path: Path, colour: str = "red") -> Path:
    Image.new("RGB", (128, 128), colour).save(path)
    return path


def start_from(page: Page, path: Path) -> None:
    """Choose a picture to start from, and wait until it and its mask are there."""
    page.locator("#file").set_input_files(path)
    expect(page.get_by_alt_text("The picture to start from")).to_be_visible()


class Traffic:
    """What a page asks of the server about jobs, and in which order it is answered."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.orders: list[dict[str, Any]] = []
        self.answers: list[tuple[str, int]] = []
        self.urls: list[str] = []
        page.on("response", self._note)

    def _note(self, response: Response) -> None:
        method = response.request.method
        if method in ("POST", "DELETE"):
            self.answers.append((method, response.status))
        if method == "POST":
            self.orders.append(response.request.post_data_json)
        elif "/pictures/" in response.url or method == "DELETE":
            self.urls.append(response.url)

    def wait_until_gone(self, url: str) -> None:
        self.page.evaluate("async url => { while ((await fetch(url, { cache: 'no-store' })).status !== 404); }", url)


def stop_time(page: Page) -> None:
    """Let the page's time pass only where a test runs its clock."""
    page.clock.install(time=0)
    page.clock.pause_at(10**9)  # milliseconds: far from now, since until then it passes


def sketch(page: Page, prompt: str) -> np.ndarray:
    """Wait for the sketch of a prompt and return it."""
    expect(page.locator("#picture.preview")).to_have_attribute("alt", f"A sketch of {prompt}")
    content = page.locator("#picture").evaluate(
        """async image => {
            await image.decode();
            const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
            canvas.getContext("2d").drawImage(image, 0, 0);
            const file = await canvas.convertToBlob();
            return [...new Uint8Array(await file.arrayBuffer())];
        }"""
    )
    return np.asarray(Image.open(BytesIO(bytes(content))).convert("RGB"), float)


def test_a_prompt_is_typed_and_the_picture_seen(page: Page) -> None:
    drawn = draw(page, "a lake under snowy mountains at sunset", Seed=5)
    assert (facts(drawn)["prompt"], facts(drawn)["seed"]) == ("a lake under snowy mountains at sunset", 5)
    expect(page.locator("#picture")).to_have_attribute("alt", "a lake under snowy mountains at sunset, seed 5")
    expect(page.locator("#line")).to_have_text("128 × 128, seed 5")
    assert page.locator("#picture").evaluate("image => image.naturalWidth") == 128


def test_loras_are_put_into_the_prompt_by_a_click(page: Page) -> None:
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("a lake")
    page.get_by_text("LoRAs and embeddings", exact=True).click()
    page.get_by_role("button", name="style").click()
    expect(prompt).to_have_value("a lake <lora:style:1>")
    expect(prompt).to_be_focused()
    page.get_by_role("button", name="Draw").click()
    assert set(facts(finished(page))["lora_sha256"]) == {"style"}


def test_progress_is_watched_and_the_drawing_cancelled(page: Page) -> None:
    draw(page, Steps=2)  # after which the time left is known
    settings(page, **ENDLESS)
    page.get_by_label("Prompt", exact=True).press("Control+Enter")
    expect(page.locator("#line")).to_have_text(re.compile(r"Step \d+ of 150, about \d+ (s|min) left"))
    expect(page.locator("#picture.preview")).to_have_attribute("src", re.compile("^data:image/png"))
    expect(page.locator("#status")).to_have_text(re.compile("Drawing, (0|25|50|75) percent"))
    assert 0 < float(page.get_by_role("progressbar").evaluate("bar => bar.value")) < 1
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#line")).to_have_text("Cancelled: the drawing was cancelled")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    expect(page.get_by_role("button", name="Draw")).to_be_enabled()
    expect(page.locator("#gallery li")).to_have_count(1)  # the first picture, shown again


def test_escape_cancels(page: Page) -> None:
    settings(page, **ENDLESS)
    page.get_by_label("Prompt", exact=True).fill("a lake")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#line")).to_have_text(re.compile("Step"))
    page.keyboard.press("Escape")
    expect(page.locator("#line")).to_have_text("Cancelled: the drawing was cancelled")


def test_a_reload_keeps_form_and_gallery_and_settings_are_used_again(page: Page) -> None:
    first = draw(page, "a beach at noon", Seed=1, Steps=3)
    draw(page, "dunes at night", Seed=2, Steps=4)
    reload(page)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("dunes at night")
    expect(page.locator("#gallery li")).to_have_count(2)
    page.get_by_role("button", name="a beach at noon, seed 1").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("dunes at night")  # a click looks, no more
    page.get_by_role("button", name="Use its settings").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a beach at noon")
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#gallery li")).to_have_count(3)
    np.testing.assert_array_equal(np.asarray(finished(page)), np.asarray(first))


def test_a_picture_that_is_looked_at_while_the_page_loads_stays(page: Page) -> None:
    late: list[Route] = []
    for words in ("a beach", "dunes"):
        draw(page, words, Steps=1, Seed=7)
    wait_until_kept(page)
    page.route("**/api/samplers", lambda route: late.append(route))
    page.reload()
    page.get_by_role("button", name="a beach, seed 7").click()
    late[0].continue_()
    wait_until_ready(page)
    expect(page.locator("#picture")).to_have_attribute("alt", "a beach, seed 7")


def test_a_change_while_the_page_loads_keeps_what_was_chosen(page: Page) -> None:
    late: list[Route] = []
    settings(page)
    sampler = page.locator("select[name=sampler]")
    sampler.select_option("euler")
    page.route("**/api/gallery", lambda route: late.append(route))
    page.reload()
    expect(page.locator("#model")).not_to_be_empty()
    page.get_by_label("Prompt", exact=True).fill("a lake")
    late[0].continue_()
    wait_until_ready(page)
    expect(sampler).to_have_value("euler")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a lake")


@pytest.mark.parametrize("has_room", [True, False])
def test_a_reload_finds_the_drawing_going_on_and_what_follows(
    page: Page, server: RunningServer, has_room: bool
) -> None:
    with occupied(server):
        if not has_room:
            page.evaluate(
                """() => {
                    const set = Storage.prototype.setItem;
                    Storage.prototype.setItem = function (key, text) {
                        if (!key.endsWith("upcoming") || text.length < 9) set.call(this, key, text);
                        else throw new DOMException("", "QuotaExceededError");
                    };
                }"""
            )
        settings(page, Steps=2, Width=256, Height=256)
        page.get_by_label("Prompt", exact=True).fill("a lake")
        page.get_by_role("button", name="Draw").click()
        expect(page.locator("#line")).to_have_text(re.compile("Waiting for one drawing"))
        page.get_by_role("button", name="Draw").click()
        expect(page.locator("#upcoming")).to_have_text("1 more follows")
        reload(page)
        expect(page.get_by_role("button", name="Cancel")).to_be_visible()
        expect(page.locator("#line")).to_have_text(re.compile("Waiting for one drawing"))
        expect(page.locator("#upcoming")).to_have_text("1 more follows")
    assert finished(page).size == (256, 256)
    if has_room:
        expect(page.locator("#gallery li")).to_have_count(2)
    else:
        expect(page.locator("#error")).to_have_text("1 more was too large to outlive the reload; draw it again.")


def test_several_pictures_go_to_the_gallery(page: Page) -> None:
    draw(page, Pictures=3, Steps=2, Seed=10)
    expect(page.locator("#gallery li")).to_have_count(3)
    expect(page.get_by_role("button", name="a lake, seed 12")).to_be_visible()


def test_a_picture_that_is_dropped_is_redrawn(page: Page, tmp_path: Path) -> None:
    content = list(a_picture(tmp_path / "red.png").read_bytes())
    transfer = page.evaluate_handle(
        """content => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(content)], "red.png", { type: "image/png" }));
            return transfer;
        }""",
        content,
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    expect(page.get_by_alt_text("The picture to start from")).to_be_visible()
    page.get_by_label("How much to change").fill("0.4")
    made = facts(draw(page, Steps=5))
    assert (made["task"], made["strength"]) == ("image-to-image", 0.4)


@pytest.mark.parametrize("kind", ["guides_itself", "follows_instructions", "repaints"])
def test_what_a_kind_of_model_does_not_take_is_neither_offered_nor_sent(page: Page, tmp_path: Path, kind: str) -> None:
    sent = []

    def answer(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), kind: True, "image_guidance_scale": 1.5})

    def note(route: Route) -> None:
        sent.append(route.request.post_data_json)
        route.fulfill(status=422, json={"error": {"message": "not drawn here"}})

    if kind == "guides_itself":
        page.get_by_label("Not in the picture").fill("people")  # which the page keeps over the reload
    page.route("**/api/models/*", answer)
    page.route("**/api/jobs", note)
    reload(page)
    page.locator("#file").set_input_files(a_picture(tmp_path / "red.png"))
    instructed = kind == "follows_instructions"
    for hidden in (page.locator("#strength"), page.locator("#mask"), page.get_by_label("Brush")):
        expect(hidden).to_be_visible(visible=not instructed)
    settings(page, **({"Picture guidance": 2} if instructed else {}))
    page.get_by_label("Prompt", exact=True).fill("a lake")
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("alert")).to_have_text("not drawn here")
    (order,) = sent
    assert ("negative_prompt" in order) == (kind != "guides_itself")
    assert order.get("image_guidance_scale") == (2 if instructed else None)
    assert "strength" not in order  # the server's own, by the steps and the mask
    if instructed:
        return
    expect(page.locator("#strength-value")).to_have_text("0.80")
    page.locator("#mask").press("Space")
    expect(page.locator("#strength-value")).to_have_text("1.00")
    page.get_by_label("How much to change").fill("0.4")
    page.get_by_role("button", name="Clear the mask").click()
    with page.expect_request("**/api/jobs") as asked:
        page.get_by_role("button", name="Draw").click()
    assert asked.value.post_data_json["strength"] == 0.4


def test_a_cache_is_chosen_and_the_servers_own_gives_way(page: Page) -> None:
    usual = "reuse:2"
    page.route("**/api/models/*", lambda route: route.fulfill(json={**route.fetch().json(), "cache": usual}))
    reload(page)
    chosen = page.locator("select[name=cache]")
    expect(chosen.locator("option").first).to_have_text("the server's own (reuse:2)")
    for cache in ("none", "reuse:3"):
        settings(page, Steps=8)
        chosen.select_option(cache)
        assert facts(draw(page))["cache"] == cache
        page.get_by_role("button", name="Back to defaults").click()
        expect(chosen).to_have_value("")
        page.get_by_role("button", name="Use its settings").click()
        expect(chosen).to_have_value(cache)
    usual = "reuse:3"  # as the picture has it, which is then left to the server
    reload(page)
    page.get_by_role("button", name="Use its settings").click()
    expect(chosen).to_have_value("")
    settings(page, Steps=4)
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#gallery li")).to_have_count(3)
    expect(page.locator("#error")).to_be_empty()


def test_what_is_painted_over_is_drawn_anew(page: Page, tmp_path: Path) -> None:
    dunes = draw(page, "dunes at night", Seed=7)
    dunes.save(tmp_path / "dunes.png")
    page.locator("#file").set_input_files(tmp_path / "dunes.png")
    page.get_by_label("Brush").fill("20")
    page.get_by_role("button", name="Paint on the stage").click()
    mask = page.locator("#mask")
    mask.hover()  # which waits until it stands still
    box = mask.bounding_box()
    assert box
    mask.hover(position={"x": box["width"] * 0.2, "y": box["height"] * 0.1})
    page.mouse.down()
    mask.hover(position={"x": box["width"] * 0.2, "y": box["height"] * 0.9})
    page.mouse.up()
    page.get_by_label("How much to change").fill("1")
    drawn = draw(page, "a lake at noon", Steps=10, Seed=3)
    assert facts(drawn)["task"] == "inpainting"
    off = np.abs(np.asarray(drawn, float) - np.asarray(dunes)).mean(2)
    assert off[16:112, 8:40].mean() > 4 * off[:, 72:].mean()  # painted on the left, kept on the right


def test_a_mask_is_painted_and_cleared_by_keyboard(page: Page, tmp_path: Path) -> None:
    start_from(page, a_picture(tmp_path / "red.png"))
    page.locator("#mask").focus()
    for key in ("ArrowLeft", "ArrowUp", "Space", "Shift+ArrowRight"):
        page.keyboard.press(key)
    page.get_by_label("How much to change").fill("1")
    assert facts(draw(page, Steps=2))["task"] == "inpainting"
    page.get_by_role("button", name="Clear the mask").click()
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#gallery li")).to_have_count(2)
    assert facts(finished(page))["task"] == "image-to-image"
    page.get_by_role("button", name="Remove the picture").click()
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#gallery li")).to_have_count(3)
    assert facts(finished(page))["task"] == "text-to-image"


def test_a_drawn_picture_is_started_from_and_downloaded(page: Page) -> None:
    drawn = draw(page, Seed=4, Steps=5)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "4.png"
    with Image.open(download.value.path()) as saved:
        assert facts(saved) == facts(drawn)
    page.get_by_role("button", name="Start from it").click()
    expect(page.get_by_alt_text("The picture to start from")).to_be_visible()


def test_of_two_pictures_the_last_is_started_from(page: Page, tmp_path: Path) -> None:
    page.evaluate(
        """() => {
            const { prototype } = HTMLImageElement;
            const { decode } = prototype;
            prototype.decode = function () { // the first takes long
                prototype.decode = decode;
                window.late = new Promise((resolve) => (window.release = resolve)).then(() => decode.call(this));
                return window.late;
            };
        }"""
    )
    page.locator("#file").set_input_files(a_picture(tmp_path / "red.png"))
    page.locator("#file").set_input_files(a_picture(tmp_path / "blue.png", "blue"))
    expect(page.get_by_alt_text("The picture to start from")).to_be_visible()
    page.evaluate("async () => { release(); await late; }")
    with page.expect_request("**/api/jobs") as asked:
        page.get_by_label("Prompt", exact=True).fill("a lake")
        page.get_by_role("button", name="Draw").click()
    sent = Image.open(BytesIO(b64decode(asked.value.post_data_json["image"])))
    assert sent.getpixel((0, 0)) == (0, 0, 255)


def test_of_two_models_the_last_is_taken(page: Page) -> None:
    late: list[Route] = []
    names = ["landscapes", "other"]
    page.route("**/api/models", lambda route: route.fulfill(json={"default": "landscapes", "names": names}))
    page.route("**/api/models/other", lambda route: late.append(route))
    page.route("**/api/adapters?model=other", lambda route: route.fulfill(json={"loras": [], "embeddings": []}))
    reload(page)
    with page.expect_request("**/api/models/other"):
        page.locator("#models").select_option("other")
    with page.expect_response("**/api/models/landscapes") as answer:
        page.locator("#models").select_option("landscapes")
    with page.expect_response("**/api/models/other"):
        late[0].fulfill(json={**answer.value.json(), "name": "other", "width": 512})
    settings(page)
    expect(page.get_by_label("Width", exact=True)).to_have_attribute("placeholder", "128")
    with page.expect_request("**/api/jobs") as asked:
        page.get_by_label("Prompt", exact=True).fill("a lake")
        page.get_by_role("button", name="Draw").click()
    assert "model" not in asked.value.post_data_json


def test_a_picture_that_the_browser_cannot_keep_is_shown_and_that_is_said(page: Page) -> None:
    page.evaluate(
        """() => {
            IDBObjectStore.prototype.add = () => {
                throw new DOMException("", "QuotaExceededError");
            };
        }"""
    )
    draw(page, Steps=1)
    expect(page.locator("#gallery li")).to_have_count(1)
    expect(page.locator("#gallery-note")).to_have_text(re.compile("no room for more"))
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("#gallery-note")).to_be_empty()


def test_what_is_wrong_is_said(page: Page, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no picture")
    page.locator("#file").set_input_files(tmp_path / "no.png")
    expect(page.locator("#source-error")).to_have_text("no.png is no picture that can be shown.")
    settings(page, Width=1024, Height=1032)
    page.get_by_label("Prompt", exact=True).fill("a lake")
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#error")).to_have_text(re.compile("1024x1032 is too large; at most 1,048,576 pixels"))


def test_a_wrong_number_that_is_folded_away_is_shown(page: Page) -> None:
    settings(page, Width=65)
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("Prompt", exact=True).fill("a lake")
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_label("Width", exact=True)).to_be_focused()


def test_a_second_click_while_sending_draws_no_second_picture(page: Page) -> None:
    page.get_by_label("Prompt", exact=True).fill("a lake")
    page.evaluate("for (let i = 0; i < 3; i++) document.getElementById('form').requestSubmit()")
    finished(page)  # and whatever followed it
    expect(page.locator("#gallery li")).to_have_count(1)


def test_a_drawing_that_the_server_forgot_is_no_lasting_error(page: Page) -> None:
    draw(page, Steps=1)
    page.evaluate("sessionStorage.setItem('pocket-diffusion job', '\"forgotten\"')")
    reload(page)
    expect(page.locator("#error")).to_have_text(re.compile("The drawing is lost"))
    reload(page)
    finished(page)  # the gallery's last picture is shown
    expect(page.locator("#error")).to_be_hidden()


def test_what_is_cancelled_while_it_is_sent_is_cancelled(page: Page) -> None:
    settings(page, **ENDLESS)
    page.get_by_label("Prompt", exact=True).fill("a lake")
    page.evaluate("document.getElementById('form').requestSubmit(); document.getElementById('cancel').click()")
    expect(page.locator("#line")).to_have_text("Cancelled: the drawing was cancelled")


def test_words_are_sketched_as_they_are_typed_and_drawn_by_the_same_seed(page: Page) -> None:
    traffic = Traffic(page)
    page.evaluate("() => void (Math.random = () => 0.5)")  # by which the seed is chosen
    page.get_by_label("Sketch while I type").check()
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.press_sequentially("a lake at noon")
    lake = sketch(page, "a lake at noon")
    expect(page.locator("#line")).to_have_text("A sketch in 6 steps")
    expect(prompt).to_be_focused()
    expect(page.get_by_role("link", name="Download")).to_be_hidden()
    expect(page.locator("#status")).to_be_empty()
    prompt.fill("dunes at night")
    dunes = sketch(page, "dunes at night")
    page.get_by_role("button", name="Draw").click()
    drawn = finished(page)
    off = [np.abs(np.asarray(drawn, float) - picture).mean() for picture in (lake, dunes)]
    assert off[1] < off[0] / 2  # the sketch of these words, carried out
    *sketched, asked = traffic.orders
    assert {order["steps"] for order in sketched} == {6}
    assert "steps" not in asked
    assert {order["seed"] for order in traffic.orders} == {facts(drawn)["seed"]}
    expect(page.locator("#gallery li")).to_have_count(1)
    *gone, kept = dict.fromkeys(traffic.urls)
    assert kept == page.locator("#picture").evaluate("image => image.src")
    assert len(gone) >= 4  # of each sketch, the job and the picture
    for url in gone:
        traffic.wait_until_gone(url)


def test_the_seed_of_sketches_outlives_a_reload_and_gives_way_to_the_forms(page: Page) -> None:
    traffic = Traffic(page)
    box, prompt = page.get_by_label("Sketch while I type"), page.get_by_label("Prompt", exact=True)
    box.check()
    prompt.fill("a lake")
    sketch(page, "a lake")
    reload(page)
    expect(box).to_be_checked()
    prompt.fill("dunes")
    sketch(page, "dunes")
    settings(page, Seed=5, Steps=3)
    expect(page.locator("#line")).to_have_text("A sketch in 3 steps")
    first, second, last = (order["seed"] for order in (traffic.orders[0], traffic.orders[1], traffic.orders[-1]))
    assert first == second != last == 5


def test_a_newer_sketch_starts_when_the_older_is_gone(page: Page, server: RunningServer) -> None:
    traffic = Traffic(page)
    settings(page, Width=512, Height=512)
    page.get_by_label("Sketch while I type").check()
    with occupied(server):  # so that the older sketch is not done before it is given up
        with page.expect_response("**/api/jobs"):
            page.get_by_label("Prompt", exact=True).fill("a lake")
        with page.expect_response(lambda answer: answer.request.method == "DELETE" and answer.status == 200):
            page.get_by_role("button", name="Back to defaults").click()
    assert sketch(page, "a lake").shape == (128, 128, 3)
    older, *given_up, newer = traffic.answers[:4]
    assert older == newer == ("POST", 202)
    assert sorted(given_up) == [("DELETE", 200), ("DELETE", 202)]


def test_nothing_is_sketched_while_that_is_switched_off(page: Page) -> None:
    traffic = Traffic(page)
    stop_time(page)
    box, prompt = page.get_by_label("Sketch while I type"), page.get_by_label("Prompt", exact=True)
    prompt.fill("a beach")
    page.clock.run_for(1000)
    box.check()
    page.clock.run_for(1000)
    sketch(page, "a beach")
    box.uncheck()
    expect(page.get_by_text("Say what to draw")).to_be_visible()
    expect(page.locator("#line")).to_be_hidden()
    prompt.fill("a lake")
    page.clock.run_for(1000)
    draw(page, "dunes", Steps=2)
    assert [order["prompt"] for order in traffic.orders] == ["a beach", "dunes"]
    assert "seed" not in traffic.orders[1]


def test_no_sketch_disturbs_a_drawing_or_a_picture_that_is_looked_at(page: Page) -> None:
    traffic = Traffic(page)
    draw(page, "a beach", Steps=2)
    settings(page, **ENDLESS)
    stop_time(page)
    page.get_by_label("Sketch while I type").check()
    page.get_by_label("Prompt", exact=True).fill("a lake")
    page.keyboard.press("Control+Enter")  # before the form has rested
    expect(page.locator("#line")).to_have_text(re.compile("Step"))
    page.get_by_label("Prompt", exact=True).fill("dunes")
    page.clock.run_for(1000)
    page.keyboard.press("Escape")
    expect(page.locator("#line")).to_have_text("Cancelled: the drawing was cancelled")
    page.get_by_label("Prompt", exact=True).fill("a meadow")
    page.get_by_role("button", name="a beach, seed").click()
    page.clock.run_for(1000)
    page.get_by_role("button", name="Use its settings").click()
    page.get_by_label("Prompt", exact=True).fill("mountains")
    page.clock.run_for(1000)
    sketch(page, "mountains")
    assert [order["prompt"] for order in traffic.orders] == ["a beach", "a lake", "mountains"]


def test_a_sketch_that_cannot_be_had_is_said_quietly_and_tried_again(page: Page) -> None:
    refusal = {"error": {"message": "256 drawings are waiting already"}}
    page.route("**/api/jobs", lambda route: route.fulfill(status=429, json=refusal))
    page.get_by_label("Sketch while I type").check()
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("a lake")
    expect(page.locator("#line")).to_have_text("256 drawings are waiting already")
    for read_out in ("#error", "#status"):
        expect(page.locator(read_out)).to_be_empty()
    page.unroute("**/api/jobs")
    prompt.fill("dunes")
    sketch(page, "dunes")


def test_a_picture_to_start_from_and_its_mask_are_sketched_with(page: Page, tmp_path: Path) -> None:
    traffic = Traffic(page)
    page.get_by_label("Sketch while I type").check()
    page.get_by_label("Prompt", exact=True).fill("a lake")
    page.locator("#file").set_input_files(a_picture(tmp_path / "red.png"))
    expect(page.locator("#line")).to_have_text("A sketch in 4 steps")  # 0.8 of the way
    page.get_by_label("How much to change").fill("0.05")
    expect(page.locator("#line")).to_have_text("A sketch in 1 step")
    assert traffic.orders[-1]["steps"] == 20
    page.get_by_label("How much to change").fill("1")
    expect(page.locator("#line")).to_have_text("A sketch in 6 steps")
    with page.expect_request("**/api/jobs") as asked:
        page.locator("#mask").press("Space")
    assert "mask" in asked.value.post_data_json


def test_a_prompt_is_text_and_never_markup(page: Page) -> None:
    prompt = "<img src=x onerror=\"document.title='owned'\">"
    draw(page, prompt, Steps=1)
    expect(page.locator("#picture")).to_have_attribute("alt", re.compile("^<img src=x"))
    reload(page)
    expect(page.locator("#gallery li")).to_have_count(1)
    assert page.title() == "Pocket Diffusion"


@pytest.mark.parametrize(("scheme", "phone"), [("light", False), ("dark", True)], ids=["desktop", "phone"])
def test_nothing_keeps_people_out(open_page: Callable[..., Page], tmp_path: Path, scheme: str, phone: bool) -> None:
    desktop, tablet = {"width": 1440, "height": 900}, {"width": 1024, "height": 768}
    size = {"width": 390, "height": 844} if phone else desktop
    page = open_page(viewport=size, color_scheme=scheme, has_touch=phone)

    def check() -> None:
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    check()
    prompt, sketches = page.get_by_label("Prompt", exact=True), page.get_by_label("Sketch while I type")
    sketches.check()
    prompt.fill("a lake")
    sketch(page, "a lake")
    sketches.uncheck()
    for words in ("a lake with a zeppelin", "dunes"):
        draw(page, words, Steps=2)
    for folded in ("Earlier prompts", "LoRAs and embeddings"):
        page.get_by_text(folded, exact=True).click()
    page.get_by_role("button", name="Compare").click()
    (tmp_path / "no.png").write_text("no picture")
    page.locator("#file").set_input_files(tmp_path / "no.png")
    expect(page.locator("#source-error")).not_to_be_empty()
    check()
    start_from(page, a_picture(tmp_path / "red.png"))
    page.locator("#mask").press("Space")
    check()
    page.get_by_role("button", name="Paint on the stage").click()
    check()
    page.get_by_role("button", name="Remove the picture").click()
    settings(page, **ENDLESS)
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#line")).to_have_text(re.compile("Step"))
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#upcoming")).to_have_text("1 more follows")
    check()
    page.keyboard.press("Escape")
    expect(page.locator("#line")).to_have_text("Cancelled: the drawing was cancelled")
    for screen in () if phone else (desktop, tablet):
        page.set_viewport_size(screen)
        for part in ("#stage", "#gallery li"):
            expect(page.locator(part).first).to_be_in_viewport(ratio=1)
        stage, form = (page.locator(part).bounding_box() for part in ("#stage", "#form"))
        assert stage and form
        assert stage["width"] > 2 * form["width"]
