// The picture to start from, its mask, and the settings that its file tells: a reload keeps all, and another tab has its own.

import { forget, keep, kept } from "./session.js";

const PICTURE = "pocket-diffusion source";
const MASK = "pocket-diffusion mask";

export class Source {
  /**
   * `picture` is an image that shows it, in an easel; `restore` a button that is offered where the file tells settings, and
   * `error` a line that says what is wrong with a file, `feather` a slider of the mask's softness. `readSettings` takes a file in Base64. `onChange` is called where
   * the picture or its mask may have changed.
   */
  constructor({ chosen, drop, picture, restore, error, mask, feather, readSettings, onChange }) {
    Object.assign(this, { chosen, drop, picture, restoreButton: restore, error, mask, feather, readSettings, onChange });
    this.file = null;
    this.settings = null; // how the picture was drawn, as far as its file says
    this.wanted = null; // the file that was chosen last, of which the browser may not know yet what it is
  }

  get isMasked() {
    return Boolean(this.file) && !this.mask.isEmpty;
  }

  /** Show a picture file, and its mask, unless another is chosen meanwhile; say so where the browser cannot show it. */
  async choose(file, mask = null) {
    this.wanted = file;
    const image = new Image();
    image.src = URL.createObjectURL(file);
    const isPicture = await image.decode().then(() => true, () => false);
    if (this.wanted !== file) return URL.revokeObjectURL(image.src);
    this.error.textContent = isPicture ? "" : `${file.name || "This"} is no picture that can be shown.`;
    if (!isPicture) return;
    this.show(file, image);
    if (mask) await this.loadMask(mask);
    const text = await base64(file);
    if (this.wanted !== file) return;
    keep(PICTURE, text);
    const settings = await this.readSettings(text).catch(() => null); // which is no fault of the picture
    if (this.wanted === file) this.offer(settings);
  }

  show(file, { src, naturalWidth: width, naturalHeight: height }) {
    URL.revokeObjectURL(this.picture.src);
    this.file = file;
    this.picture.src = src;
    this.picture.parentElement.style.setProperty("--ratio", width / height);
    this.chosen.hidden = false;
    this.drop.hidden = true;
    this.offer(null);
    this.mask.begin(width, height); // which tells of the change
  }

  offer(settings) {
    this.settings = settings;
    this.restoreButton.hidden = !settings;
  }

  remove() {
    this.file = this.wanted = null;
    this.error.textContent = "";
    this.chosen.hidden = true;
    this.drop.hidden = false;
    forget(PICTURE);
    this.onChange();
  }

  /** Take a mask from a file. */
  async loadMask(file) {
    try {
      await this.mask.load(file);
      this.error.textContent = "";
    } catch ({ message }) {
      this.error.textContent = message;
    }
  }

  /** Keep the mask as it is now over a reload. */
  async keepMask() {
    if (this.isMasked) keep(MASK, await base64(await this.mask.file()));
    else forget(MASK);
  }

  /** Show what was there before a reload. */
  async restore() {
    const [picture, mask] = [PICTURE, MASK].map(kept);
    if (picture && !this.wanted) await this.choose(blob(picture), mask && blob(mask));
  }

  /** Return {image, mask, mask_feather} for an order, as far as there are any; pictures are in Base64. */
  async order() {
    if (!this.file) return {};
    const order = { image: await base64(this.file) };
    if (!this.isMasked) return order;
    return { ...order, mask: await base64(await this.mask.file()), mask_feather: Number(this.feather.value) };
  }
}

function blob(text) {
  return new Blob([Uint8Array.from(atob(text), (character) => character.charCodeAt(0))]);
}

export async function base64(blob) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The picture cannot be read."));
    reader.readAsDataURL(blob);
  });
  return url.slice(url.indexOf(",") + 1);
}
