// The mask over a picture, which is painted or comes from a file: what is covered is to be drawn anew.

const LONGEST = 768; // of its sides, in pixels
const MOST = 20; // changes that can be undone, each as large as the mask
const COLOUR = [230, 60, 120];
const PEN_ERASER = 32; // among a pointer's buttons
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Mask {
  /** `brush` is a slider in percent of the longer side, `eraser` a checkbox; `onChange` is called where the mask may have changed. */
  constructor({ canvas, ring, brush, eraser, undo, redo, onChange }) {
    Object.assign(this, { canvas, ring, brush, eraser, undoButton: undo, redoButton: redo, onChange });
    this.paper = canvas.getContext("2d", { willReadFrequently: true });
    this.pointer = null; // the one that paints
    this.isEmpty = true;
    canvas.addEventListener("pointerdown", (event) => {
      if (!(event.button === 0 || event.buttons & PEN_ERASER) || this.pointer !== null) return;
      this.pointer = event.pointerId;
      canvas.setPointerCapture(event.pointerId);
      this.onPointer(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId === this.pointer) this.onPointer(event, this.last);
    });
    for (const ended of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(ended, ({ pointerId }) => {
        if (pointerId !== this.pointer) return;
        this.pointer = null;
        this.settle();
      });
    }
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    canvas.addEventListener("focus", () => this.showRing());
    canvas.addEventListener("blur", () => (ring.hidden = true));
    undo.addEventListener("click", () => this.step(-1));
    redo.addEventListener("click", () => this.step(1));
  }

  /** Begin an empty mask for a picture of this size. */
  begin(width, height) {
    const scale = LONGEST / Math.max(width, height);
    this.canvas.width = Math.max(1, Math.round(width * scale)); // which clears it
    this.canvas.height = Math.max(1, Math.round(height * scale));
    this.last = { x: this.canvas.width / 2, y: this.canvas.height / 2 };
    this.states = []; // that the mask was in, the latest last
    this.state = -1; // the place of the one that it is in
    this.settle();
  }

  clear() {
    this.paper.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.settle();
  }

  /** Cover what is bare, and bare what is covered. */
  invert() {
    this.paper.globalCompositeOperation = "source-out";
    this.paper.fillStyle = `rgb(${COLOUR})`;
    this.paper.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.settle();
  }

  /** Take a mask file: where anything is transparent, what is opaque is covered; else what is bright or coloured. */
  async load(file) {
    const { width, height } = this.canvas;
    const paper = new OffscreenCanvas(width, height).getContext("2d");
    try {
      paper.drawImage(await createImageBitmap(file), 0, 0, width, height);
    } catch {
      throw new Error(`${file.name || "This"} is no picture that can be a mask.`);
    }
    const pixels = paper.getImageData(0, 0, width, height);
    const { data } = pixels;
    const hasAlpha = data.some((value, i) => i % 4 === 3 && value < 255);
    for (let i = 0; i < data.length; i += 4) {
      const light = hasAlpha ? data[i + 3] : Math.max(data[i], data[i + 1], data[i + 2]);
      data.set([...COLOUR, light > 127 ? 255 : 0], i);
    }
    this.paper.putImageData(pixels, 0, 0);
    this.settle();
  }

  /** Return a file of the mask as the server wants it: white where covered, else black. */
  file() {
    const file = new OffscreenCanvas(this.canvas.width, this.canvas.height);
    const paper = file.getContext("2d");
    paper.drawImage(this.canvas, 0, 0);
    for (const [operation, colour] of [["source-in", "white"], ["destination-over", "black"]]) {
      paper.globalCompositeOperation = operation;
      paper.fillStyle = colour;
      paper.fillRect(0, 0, file.width, file.height);
    }
    return file.convertToBlob({ type: "image/png" });
  }

  /** Remember the mask as it is now, to come back to. */
  settle() {
    const { width, height } = this.canvas;
    this.states.length = Math.min(this.states.length, this.state + 1); // what was undone is forgotten
    this.states.push(this.paper.getImageData(0, 0, width, height));
    if (this.states.length > MOST + 1) this.states.shift();
    this.state = this.states.length - 1;
    this.tell();
  }

  /** Undo (-1) or do again (1) a change. */
  step(by) {
    if (!this.states[this.state + by]) return;
    this.state += by;
    this.paper.putImageData(this.states[this.state], 0, 0);
    this.tell();
  }

  tell() {
    this.isEmpty = !this.states[this.state].data.some((value, i) => i % 4 === 3 && value > 127); // below half, the server keeps it
    // Not `disabled`, which would take the focus away.
    this.undoButton.setAttribute("aria-disabled", !this.states[this.state - 1]);
    this.redoButton.setAttribute("aria-disabled", !this.states[this.state + 1]);
    this.onChange();
  }

  onPointer(event, from) {
    const box = this.canvas.getBoundingClientRect();
    const to = {
      x: ((event.clientX - box.left) / box.width) * this.canvas.width,
      y: ((event.clientY - box.top) / box.height) * this.canvas.height,
    };
    this.stroke(to, from, event.buttons & PEN_ERASER);
  }

  stroke(to, from = to, erases = false) {
    // Painted opaque, so that strokes do not add up; the canvas itself is shown half transparent.
    this.paper.globalCompositeOperation = erases || this.eraser.checked ? "destination-out" : "source-over";
    this.paper.strokeStyle = `rgb(${COLOUR})`;
    this.paper.lineWidth = this.width;
    this.paper.lineCap = this.paper.lineJoin = "round";
    this.paper.beginPath();
    this.paper.moveTo(from.x, from.y);
    this.paper.lineTo(to.x, to.y + 0.01); // a line of no length would draw nothing
    this.paper.stroke();
    this.last = to;
  }

  get width() {
    return (this.brush.value / 100) * Math.max(this.canvas.width, this.canvas.height);
  }

  onKey(event) {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
      event.preventDefault();
      return this.step(event.shiftKey ? 1 : -1);
    }
    const step = (this.brush.value / 200) * this.canvas.width;
    const [dx, dy] = KEYS[event.key] ?? [0, 0];
    if (event.key === " " || (dx || dy) !== 0) event.preventDefault();
    const to = {
      x: Math.min(Math.max(this.last.x + dx * step, 0), this.canvas.width),
      y: Math.min(Math.max(this.last.y + dy * step, 0), this.canvas.height),
    };
    if (event.key === " " || (event.shiftKey && event.key in KEYS)) {
      this.stroke(to, this.last);
      this.settle();
    } else this.last = to;
    this.showRing();
  }

  /** Show where the brush is, for those who paint with keys. */
  showRing() {
    const scale = this.canvas.clientWidth / this.canvas.width;
    this.ring.hidden = !this.canvas.matches(":focus-visible");
    this.ring.style.width = this.ring.style.height = `${this.width * scale}px`;
    this.ring.style.left = `${this.last.x * scale}px`;
    this.ring.style.top = `${this.last.y * scale}px`;
  }
}
