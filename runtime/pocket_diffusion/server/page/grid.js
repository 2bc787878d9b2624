// An X/Y grid: pictures of one form and one seed in which two settings take several values each.

import { Axis } from "./axis.js";
import { at } from "./dom.js";
import { deleteJob, insist, readPicture } from "./server.js";
import { Sheet } from "./sheet.js";

const MOST = 36; // pictures of a grid

export class Grid {
  /**
   * `fields` has the page's own field of each setting. `prompt` returns the form's prompt, `order` its order, or
   * null where that cannot be drawn; `put` draws an order after those that are there, and resolves to the last view of its
   * job. `onOpen` is called before the sheet is seen, `onChoose` with a picture of it, and `onEnd` with what became of the
   * grid: {line, error}.
   */
  constructor({ fields, prompt, order, put, onOpen, onChoose, onEnd }) {
    Object.assign(this, { prompt, order, put, onOpen, onEnd });
    this.axes = ["grid-x", "grid-y"].map((id) => new Axis({ place: at(id), fields, most: MOST }));
    this.sheet = new Sheet({
      place: at("sheet"),
      onChoose: (picture) => {
        picture.isTaken = true;
        this.close();
        onChoose(picture);
      },
    });
    this.isGoing = false;
    this.shown = []; // the pictures of the sheet
    at("grid").addEventListener("input", () => this.tell());
    at("grid").addEventListener("submit", (event) => {
      event.preventDefault();
      this.draw();
    });
    at("show-grid").onclick = () => {
      this.open();
      at("sheet").focus();
    };
    at("close-grid").onclick = () => {
      this.close();
      at("draw-grid").focus();
    };
  }

  get isOpen() {
    return !at("sheet").hidden;
  }

  open() {
    this.onOpen();
    at("sheet").hidden = at("grid-actions").hidden = false;
    at("show-grid").hidden = true;
  }

  close() {
    if (!this.isOpen) return;
    at("sheet").hidden = at("grid-actions").hidden = true;
    at("show-grid").hidden = false;
  }

  /** Offer what can vary, and say how many pictures that makes, or what is missing. */
  tell() {
    for (const axis of this.axes) axis.offer();
    this.say(this.summary());
  }

  /** Show a line, which is read out if it is a new one, or what is wrong. */
  say(line, error = "") {
    for (const [id, text] of [["grid-count", line], ["grid-error", error]]) {
      if (at(id).textContent !== text) at(id).textContent = text;
    }
  }

  summary() {
    try {
      const [{ length: columns }, { length: rows }] = this.values();
      const count = columns * rows;
      return `${columns} × ${rows}: ${count} ${count === 1 ? "picture" : "pictures"}, of at most ${MOST}`;
    } catch ({ message }) {
      return message;
    }
  }

  /** Return the values of both axes; throws an Error that says what is wrong. */
  values() {
    const [x, y] = this.axes;
    if (!x.name) throw new Error("Choose what varies across.");
    if (x.name === y.name && x.name !== "prompt") throw new Error("Choose different settings for across and down.");
    const values = this.axes.map((axis) => axis.values(this.prompt()));
    const count = values[0].length * values[1].length;
    if (count > MOST) throw new Error(`${count} pictures are too many: at most ${MOST}. Take fewer values.`);
    return values;
  }

  async draw() {
    let columns, rows;
    try {
      if (this.isGoing) throw new Error("A grid is being drawn: wait for it, or cancel it.");
      [columns, rows] = this.values();
    } catch ({ message }) {
      this.say("", message);
      return;
    }
    this.isGoing = true;
    try {
      const asked = await this.order();
      if (asked) await this.fill(columns, rows, { ...asked, count: 1, keep: false, seed: asked.seed ?? randomSeed() });
    } catch ({ message }) {
      this.onEnd({ line: "", error: message });
    } finally {
      this.isGoing = false;
    }
  }

  /** Draw all pictures of a sheet, and tell what became of them. */
  async fill(columns, rows, asked) {
    this.begin(columns, rows, asked);
    const cells = rows.flatMap((y, row) => columns.map((x, column) => ({ row, column, drawn: this.put(x.change(y.change(asked))) })));
    const outcomes = await Promise.all(cells.map((cell) => this.fillCell(cell)));
    if (this.shown.length) await this.offerFile();
    const ended = outcomes.find(({ state }) => !["done", "refused"].includes(state));
    const count = `${this.shown.length} of ${cells.length} pictures`;
    if (!ended) this.onEnd({ line: `The grid is drawn: ${count}`, error: "" });
    else if (ended.state === "cancelled") this.onEnd({ line: `Cancelled: ${count} are drawn`, error: "" });
    else if (ended.state === "failed") this.onEnd({ line: "", error: ended.error });
    else this.close(); // dropped, along with an order before it that says why
  }

  begin(columns, rows, { prompt, seed }) {
    for (const { url, isTaken } of this.shown) {
      if (!isTaken) URL.revokeObjectURL(url);
    }
    this.shown = [];
    const [across, down] = [columns, rows].map((values) => values.map(({ label }) => label));
    const parts = [`Across: ${across.join("; ")}.`];
    if (down[0]) parts.push(`Down: ${down.join("; ")}.`);
    parts.push(`Prompt: ${prompt}.`);
    if (!this.axes.some(({ name }) => name === "seed")) parts.push(`Seed: ${seed}.`);
    this.sheet.begin(across, down, parts.join(" "));
    at("download-grid").hidden = true;
    this.open();
  }

  /** Put a picture into its place once it is drawn. Its file is kept here alone, and its job deleted on the server. */
  async fillCell({ column, row, drawn }) {
    const view = await drawn;
    if (view.state === "refused") this.sheet.refuse(column, row, view.error);
    if (view.state !== "done") return view;
    const [{ url, seed, settings }] = view.pictures;
    const file = await insist(() => readPicture(url));
    deleteJob(view.id).catch(() => {}); // the server forgets it in time
    const picture = { url: URL.createObjectURL(file), file, seed, settings };
    this.shown.push(picture);
    this.sheet.fill(column, row, picture);
    return view;
  }

  async offerFile() {
    const link = at("download-grid");
    URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(await this.sheet.file());
    link.hidden = false;
  }
}

const randomSeed = () => Math.floor(Math.random() * 2 ** 31);
