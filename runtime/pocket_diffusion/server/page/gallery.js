// This session's pictures, which outlive a reload but not the tab.

const KEY = "pocket-diffusion gallery";
const MOST = 60;

export class Gallery {
  /** `onChoose` is called with a picture ({url, seed, settings}) that was clicked. */
  constructor(section, list, onChoose) {
    Object.assign(this, { section, list, onChoose });
    this.pictures = JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
    this.show();
  }

  /** Put pictures in front. */
  add(pictures) {
    this.pictures = [...pictures, ...this.pictures].slice(0, MOST);
    this.keep();
    this.show();
  }

  /** Mark the one that is looked at. */
  mark(url) {
    for (const button of this.list.querySelectorAll("button")) {
      button.setAttribute("aria-current", button.dataset.url === url);
    }
  }

  keep() {
    sessionStorage.setItem(KEY, JSON.stringify(this.pictures));
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
