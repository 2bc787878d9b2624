// One axis of a grid: a setting, and the values that it takes one after the other.

import { offer } from "./dom.js";

const NUMBERS = ["steps", "guidance_scale", "image_guidance_scale", "strength", "seed"]; // that are typed
const CHOICES = ["sampler", "scheduler", "cache", "model"]; // that are ticked
const PARTS = /"([^"]*)"|[^,]+/g; // what commas part; quotes hold one together
const RANGE = /^(\d+)\s*-\s*(\d+)$/;

export class Axis {
  /**
   * `place` holds a list of settings, a field for values and a place for boxes to tick. `fields` has the page's own field
   * of each setting, by which values are checked; `most` is the number of values that there may be.
   */
  constructor({ place, fields, most }) {
    const [list, typed, boxes] = ["select", "input", "[role=group]"].map((each) => place.querySelector(each));
    Object.assign(this, { list, typed, boxes, fields, most });
    list.addEventListener("input", () => (typed.value = ""));
  }

  get name() {
    return this.list.value;
  }

  /** Offer the settings that can vary now, and the values of the one that does. */
  offer() {
    const { fields, list, typed, boxes, name: before } = this;
    const numbers = NUMBERS.filter((name) => !fields[name].disabled && !fields[name].closest("[hidden]"));
    const choices = CHOICES.filter((name) => fields[name].options.length > 1);
    const labels = [...numbers, ...choices].map((name) => [labelOf(fields[name]), name]);
    offer(list, [["nothing", ""], ...labels, ["Part of the prompt", "prompt"]]);
    if (this.name !== before) typed.value = "";
    const isTicked = CHOICES.includes(this.name);
    typed.hidden = !this.name || isTicked;
    typed.placeholder = this.name === "prompt" ? "lake, river, desert" : "10, 20, 30 or 1-5";
    boxes.hidden = !isTicked;
    const options = isTicked ? [...fields[this.name].options].map(({ text, value }) => [text, value]) : [];
    this.offerBoxes(options);
  }

  /** Offer boxes to tick; those that are ticked stay so. */
  offerBoxes(options) {
    const key = JSON.stringify([this.name, options]);
    if (this.boxes.dataset.key === key) return;
    this.boxes.dataset.key = key;
    this.boxes.replaceChildren(...options.map(([text, value]) => {
      const box = Object.assign(document.createElement("input"), { type: "checkbox", value });
      box.dataset.ofView = "";
      const label = document.createElement("label");
      label.append(box, ` ${text}`);
      return label;
    }));
  }

  /**
   * Return the values as [{label, change}], where `change` returns an order with the value; without a setting, there is
   * one that changes nothing. `prompt` is the form's. Throws an Error that says what is wrong.
   */
  values(prompt) {
    const { name, fields, typed } = this;
    if (!name) return [{ label: "", change: (order) => order }];
    const title = name === "prompt" ? "Prompt" : labelOf(fields[name]);
    if (CHOICES.includes(name)) return this.ticked(title);
    const parts = [...typed.value.matchAll(PARTS)].map(([part, quoted]) => (quoted ?? part).trim()).filter(Boolean);
    if (!parts.length) throw new Error(`${title}: fill in values, with commas between them.`);
    if (name === "prompt") return replacements(parts, prompt);
    const numbers = parts.flatMap((part) => this.numbers(part, title));
    return [...new Set(numbers)].map((value) => ({
      label: `${title}: ${value}`,
      change: (order) => ({ ...order, [name]: value }),
    }));
  }

  ticked(title) {
    const { name } = this;
    const boxes = [...this.boxes.querySelectorAll(":checked")];
    if (!boxes.length) throw new Error(`${title}: tick values.`);
    return boxes.map(({ value, parentElement }) => ({
      label: `${title}: ${parentElement.textContent.trim()}`,
      change: (order) => ({ ...order, [name]: value || undefined }), // which is left out: the default
    }));
  }

  /** Return the numbers that a part names: one, or all of a range such as 1-5. */
  numbers(part, title) {
    const { min, max, step } = this.fields[this.name];
    const [first, last] = (part.match(RANGE) ?? [part, part, part]).slice(1).map(Number);
    if (last < first) throw new Error(`${title}: ${part} runs backwards; the smaller number comes first.`);
    if (last - first >= this.most) throw new Error(`${title}: ${part} has more than ${this.most} values.`);
    const numbers = first < last ? Array.from({ length: last - first + 1 }, (_, i) => first + i) : [first];
    const allowed = max ? `between ${min} and ${max}` : `at least ${min}`;
    const isWhole = step === ""; // the browser's own step, 1
    for (const number of numbers) {
      if (!Number.isFinite(number)) throw new Error(`${title}: ${part} is no number.`);
      if (isWhole && !Number.isSafeInteger(number)) throw new Error(`${title}: ${part} is no whole number.`);
      if (number < min || (max && number > max)) throw new Error(`${title}: ${part} is not ${allowed}.`);
    }
    return numbers;
  }
}

/** Return what stands before a field. */
const labelOf = ({ labels: [label] }) => label.firstChild.textContent.trim();

/** The first part is looked for in the prompt; each takes its place, the first too. */
function replacements([sought, ...others], prompt) {
  if (!prompt.includes(sought)) throw new Error(`Prompt: “${sought}” is not in the prompt; the first value is looked for in it.`);
  return [...new Set([sought, ...others])].map((text) => ({
    label: text,
    change: (order) => ({ ...order, prompt: order.prompt.replaceAll(sought, () => text) }),
  }));
}
