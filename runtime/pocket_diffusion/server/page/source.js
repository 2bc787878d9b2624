// The picture to start from, and its mask: a reload keeps both, and another tab has its own.

const PICTURE = "pocket-diffusion source";
const MASK = "pocket-diffusion mask";

export class Source {
  /** `picture` is an image that shows it, in an easel; `onChange` is called where the picture may have changed. */
  constructor({ chosen, drop, picture, mask, onChange }) {
    Object.assign(this, { chosen, drop, picture, mask, onChange });
    this.file = null;
  }

  get isMasked() {
    return Boolean(this.file) && !this.mask.isEmpty;
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
    this.picture.parentElement.style.setProperty("--ratio", width / height);
    this.mask.begin(width, height);
    this.chosen.hidden = false;
    this.drop.hidden = true;
    keep(PICTURE, await base64(file));
  }

  remove() {
    this.file = null;
    this.chosen.hidden = true;
    this.drop.hidden = false;
    sessionStorage.removeItem(PICTURE);
    this.onChange();
  }

  /** Keep the mask as it is now over a reload. */
  async keepMask() {
    if (this.isMasked) keep(MASK, await base64(await this.mask.file()));
    else sessionStorage.removeItem(MASK);
  }

  /** Show what was there before a reload. */
  async restore() {
    const [picture, mask] = [PICTURE, MASK].map((key) => sessionStorage.getItem(key)); // before another is kept
    if (!picture || this.file) return;
    await this.choose(blob(picture));
    if (mask) await this.mask.load(blob(mask));
  }

  /** Return {image, mask} in Base64 for an order, as far as there are any. */
  async order() {
    if (!this.file) return {};
    const order = { image: await base64(this.file) };
    if (this.isMasked) order.mask = await base64(await this.mask.file());
    return order;
  }
}

function keep(key, text) {
  try {
    sessionStorage.setItem(key, text);
  } catch {
    sessionStorage.removeItem(key); // browsers keep a few MB; a larger picture is gone after a reload
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
