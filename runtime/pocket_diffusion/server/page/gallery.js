// The pictures that were drawn here: a strip to look through, kept until they are deleted.

import { seedsOf } from "./restore.js";
import { deleteKept, readGallery, readPicture } from "./server.js";
import { Store } from "./store.js";

const FULL = "This browser has no room for more: new pictures are gone with this page. Download them, or delete others.";
const NOT_KEPT = "The server has not kept the new picture, which is gone with this page. Download it.";

export class Gallery {
  /** `onChoose` is called with a picture ({url, seed, settings}) that was clicked; `note` says where one does not stay. */
  constructor({ section, list, note, onChoose }) {
    Object.assign(this, { section, list, note, onChoose });
    this.pictures = []; // the newest first
    this.keeping = Promise.resolve(); // of their files, one after another
  }

  /** Show what earlier visits left: on the server, if that keeps pictures, or else in the browser. */
  async load() {
    const { kept: isOnServer, pictures } = await readGallery();
    if (isOnServer) {
      this.pictures = pictures.map((each) => ({ ...each, kept: each.url }));
      this.show();
      return;
    }
    this.store = await Store.open();
    const kept = await this.store.all();
    this.pictures = [...this.pictures, ...kept.map((each) => ({ ...each, url: URL.createObjectURL(each.file) }))];
    this.show();
  }

  /** Put pictures in front, and keep their files: the server forgets them in time. */
  add(pictures) {
    this.pictures = [...pictures, ...this.pictures];
    this.show();
    for (const picture of [...pictures].reverse()) {
      picture.keeping = this.keeping = this.keeping.then(() => this.keep(picture));
    }
  }

  async keep(picture) {
    if (picture.kept) return;
    if (!this.store) {
      this.note.textContent = NOT_KEPT;
      return;
    }
    try {
      const { url, seed, settings } = picture;
      picture.file ??= await readPicture(url);
      picture.id = await this.store.add({ file: picture.file, seed, settings });
      if (!picture.id) this.note.textContent ||= FULL; // read out once
    } catch {
      // It is shown for as long as the server has it.
    }
  }

  /** Delete a picture, and return the one beside it, if there is one. */
  async remove(picture) {
    await picture.keeping; // or it would return
    if (picture.kept) await deleteKept(picture.url);
    else if (picture.id) await this.store.remove(picture.id);
    this.note.textContent = "";
    const index = this.pictures.indexOf(picture);
    this.pictures = this.pictures.filter((each) => each !== picture);
    this.show();
    return this.pictures[Math.min(index, this.pictures.length - 1)] ?? null;
  }

  /** Have the browser save all pictures, one by one. */
  async download() {
    const link = document.createElement("a");
    for (const { url, seed, settings, file } of [...this.pictures].reverse()) {
      link.href = file ? URL.createObjectURL(file) : url;
      link.download = `${seedsOf({ seed, settings }).join("-")}.png`;
      link.click();
      await new Promise((resolve) => setTimeout(resolve, 200)); // browsers drop downloads that come at once
    }
  }

  /** Mark the one that is looked at. */
  mark(url) {
    for (const button of this.list.querySelectorAll("button")) {
      button.setAttribute("aria-current", button.dataset.url === url);
    }
  }

  show() {
    this.section.hidden = !this.pictures.length;
    this.list.replaceChildren(...this.pictures.map((picture) => this.item(picture)));
  }

  item(picture) {
    const image = new Image();
    image.src = picture.url;
    image.alt = `${picture.settings.prompt}, seed ${seedsOf(picture).join(", variation ")}`;
    image.loading = "lazy";
    image.onerror = () => {
      // The server keeps only so many; or it is away for a moment, so that it is hidden and not forgotten.
      image.closest("li").hidden = true;
    };
    const button = document.createElement("button");
    button.type = "button";
    button.title = picture.settings.prompt;
    button.dataset.url = picture.url;
    button.append(image);
    button.onclick = () => this.onChoose(picture);
    const item = document.createElement("li");
    item.append(button);
    return item;
  }
}
