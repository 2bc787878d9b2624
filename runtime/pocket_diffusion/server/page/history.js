// The prompts that were drawn, to be had again: kept by the browser across tabs and restarts.

import { button } from "./dom.js";

const KEY = "pocket-diffusion prompts";
const MOST = 30; // the oldest go first

export class History {
  /** `place` is shown where there are any in `list`; `onChoose` is called with a prompt that was clicked. */
  constructor({ place, list, onChoose }) {
    Object.assign(this, { place, list, onChoose });
    this.show();
  }

  get prompts() {
    return JSON.parse(localStorage.getItem(KEY) ?? "[]");
  }

  /** Put a prompt in front. */
  add(prompt) {
    this.keep([prompt, ...this.prompts.filter((each) => each !== prompt)].slice(0, MOST));
  }

  clear() {
    this.keep([]);
  }

  keep(prompts) {
    try {
      localStorage.setItem(KEY, JSON.stringify(prompts));
    } catch {
      // There is no room: the list stays as it was.
    }
    this.show();
  }

  show() {
    this.place.hidden = !this.prompts.length;
    this.list.replaceChildren(...this.prompts.map((prompt) => {
      const item = document.createElement("li");
      item.append(Object.assign(button(prompt, () => this.onChoose(prompt)), { title: prompt }));
      return item;
    }));
  }
}
