// The board: the picture to start from on the stage, as large as that is, with the tools of its mask.

import { at } from "./dom.js";

export class Board {
  get isOpen() {
    return !at("board").hidden;
  }

  open() {
    at("board").append(at("easel"));
    at("stage-tools").append(at("mask-tools"));
    this.tell(true);
    at("mask").focus();
  }

  /** Put all back beside the form. */
  close() {
    if (!this.isOpen) return;
    at("chosen").prepend(at("easel"));
    at("mask-place").append(at("mask-tools"));
    this.tell(false);
  }

  tell(isOpen) {
    at("board").hidden = at("zoom-row").hidden = !isOpen;
    at("enlarge").textContent = isOpen ? "Done" : "Paint on the stage";
  }
}
