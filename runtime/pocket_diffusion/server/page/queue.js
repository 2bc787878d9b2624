// The queue: orders that are drawn one after the other. A reload finds the one that is drawn, and those that wait.

import { createJob, deleteJob, followJob, Unreachable } from "./server.js";
import { forget, keep, kept } from "./session.js";

const JOB = "pocket-diffusion job"; // the id of what is drawn
const UPCOMING = "pocket-diffusion upcoming"; // orders that are not begun, or their number where they are too large to keep
const REFUSED = 422; // the server's answer to an order that cannot be drawn

export class Queue {
  /**
   * `onBegin` and `onJob` are called for each order: at once, and when the server has it; `onEnd` where none follows.
   * `onView` is called with each view of its job, `onGap` where the server does not answer, and `onUpcoming` with the
   * number of orders that wait.
   */
  constructor({ onBegin, onJob, onView, onGap, onEnd, onUpcoming }) {
    Object.assign(this, { onBegin, onJob, onView, onGap, onEnd, onUpcoming });
    this.waiting = [];
    this.sending = null; // the order that is on its way to the server
    this.job = null; // the id of what is drawn, from then on
    this.isStopping = false; // maybe before there is a job to cancel
    this.following = null; // aborted where a job is not to be followed any more
  }

  get isSending() {
    return this.sending !== null;
  }

  get isBusy() {
    return this.isSending || this.job !== null;
  }

  /**
   * Draw an order, or what a promise resolves to, after those that are there. Resolve to its job's last view; where there
   * is none, to a state "failed" with an error, or to "dropped", along with one before it that says why. A trial is one of
   * many: where the server refuses it, its state is "refused" and the others are drawn; a reload does not take it up.
   */
  put(asked, { isTrial = false } = {}) {
    const entry = { begin: async () => (await createJob(await asked)).id, isTrial };
    if (isTrial) return this.add(entry);
    const remember = (order) => {
      entry.order = order;
      this.keep();
    };
    Promise.resolve(asked).then(remember, () => {}); // why there is none, sending it says
    return this.add(entry);
  }

  /** Take up what a reload interrupted, and return what `put` would for each order. */
  restore() {
    const [job, upcoming] = [kept(JOB), kept(UPCOMING)];
    const found = job ? [this.add({ begin: async () => job })] : [];
    if (!upcoming) return found;
    if (Array.isArray(upcoming)) return [...found, ...upcoming.map((order) => this.put(order))];
    const [were, them] = upcoming === 1 ? ["was", "it"] : ["were", "them"];
    const lost = new Error(`${upcoming} more ${were} too large to outlive the reload; draw ${them} again.`);
    return [...found, this.add({ begin: async () => Promise.reject(lost) })];
  }

  /** End what is drawn, and drop what waits. */
  async cancel() {
    this.isStopping = true;
    this.drop();
    if (!this.job) return;
    try {
      await deleteJob(this.job);
    } catch (error) {
      // The server ends by itself what nobody follows; other errors are those of following, too.
      if (error instanceof Unreachable) this.following.abort(new Error("the server ends what nobody follows"));
    }
  }

  add(entry) {
    return new Promise((resolve) => {
      entry.resolve = resolve;
      this.waiting.push(entry);
      if (this.isBusy) this.onUpcoming(this.waiting.length);
      else this.draw();
    });
  }

  async draw() {
    while (this.waiting.length) {
      this.isStopping = false;
      this.following = new AbortController();
      this.sending = this.waiting.shift();
      this.onBegin();
      this.onUpcoming(this.waiting.length);
      const { resolve } = this.sending;
      const view = await this.outcome(this.sending);
      this.job = this.sending = null;
      forget(JOB); // only now: a page that is left stops following, too
      if (view.state === "failed") view.error += told(this.drop()); // what waits may fail likewise
      if (!this.waiting.length) this.onEnd();
      resolve(view);
    }
  }

  /** Have an order drawn and return the last view of its job. */
  async outcome({ begin, isTrial }) {
    try {
      this.job = await begin();
      this.sending = null;
      if (!isTrial) keep(JOB, this.job);
      this.keep();
      this.onJob();
      if (this.isStopping) await deleteJob(this.job);
      const { onView, onGap, following: { signal } } = this;
      const view = await followJob(this.job, { onView, onGap, signal });
      const isLate = this.isStopping && view.state === "done";
      return isLate ? { ...view, state: "cancelled", error: "the drawing was done at that moment" } : view;
    } catch (error) {
      const failure = isTrial && error.status === REFUSED ? "refused" : "failed";
      return { state: this.isStopping ? "cancelled" : failure, error: error.message };
    }
  }

  /** Drop what waits, and return how many orders these were. */
  drop() {
    const dropped = this.waiting.splice(0);
    this.keep();
    this.onUpcoming(0);
    for (const { resolve } of dropped) resolve({ state: "dropped" });
    return dropped.length;
  }

  keep() {
    const entries = [this.sending, ...this.waiting].filter((entry) => entry?.order);
    if (!entries.length) forget(UPCOMING);
    else if (!keep(UPCOMING, entries.map(({ order }) => order))) keep(UPCOMING, entries.length);
  }
}

function told(dropped) {
  return dropped ? ` ${dropped} more ${dropped === 1 ? "was" : "were"} not drawn.` : "";
}
