// The models that there are, of which one is chosen: this browser begins with the last one.

import { readAdapters, readModel, readModels, readSamplers } from "./server.js";

const KEPT = "pocket-diffusion model";

export class Models {
  /**
   * `list` is the element to choose in, `row` holds it where there are several, and `line` says what the chosen one is.
   * `onModel` is called with {model, choices, adapters, isDefault} of that, `onError` where it cannot be had.
   */
  constructor({ list, row, line, onModel, onError }) {
    Object.assign(this, { list, row, line, onModel, onError });
    list.onchange = () => this.choose().catch((error) => {
      list.value = this.chosen;
      onError(error);
    });
  }

  async load() {
    const [{ default: usual, names }, choices] = await Promise.all([readModels(), readSamplers()]);
    Object.assign(this, { usual, choices, areSeveral: names.length > 1 });
    const last = localStorage.getItem(KEPT);
    this.list.replaceChildren(...names.map((name) => new Option(name)));
    this.list.value = names.includes(last) ? last : usual;
    await this.choose();
    this.row.hidden = !this.areSeveral; // only now: the page begins with one model
  }

  /** Take the model that the list shows, unless another is chosen meanwhile. */
  async choose() {
    const name = this.list.value;
    const [model, adapters] = await Promise.all([readModel(name), readAdapters(name)]);
    if (this.list.value !== name) return;
    this.chosen = name;
    const isDefault = name === this.usual;
    if (isDefault) localStorage.removeItem(KEPT);
    else localStorage.setItem(KEPT, name);
    this.line.textContent = `${this.areSeveral ? "" : `${name}, `}${model.width}\u00a0×\u00a0${model.height}`;
    this.onModel({ model, choices: this.choices, adapters, isDefault });
  }
}
