// Sketches of the form while it is filled in: drawn in few steps, looked at, and deleted on the server.

import { createJob, deleteJob, followJob, readPicture } from "./server.js";
import { forget, keep, kept } from "./session.js";

const SEED = "pocket-diffusion sketch seed"; // kept while sketches are switched on
const PAUSE = 250; // milliseconds without a change, after which the form is sketched

export class Sketcher {
  /**
   * `box` is the checkbox that switches sketches on. `order` returns the order of a sketch, or null where there is
   * nothing to sketch. `onSketch` is called with each sketch ({url, prompt, steps}), `onError` where there is none, and
   * `onGap` where the server does not answer.
   */
  constructor({ box, order, onSketch, onGap, onError }) {
    Object.assign(this, { box, order, onSketch, onGap, onError });
    this.wanted = new AbortController(); // aborted where the newest sketch is not wanted any more
    this.ended = Promise.resolve(); // once the server has nothing of the sketches that were begun
    this.url = null;
    box.checked = kept(SEED) !== null;
    box.addEventListener("input", () => {
      if (box.checked) keep(SEED, Math.floor(Math.random() * 2 ** 31));
      else forget(SEED);
    });
  }

  /** The seed of all sketches, so that a picture changes with its words alone; null where they are switched off. */
  get seed() {
    return this.box.checked ? kept(SEED) : null;
  }

  /** The form has changed: once it rests, sketch it in place of what is being sketched. */
  change() {
    this.stop();
    if (!this.box.checked) return;
    const { signal } = (this.wanted = new AbortController());
    setTimeout(() => (this.ended = this.ended.then(() => this.sketch(signal))), PAUSE);
  }

  /** Give up what is being sketched, or is about to be. */
  stop() {
    this.wanted.abort();
  }

  async sketch(signal) {
    if (signal.aborted) return;
    try {
      const order = await this.order();
      if (!order || signal.aborted) return;
      const { id } = await createJob(order);
      const cancel = () => deleteJob(id).catch(() => {}); // a server that is away is noticed below
      if (signal.aborted) cancel();
      signal.addEventListener("abort", cancel);
      try {
        const view = await followJob(id, { onGap: this.onGap });
        if (view.state !== "done") throw new Error(view.error);
        const file = await readPicture(view.pictures[0].url);
        if (!signal.aborted) this.show(file, order.prompt, view.steps);
      } finally {
        signal.removeEventListener("abort", cancel);
        await deleteJob(id); // of which only now nothing is left
      }
    } catch (error) {
      if (!signal.aborted) this.onError(error);
    }
  }

  show(file, prompt, steps) {
    URL.revokeObjectURL(this.url);
    this.url = URL.createObjectURL(file);
    this.onSketch({ url: this.url, prompt, steps });
  }
}
