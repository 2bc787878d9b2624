// Pictures that come by mouse or clipboard: files from outside, and the page's own, which are dragged as addresses.

const OWN = "application/x-pocket-diffusion-picture"; // the type under which a drag carries a picture's address

export class Drops {
  /**
   * `box` is the element that takes the page's own pictures; files are taken anywhere. `find` returns the picture that
   * an address shows, if it is one; `onFile` and `onPicture` are called with what was dropped.
   */
  constructor({ box, find, onFile, onPicture }) {
    Object.assign(this, { box, find, onFile, onPicture });
    document.addEventListener("dragstart", (event) => this.begin(event));
    document.addEventListener("dragover", (event) => {
      if (!this.takes(event)) return;
      event.preventDefault();
      document.body.classList.add("dragging");
    });
    for (const end of ["dragleave", "dragend"]) document.addEventListener(end, () => this.end());
    document.addEventListener("drop", (event) => this.drop(event));
    document.addEventListener("paste", ({ clipboardData }) => {
      const file = [...clipboardData.files].find(({ type }) => type.startsWith("image/"));
      if (file) onFile(file);
    });
  }

  /** A picture is dragged as what it is, not as what its image happens to show. */
  begin({ target, dataTransfer }) {
    const url = target instanceof HTMLImageElement && target.getAttribute("src");
    if (url && this.find(url)) dataTransfer.setData(OWN, url);
  }

  /** Tell whether what is dragged can be dropped here; browsers lend images of the page the type of files. */
  takes({ target, dataTransfer: { types } }) {
    return types.includes(OWN) ? this.box.contains(target) : types.includes("Files");
  }

  drop(event) {
    this.end();
    if (!this.takes(event)) return;
    event.preventDefault();
    const { dataTransfer } = event;
    const picture = this.find(dataTransfer.getData(OWN));
    if (picture) this.onPicture(picture);
    else if (dataTransfer.files.length) this.onFile(dataTransfer.files[0]);
  }

  end() {
    document.body.classList.remove("dragging");
  }
}
