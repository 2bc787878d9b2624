// What the form is: its fields, what can be chosen in them, and how a picture's settings or a reload fill them in.

import { at, offer } from "./dom.js";
import { keep, kept } from "./session.js";

const KEPT = "pocket-diffusion form";
const NUMBERS = ["width", "height", "steps", "guidance_scale", "image_guidance_scale", "seed", "count"];
const CHOICES = ["sampler", "scheduler", "cache"]; // the sampler first, by which the schedulers go
const FIELDS = ["prompt", "negative_prompt", "strength", ...CHOICES, ...NUMBERS];
const NOISE = ["eta", "s_noise"]; // settings without a field, of one sampler
const VARIATION = ["variation_seed", "variation_strength"]; // likewise, of one seed
const CARRIED = ["guidance_rescale", "guidance_interval", "clip_skip", "token_downsampling", "loras", ...VARIATION, ...NOISE]; // all of these
const STRENGTH = 0.8; // the server's own, without a mask; what is painted over is to be drawn anew
const FAR = 2; // times the pixels that a model was trained at, or a part of them: beyond that it draws badly
const SKETCH_STEPS = 6; // of the usual sampler, which then shows nearly all that is asked for

export class Form {
  /** `fields` is the form's element; `source` the picture to start from; `words` what the model knows. `onTell` is called where something may have changed. */
  constructor({ fields, source, words, onTell }) {
    Object.assign(this, { fields, source, words, onTell });
    this.model = null; // once it is known
    this.isDefault = true; // whether it is the server's own
    this.choices = { samplers: [], schedulers: [], caches: [] }; // that there are
    this.carried = {}; // what a picture was drawn with beyond the form
    this.strengthIsChosen = false; // else it goes by what is asked for
    this.seedAtHand = null; // of the picture that is looked at
    fields.strength.addEventListener("input", () => (this.strengthIsChosen = true));
    fields.sampler.addEventListener("input", () => {
      this.drop(NOISE); // which another sampler may not take
    });
    fields.seed.addEventListener("input", () => this.drop(VARIATION));
  }

  /** Offer what a model takes, and nothing else. */
  introduce(model, choices, isDefault) {
    const isFirst = !this.model;
    Object.assign(this, { model, choices, isDefault });
    const { fields } = this;
    for (const name of ["width", "height", "steps", "guidance_scale"]) fields[name].placeholder = model[name];
    fields.steps.max = model.max_steps;
    fields.count.max = model.max_count;
    for (const name of ["width", "height"]) fields[name].step = fields[name].min = model.multiple;
    fields.width.min = fields.height.min = Math.ceil(64 / model.multiple) * model.multiple;
    fields.negative_prompt.disabled = model.guides_itself;
    fields.negative_prompt.placeholder = model.guides_itself ? "this model takes none" : "";
    const { follows_instructions: isInstructed } = model;
    at("image-guidance-row").hidden = fields.image_guidance_scale.disabled = !isInstructed;
    fields.image_guidance_scale.placeholder = model.image_guidance_scale ?? "";
    at("strength-row").hidden = fields.strength.disabled = isInstructed;
    for (const element of document.querySelectorAll("[data-of-mask]")) element.hidden = isInstructed;
    offer(fields.sampler, [["the model's own", ""], ...choices.samplers.map(({ name, label }) => [label, name])]);
    if (isFirst) this.restore(); // what goes by the model, too, before a change keeps the form without it
    this.tell();
  }

  /** Return the form as an order; what is left empty is the model's default. */
  async order() {
    const { fields, source } = this;
    const asked = { prompt: fields.prompt.value };
    if (!fields.negative_prompt.disabled) asked.negative_prompt = fields.negative_prompt.value;
    for (const name of CHOICES) {
      if (fields[name].value) asked[name] = fields[name].value;
    }
    for (const name of NUMBERS) {
      if (fields[name].value !== "" && !fields[name].disabled) asked[name] = Number(fields[name].value);
    }
    if (!this.isDefault) asked.model = this.model.name;
    Object.assign(asked, this.carried);
    const sendsStrength = source.file && (this.strengthIsChosen || source.isMasked) && !fields.strength.disabled;
    if (sendsStrength) asked.strength = Number(fields.strength.value);
    return { ...asked, ...(await source.order()) };
  }

  /** Return an order's sketch: drawn in few steps, and not kept. */
  sketch(asked) {
    const usual = this.model.steps;
    const { strength } = this.fields;
    const least = asked.image && !strength.disabled ? Math.ceil(1 / strength.value) : 1; // with fewer, none would be drawn
    const steps = Math.max(least, Math.min(asked.steps ?? usual, usual, SKETCH_STEPS));
    return { ...asked, steps, count: 1, cache: "none", keep: false };
  }

  /** Of what is asked for, in pixels. */
  get size() {
    const { width, height } = this.fields;
    return [width, height].map(({ name, value }) => Number(value) || (this.model?.[name] ?? 0));
  }

  // How it is filled in.

  /** The fields that can be filled in: what can be chosen goes by the model. */
  get known() {
    return this.model ? FIELDS : FIELDS.filter((name) => !CHOICES.includes(name));
  }

  /** Fill in fields by name; the others stay. */
  fill(values) {
    for (const name of this.known.filter((each) => each in values)) {
      const value = values[name] ?? ""; // the model's own
      if (name === "cache") this.offerCaches(value);
      else this.fields[name].value = value;
      if (name === "sampler") this.offerSchedulers();
    }
    this.strengthIsChosen ||= "strength" in values;
  }

  /** Take a picture's settings: a field that they do not name is left to the model. */
  reuse(settings) {
    const left = Object.fromEntries(FIELDS.filter((name) => name !== "strength").map((name) => [name, ""]));
    this.fill({ ...left, ...settings, count: "" });
    this.carried = Object.fromEntries(CARRIED.filter((name) => name in settings).map((name) => [name, settings[name]]));
  }

  /** Return what is set beside the words and the seed, {…fields, carried}, for `takeSettings`. */
  get settings() {
    const { prompt, negative_prompt, seed, ...values } = this.values;
    const carried = Object.fromEntries(Object.entries(this.carried).filter(([name]) => !VARIATION.includes(name)));
    return { ...values, carried };
  }

  takeSettings({ carried, ...values }) {
    this.fill(values);
    this.drop(CARRIED.filter((name) => !VARIATION.includes(name)));
    Object.assign(this.carried, carried);
  }

  /** Leave all but the words to the model. */
  clear() {
    this.fill(Object.fromEntries([...CHOICES, ...NUMBERS].map((name) => [name, ""])));
    this.carried = {};
    this.strengthIsChosen = false;
  }

  /** What the fields hold, by name: the strength, only where it is chosen. */
  get values() {
    const names = this.known.filter((name) => name !== "strength" || this.strengthIsChosen);
    return Object.fromEntries(names.map((name) => [name, this.fields[name].value]));
  }

  /** Keep it over a reload. */
  keep() {
    keep(KEPT, this.model ? this.values : { ...kept(KEPT), ...this.values });
  }

  /** Fill in what was there before a reload, as far as that is possible yet. */
  restore() {
    this.fill(kept(KEPT) ?? {});
  }

  /** Put a text into the prompt, with a space before it where there is none. */
  insert(text) {
    const { prompt } = this.fields;
    const { value, selectionStart: start, selectionEnd: end } = prompt;
    const gap = start && !/\s$/.test(value.slice(0, start)) ? " " : "";
    prompt.setRangeText(gap + text, start, end, "end");
    prompt.focus();
  }

  /** Keep the seed of the picture that is looked at, or draw with new ones again. */
  toggleSeed() {
    const { seed } = this.fields;
    seed.value = seed.value === "" ? this.seedAtHand : "";
    this.drop(VARIATION);
  }

  /** Carry settings no further. */
  drop(names) {
    for (const name of names) delete this.carried[name];
  }

  /** Set a size of these proportions, with about as many pixels as the model was trained at. */
  setProportions(ratio) {
    const { width, height, multiple } = this.model;
    const side = (exact) => Math.round(exact / multiple) * multiple;
    this.fill({ width: side(Math.sqrt(width * height * ratio)), height: side(Math.sqrt((width * height) / ratio)) });
  }

  // What follows from what it holds.

  /** Say and offer all of it. */
  tell() {
    this.words.tell(this.fields.prompt.value);
    this.tellSeed();
    this.tellStrength();
    if (!this.model) return;
    this.offerSchedulers();
    this.offerCaches(this.fields.cache.value);
    this.tellSize();
    this.onTell();
  }

  tellSeed() {
    const isLocked = this.fields.seed.value !== "";
    at("lock").hidden = !isLocked && this.seedAtHand === null;
    at("lock").textContent = isLocked ? "New seeds" : "Keep the seed";
  }

  tellStrength() {
    const { strength } = this.fields;
    if (!this.strengthIsChosen) strength.value = this.source.isMasked ? 1 : STRENGTH;
    at("strength-value").value = Number(strength.value).toFixed(2);
  }

  /** Say before the wait that a size is far from what the model was trained at. */
  tellSize() {
    const [width, height] = this.size;
    const ratio = (width * height) / (this.model.width * this.model.height);
    const isFar = !this.source.file && (ratio > FAR || ratio < 1 / FAR);
    at("size-help").textContent = isFar ? `This model draws best near ${this.model.width}\u00a0×\u00a0${this.model.height}.` : "";
  }

  /** Offer the schedulers that go with the sampler. */
  offerSchedulers() {
    const { sampler, scheduler } = this.fields;
    const chosen = this.choices.samplers.find(({ name }) => name === (sampler.value || this.model.sampler));
    const fitting = this.choices.schedulers.filter(({ name }) => chosen.schedulers.includes(name));
    const own = sampler.value ? "the sampler's own" : "the model's own";
    offer(scheduler, [[own, ""], ...fitting.map(({ name, label }) => [label, name])]);
    at("sampler-help").textContent = `${chosen.label}: ${chosen.summary}`;
  }

  /** Offer the caches that the model can have, and choose one. */
  offerCaches(wanted) {
    const { cache: own, caches } = this.model;
    if (wanted === own) wanted = ""; // so that it gives way where a sampler cannot have it
    const fitting = this.choices.caches.filter(({ name }) => caches.includes(name)).map(({ name, usual }) => `${name}:${usual}`);
    const texts = ["none", ...fitting];
    if (wanted && !texts.includes(wanted)) texts.push(wanted); // with a number of its own
    offer(this.fields.cache, [[`the server's own (${own ?? "none"})`, ""], ...texts.map((text) => [text, text])]);
    this.fields.cache.value = wanted;
    const [name] = (wanted || own || "").split(":");
    at("cache-help").textContent = this.choices.caches.find((each) => each.name === name)?.summary ?? "";
  }
}
