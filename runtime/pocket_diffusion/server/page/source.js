// The picture to start from, and the mask that is painted over it.

const LONGEST = 768; // of the mask's sides, in pixels
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Source {
  /** `onChange` is called where the picture or its mask may have changed. */
  constructor({ chosen, drop, picture, canvas, ring, brush, onChange }) {
    Object.assign(this, { chosen, drop, picture, canvas, ring, brush, onChange });
    this.pointer = null; // the one that paints
    this.paper = canvas.getContext("2d");
    this.file = null;
    this.isMasked = false;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || this.pointer !== null) return;
      this.pointer = event.pointerId;
      canvas.setPointerCapture(event.pointerId);
      this.stroke(this.place(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId === this.pointer) this.stroke(this.place(event), this.last);
    });
    for (const ended of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(ended, ({ pointerId }) => {
        if (pointerId === this.pointer) this.pointer = null;
      });
    }
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    canvas.addEventListener("focus", () => this.showRing());
    canvas.addEventListener("blur", () => (ring.hidden = true));
  }

  /** Show a picture file; rejects what the browser cannot show. */
  async choose(file) {
    URL.revokeObjectURL(this.picture.src);
    this.picture.src = URL.createObjectURL(file);
    try {
      await this.picture.decode();
    } catch {
      this.remove();
      throw new Error(`${file.name || "This"} is no picture that can be shown.`);
    }
    this.file = file;
    const { naturalWidth: width, naturalHeight: height } = this.picture;
    this.picture.parentElement.style.width = `min(100%, ${(55 * width) / height}vh)`; // high pictures leave room to scroll past
    const scale = LONGEST / Math.max(width, height);
    this.canvas.width = Math.max(1, Math.round(width * scale));
    this.canvas.height = Math.max(1, Math.round(height * scale));
    this.last = { x: this.canvas.width / 2, y: this.canvas.height / 2 };
    this.clearMask();
    this.chosen.hidden = false;
    this.drop.hidden = true;
  }

  remove() {
    this.file = null;
    this.isMasked = false;
    this.chosen.hidden = true;
    this.drop.hidden = false;
    this.onChange();
  }

  clearMask() {
    this.paper.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.isMasked = false;
    this.onChange();
  }

  /** Return {image, mask} in Base64 for an order, as far as there are any. */
  async order() {
    if (!this.file) return {};
    const order = { image: await base64(this.file) };
    if (this.isMasked) order.mask = await base64(await this.maskFile());
    return order;
  }

  /** Return the mask as the server wants it: white where painted, else black. */
  async maskFile() {
    const mask = new OffscreenCanvas(this.canvas.width, this.canvas.height);
    const paper = mask.getContext("2d");
    paper.drawImage(this.canvas, 0, 0);
    paper.globalCompositeOperation = "source-in";
    paper.fillStyle = "white";
    paper.fillRect(0, 0, mask.width, mask.height);
    paper.globalCompositeOperation = "destination-over";
    paper.fillStyle = "black";
    paper.fillRect(0, 0, mask.width, mask.height);
    return mask.convertToBlob({ type: "image/png" });
  }

  place({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: ((clientX - box.left) / box.width) * this.canvas.width,
      y: ((clientY - box.top) / box.height) * this.canvas.height,
    };
  }

  stroke(to, from = to) {
    // Painted opaque, so that strokes do not add up; the canvas itself is shown half transparent.
    this.paper.strokeStyle = "rgb(230 60 120)";
    this.paper.lineWidth = (this.brush.value / 100) * Math.max(this.canvas.width, this.canvas.height);
    this.paper.lineCap = this.paper.lineJoin = "round";
    this.paper.beginPath();
    this.paper.moveTo(from.x, from.y);
    this.paper.lineTo(to.x, to.y + 0.01); // a line of no length would draw nothing
    this.paper.stroke();
    this.last = to;
    this.isMasked = true;
    this.onChange();
  }

  onKey(event) {
    const step = (this.brush.value / 200) * this.canvas.width;
    const [dx, dy] = KEYS[event.key] ?? [0, 0];
    if (event.key === " " || (dx || dy) !== 0) event.preventDefault();
    const to = {
      x: Math.min(Math.max(this.last.x + dx * step, 0), this.canvas.width),
      y: Math.min(Math.max(this.last.y + dy * step, 0), this.canvas.height),
    };
    if (event.key === " " || (event.shiftKey && event.key in KEYS)) this.stroke(to, this.last);
    else this.last = to;
    this.showRing();
  }

  /** Show where the brush is, for those who paint with keys. */
  showRing() {
    const scale = this.canvas.clientWidth / this.canvas.width;
    const size = (this.brush.value / 100) * Math.max(this.canvas.width, this.canvas.height) * scale;
    this.ring.hidden = !this.canvas.matches(":focus-visible");
    this.ring.style.width = this.ring.style.height = `${size}px`;
    this.ring.style.left = `${this.last.x * scale}px`;
    this.ring.style.top = `${this.last.y * scale}px`;
  }
}

async function base64(blob) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The picture cannot be read."));
    reader.readAsDataURL(blob);
  });
  return url.slice(url.indexOf(",") + 1);
}
