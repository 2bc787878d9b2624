// The stage: the picture that is looked at, what is going on, and what is said of both.

import { at } from "./dom.js";
import { seedsOf } from "./restore.js";
import { Viewer } from "./viewer.js";

const LARGEST = 4; // times its own size that a small picture is shown at

export class Stage {
  /** `size` returns the width and height of what is drawn; `onLook` is called with the picture that is looked at now, or null. */
  constructor({ size, onLook }) {
    Object.assign(this, { size, onLook });
    this.viewer = new Viewer({ frame: at("frame"), other: at("other"), slider: at("edge"), row: at("comparing") });
    this.looking = null; // the finished picture that was looked at last
    this.isBusy = false; // whether something is drawn
    this.announced = null; // what was read out last
  }

  // What is said.

  /** Show a line without having it read out, as often as it may change. */
  tell(line) {
    at("line").textContent = line;
  }

  /** Have a line read out, if it is a new one. */
  announce(line) {
    if (line !== this.announced) at("status").textContent = this.announced = line;
  }

  /** Show a line, have it read out, and show what is wrong, if anything is. */
  say(line, error = "") {
    this.tell(line);
    at("status").textContent = this.announced = line;
    at("error").textContent = error;
  }

  sayGone() {
    const line = "The server does not answer; trying again";
    this.tell(line);
    this.announce(line);
  }

  // What is shown.

  show(url, alt, [width, height], kinds = "") {
    const picture = at("picture");
    picture.src = url;
    picture.alt = alt;
    picture.className = kinds;
    picture.style.setProperty("--most", `${LARGEST * Math.max(width, height)}px`);
    picture.hidden = false;
    at("empty").hidden = true;
    at("picture-actions").hidden = Boolean(kinds);
    this.stopComparing();
  }

  /** Look at a finished picture ({url, seed, settings}). */
  look(picture) {
    const { url, settings } = (this.looking = picture);
    const seeds = `seed ${seedsOf(picture).join(", variation ")}`;
    this.show(url, `${settings.prompt}, ${seeds}`, [settings.width, settings.height]);
    at("download").href = url;
    at("download").download = `${seedsOf(picture).join("-")}.png`;
    if (!this.isBusy) this.say(`${settings.width} × ${settings.height}, ${seeds}`);
    this.onLook(picture);
  }

  lookAtSketch({ url, prompt, steps }) {
    this.show(url, `A sketch of ${prompt}`, this.size(), "preview sketch");
    this.say("");
    this.tell(`A sketch in ${steps} ${steps === 1 ? "step" : "steps"}`);
    this.onLook(null);
  }

  get showsSketch() {
    return at("picture").classList.contains("sketch");
  }

  /** Look at the last finished picture again, if there is one. */
  showLast() {
    if (this.looking) this.look(this.looking);
    else at("picture").hidden = !(at("empty").hidden = false);
  }

  /** Look at no picture any more. */
  forget() {
    this.looking = null;
    at("picture-actions").hidden = true;
    this.showLast();
    this.onLook(null);
  }

  /** On a phone, what is asked for may fill the window. */
  bringIntoView() {
    const { top, bottom } = at("stage").getBoundingClientRect();
    if (top < 0 || bottom > innerHeight) at("stage").scrollIntoView({ block: "start" });
  }

  // What is drawn.

  begin() {
    if (!this.isBusy) this.bringIntoView();
    this.isBusy = true;
    at("going").hidden = false;
    at("progress").value = 0;
    at("frame").setAttribute("aria-busy", "true");
    this.say("Sending");
  }

  end() {
    this.isBusy = false;
    at("going").hidden = true;
    at("frame").removeAttribute("aria-busy");
  }

  /** Show where a job stands. */
  onView(view) {
    const left = view.seconds_left === null ? "" : `, about ${duration(view.seconds_left)}`;
    at("progress").value = view.steps ? view.step / view.steps : 0;
    if (view.state === "queued") {
      const before = view.position === 1 ? "one drawing" : `${view.position} drawings`;
      const line = view.position ? `Waiting for ${before}` : "Waiting";
      this.tell(`${line}${left}`);
      this.announce(line);
    } else if (view.state === "running") {
      this.tell(view.step ? `Step ${view.step} of ${view.steps}${left}` : "Beginning");
      this.announce(`Drawing, ${Math.floor((4 * view.step) / view.steps) * 25} percent`);
    }
    if (view.preview) this.show(view.preview, "What is drawn so far", this.size(), "preview");
  }

  /** Say how many orders wait for the one that is drawn. */
  tellUpcoming(count) {
    at("upcoming").textContent = count ? `${count} more ${count === 1 ? "follows" : "follow"}` : "";
  }

  // What is looked at beside it.

  /** Lay another picture over the one that is looked at, or take it away again. */
  compare(other) {
    if (this.viewer.isComparing || !other) return this.stopComparing();
    this.viewer.compare(other, at("picture").style.getPropertyValue("--most"));
    at("compare").setAttribute("aria-pressed", "true");
  }

  stopComparing() {
    this.viewer.stop();
    at("compare").setAttribute("aria-pressed", "false");
  }
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s left`;
  return `${Math.round(seconds / 60)} min left`;
}
