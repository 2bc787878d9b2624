// The picture on the stage, larger, and beside the one before it.

export class Viewer {
  /** `frame` holds the picture; `other`, an image over it, is uncovered from the left as far as `slider` says. */
  constructor({ frame, other, slider, row }) {
    Object.assign(this, { frame, other, slider, row });
    slider.addEventListener("input", () => this.uncover());
    new ResizeObserver(() => this.uncover()).observe(frame);
  }

  /** Fill the screen, or leave it. */
  toggleFull() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.frame.requestFullscreen();
  }

  get isComparing() {
    return !this.row.hidden;
  }

  /** Lay another picture over the one that is looked at. */
  compare({ url, settings, seed }, most) {
    this.other.src = url;
    this.other.alt = `${settings.prompt}, seed ${seed}`;
    this.other.style.setProperty("--most", most);
    this.other.hidden = this.row.hidden = false;
    this.slider.value = 50;
    this.uncover();
  }

  stop() {
    this.other.hidden = this.row.hidden = true;
  }

  uncover() {
    const { width, left } = this.frame.getBoundingClientRect();
    const box = this.other.getBoundingClientRect();
    const edge = (this.slider.value / 100) * width - (box.left - left); // where the frame is parted, seen from the picture
    this.other.style.clipPath = `inset(0 ${Math.max(box.width - edge, 0)}px 0 0)`;
    this.frame.style.setProperty("--edge", `${this.slider.value}%`);
  }
}
