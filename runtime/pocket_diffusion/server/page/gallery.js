// The pictures that were drawn here: a strip to look through, kept until they are deleted.

import { deleteKept, readGallery, readPicture } from "./server.js";
import { Store } from "./store.js";

export class Gallery {
  /** `onChoose` is called with a picture ({url, seed, settings}) that was clicked. */
  constructor(section, list, onChoose) {
    Object.assign(this, { section, list, onChoose });
    this.pictures = []; // the newest first
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
  async add(pictures) {
    this.pictures = [...pictures, ...this.pictures];
    this.show();
    for (const picture of [...pictures].reverse()) {
      if (picture.kept || !this.store) continue;
      try {
        const { url, seed, settings } = picture;
        picture.file = await readPicture(url);
        picture.id = await this.store.add({ file: picture.file, seed, settings });
      } catch {
        // It is shown for as long as the server has it.
      }
    }
  }

  /** Delete a picture, and return the one beside it, if there is one. */
  async remove(picture) {
    if (picture.kept) await deleteKept(picture.url);
    else if (picture.id) await this.store.remove(picture.id);
    const index = this.pictures.indexOf(picture);
    this.pictures = this.pictures.filter((each) => each !== picture);
    this.show();
    return this.pictures[Math.min(index, this.pictures.length - 1)] ?? null;
  }

  /** Have the browser save all pictures, one by one. */
  async download() {
    const link = document.createElement("a");
    for (const { url, seed, file } of [...this.pictures].reverse()) {
      link.href = file ? URL.createObjectURL(file) : url;
      link.download = `${seed}.png`;
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
    image.alt = `${picture.settings.prompt}, seed ${picture.seed}`;
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
