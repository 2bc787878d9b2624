// Presets: what the form holds, kept by name in this browser. Where the prompt of one has {prompt} in it, it is a style,
// which is put around the prompt of the form, and taken off again.

import { button } from "./dom.js";

const KEY = "pocket-diffusion presets";
const MOST = 100;
const OWN = "{prompt}"; // stands for the prompt of the form
const FIRST = [
  { name: "At sunset", prompt: "{prompt} at sunset" },
  { name: "At night", prompt: "{prompt} at night under the stars" },
]; // that every browser begins with: what changes pictures of the embedded model most

export class Presets {
  /**
   * `saving` is a form with a name and what to save under it, `list` shows all presets, and `line` says what became of
   * one. `read` returns what the page's form holds, {prompt, negative_prompt, settings}; `onChoose` is called with those
   * of them that a preset changes.
   */
  constructor({ saving, list, line, read, onChoose }) {
    Object.assign(this, { saving, list, line, read, onChoose });
    saving.addEventListener("submit", (event) => {
      event.preventDefault();
      this.save(new FormData(saving));
    });
    addEventListener("storage", () => this.show()); // another tab may change them
    this.show();
  }

  get presets() {
    return JSON.parse(localStorage.getItem(KEY)) ?? FIRST;
  }

  /** Keep what the form holds, in the place of a preset of that name. */
  save(asked) {
    const name = asked.get("name").trim();
    const { settings, ...words } = this.read();
    const preset = { name, ...(asked.has("words") && words), ...(asked.has("settings") && { settings }) };
    const others = this.presets.filter((each) => each.name !== name);
    if (!name) this.line.textContent = "A preset needs a name.";
    else if (Object.keys(preset).length === 1) this.line.textContent = "Tick the words, the settings, or both.";
    else if (others.length >= MOST) this.line.textContent = `There are ${MOST} presets: delete one first.`;
    else if (this.keep([...others, preset])) {
      this.saving.reset();
      this.line.textContent = `Saved: ${name}`;
    }
  }

  remove({ name }) {
    if (!this.keep(this.presets.filter((each) => each.name !== name))) return;
    this.line.textContent = `Deleted: ${name}`;
    this.saving.elements.name.focus(); // the button that had it is gone
  }

  /** Keep presets, and return whether the browser has room for them. */
  keep(presets) {
    try {
      localStorage.setItem(KEY, JSON.stringify(presets));
    } catch {
      this.line.textContent = "This browser has no room for it: delete other presets, or earlier prompts.";
      return false;
    }
    this.show();
    return true;
  }

  /** Put a preset into the form; a style that is there already is taken off. */
  choose({ name, ...preset }) {
    const { prompt, negative_prompt } = this.read();
    this.line.textContent = "";
    if (!isStyle(preset)) return this.onChoose(preset);
    if (isOn(preset, prompt)) return this.onChoose({ prompt: off(preset.prompt, prompt), negative_prompt: off(preset.negative_prompt, negative_prompt) });
    this.onChoose({ ...preset, prompt: around(preset.prompt, prompt), negative_prompt: around(preset.negative_prompt, negative_prompt) });
  }

  show() {
    this.shown = this.presets.map((preset) => ({ preset, use: button(preset.name, () => this.choose(preset)) }));
    this.list.replaceChildren(...this.shown.map(({ preset, use }) => {
      use.title = preset.prompt ?? "";
      const remove = Object.assign(button("×", () => this.remove(preset)), { className: "quiet", ariaLabel: `Delete ${preset.name}` });
      const item = document.createElement("li");
      item.append(use, remove);
      return item;
    }));
    this.tell();
  }

  /** Say which styles the prompt has. */
  tell() {
    const { prompt } = this.read();
    for (const { preset, use } of this.shown) {
      if (isStyle(preset)) use.ariaPressed = isOn(preset, prompt);
    }
  }
}

const isStyle = ({ prompt }) => Boolean(prompt?.includes(OWN));
const isOn = ({ prompt: style }, prompt) => off(style, prompt) !== prompt;

/** Return a text within a style, which stands behind it where it does not say; without a text, the style's own words. */
function around(style, text) {
  if (!style) return text;
  const whole = (style.includes(OWN) ? style : `${OWN}, ${style}`).replaceAll(OWN, () => text);
  return text ? whole : whole.replace(/^[\s,]+|[\s,]+$/g, "");
}

/** Return a text without the style that is around it; as it is where none is. */
function off(style, text) {
  if (!style) return text;
  const whole = style.includes(OWN) ? style : `${OWN}, ${style}`;
  const inner = text.slice(whole.indexOf(OWN), text.length - (whole.length - whole.lastIndexOf(OWN) - OWN.length));
  return ["", inner].find((each) => around(style, each) === text) ?? text;
}
