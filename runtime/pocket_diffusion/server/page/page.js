// The page: a form becomes an order, the order a job, the job a picture, and the picture a place in the gallery.

import { Gallery } from "./gallery.js";
import { History } from "./history.js";
import { Mask } from "./masks.js";
import { settingsOf } from "./restore.js";
import {
  createJob, deleteJob, followJob, readAdapters, readModel, readModels, readPicture, readSamplers, readTexts,
} from "./server.js";
import { Sketcher } from "./sketch.js";
import { base64, Source } from "./source.js";
import { Viewer } from "./viewer.js";
import { Words } from "./words.js";

const JOB = "pocket-diffusion job";
const FORM = "pocket-diffusion form";
const MODEL = "pocket-diffusion model";
const at = (id) => document.getElementById(id);
const form = at("form");
const NUMBERS = ["width", "height", "steps", "guidance_scale", "image_guidance_scale", "seed", "count"];
const CHOICES = ["sampler", "scheduler", "cache"];
const CARRIED = ["guidance_rescale", "guidance_interval", "clip_skip", "token_downsampling", "loras"]; // settings without a field, as a picture has them
const NOISE = ["eta", "s_noise"]; // likewise, of one sampler
const LARGEST = 4; // times its own size that a small picture is shown at
const FAR = 2; // times the pixels that a model was trained at, or a part of them: beyond that it draws badly
const SKETCH_STEPS = 6; // of the usual sampler, which then shows nearly all that is asked for
const VARIATIONS = 4;
const REUSED = ["prompt", "negative_prompt", "strength", ...CHOICES, ...NUMBERS];

const mask = new Mask({
  canvas: at("mask"), ring: at("ring"), brush: at("brush"), eraser: at("eraser"), undo: at("undo"), redo: at("redo"),
  onChange: () => {
    source.keepMask();
    changeSource();
  },
});
const source = new Source({ chosen: at("chosen"), drop: at("drop"), picture: at("source-picture"), mask, onChange: changeSource });
const sketcher = new Sketcher({ box: at("sketch"), order: sketchOrder, onSketch: lookAtSketch, onError: ({ message }) => tell(message) });
const gallery = new Gallery(at("gallery-section"), at("gallery"), (picture) => {
  sketcher.stop(); // which would soon take its place
  look(picture);
});
const viewer = new Viewer({ frame: at("frame"), other: at("other"), slider: at("edge"), row: at("comparing") });
const words = new Words({
  examples: at("examples"), unknown: at("unknown"),
  onChoose: takePrompt,
});
const history = new History({ place: at("history"), list: at("prompts"), onChoose: takePrompt });
let looking = null; // the finished picture on the stage
let job = null; // the id of the one that is being drawn
let busy = true; // from the order to its end, and until the page has found out what is going on
let leaving = false; // the page is about to go, and with it what it follows
let carried = {}; // what a picture was drawn with beyond the form
let tellSampler = () => {}; // until the lists are there
let tellCache = () => {};
let usual = { width: 0, height: 0, steps: SKETCH_STEPS }; // the model's own
let isDefault = true; // whether the model is the server's own
let choices = { samplers: [], schedulers: [] }; // that there are
let restored = null; // the settings that the picture to start from says of itself
const upcoming = []; // orders that were given while another was drawn
let usualStrength = () => 0.8; // the server's own
let strengthIsChosen = false; // else the server's own goes by what is asked for
let introduced = false; // whether the page knows what the server has
let eager = false; // asked to draw before it knew
let changed = false; // likewise, the form was filled in
let stopping = false; // asked for before there was a job to cancel

// What the form says.

/** Return the form as an order; what is left empty is the model's default. */
async function order() {
  const asked = { prompt: form.prompt.value };
  if (!form.negative_prompt.disabled) asked.negative_prompt = form.negative_prompt.value;
  for (const name of CHOICES) {
    if (form[name].value) asked[name] = form[name].value;
  }
  for (const name of NUMBERS) {
    if (form[name].value !== "" && !form[name].disabled) asked[name] = Number(form[name].value);
  }
  if (!isDefault) asked.model = at("models").value;
  if (sketcher.seed !== null) asked.seed ??= sketcher.seed;
  Object.assign(asked, carried);
  const pictures = await source.order();
  Object.assign(asked, pictures);
  if (pictures.image && (strengthIsChosen || pictures.mask) && !form.strength.disabled) asked.strength = Number(form.strength.value);
  return asked;
}

/** Return the order of a sketch of the form; null where that cannot be drawn. */
async function sketchOrder() {
  if (!form.prompt.value.trim() || !form.matches(":valid")) return null;
  const asked = await order();
  const least = asked.image && !form.strength.disabled ? Math.ceil(1 / form.strength.value) : 1; // with fewer, none would be drawn
  const steps = Math.max(least, Math.min(asked.steps ?? usual.steps, usual.steps, SKETCH_STEPS));
  return { ...asked, steps, count: 1, cache: "none", keep: false };
}

function reuse(settings) {
  for (const name of REUSED) {
    if (name in settings || name !== "strength") form[name].value = settings[name] ?? ""; // "" is the model's own
    if (name === "sampler") tellSampler(); // by which the schedulers go
  }
  tellCache(settings.cache ?? "");
  strengthIsChosen ||= "strength" in settings;
  form.count.value = "";
  carried = Object.fromEntries([...CARRIED, ...NOISE].filter((name) => name in settings).map((name) => [name, settings[name]]));
  if (settings.task === "text-to-image") source.remove();
  tellSampler();
  tellStrength();
  tellPrompt();
  tellSize();
  tellSeed();
  keepForm();
  sketcher.stop(); // which the picture's settings need not
}

/** The form was changed by hand. */
function change() {
  tellPrompt();
  tellSize();
  tellSeed();
  keepForm();
  sketchChange();
}

/** Sketch what has changed, unless something is drawn; as soon as the page knows what the server has. */
function sketchChange() {
  changed ||= !introduced;
  if (!busy) sketcher.change();
}

function keepForm() {
  const kept = REUSED.filter((name) => name !== "strength" || strengthIsChosen);
  sessionStorage.setItem(FORM, JSON.stringify(Object.fromEntries(kept.map((name) => [name, form[name].value]))));
}

function tellStrength() {
  if (!strengthIsChosen) form.strength.value = usualStrength();
  at("strength-value").value = Number(form.strength.value).toFixed(2);
}

function tellPrompt() {
  words.tell(form.prompt.value);
}

/** Offer to keep the seed of the picture that is looked at, or to draw with new ones again. */
function tellSeed() {
  const isLocked = form.seed.value !== "";
  at("lock").hidden = !isLocked && !looking;
  at("lock").textContent = isLocked ? "New seeds" : "Keep the seed";
}

/** Say before the wait that a size is far from what the model was trained at. */
function tellSize() {
  const [width, height] = [form.width.value || usual.width, form.height.value || usual.height];
  const ratio = (width * height) / (usual.width * usual.height);
  const isFar = !source.file && (ratio > FAR || ratio < 1 / FAR);
  at("size-help").textContent = isFar ? `This model draws best near ${usual.width}\u00a0×\u00a0${usual.height}.` : "";
}

/** Learn which models there are, and begin with the one that was chosen last. */
async function introduceModels() {
  const { default: usual, names } = await readModels();
  const kept = localStorage.getItem(MODEL);
  const list = at("models");
  list.replaceChildren(...names.map((name) => new Option(name)));
  list.value = names.includes(kept) ? kept : usual;
  list.onchange = () => introduce(usual).catch((error) => say("", error.message));
  at("models-row").hidden = names.length === 1;
  await introduce(usual);
}

/** Offer what the chosen model has. */
async function introduce(usualModel) {
  const name = at("models").value;
  const [model, known, adapters] = await Promise.all([readModel(name), readSamplers(), readAdapters(name)]);
  choices = known;
  isDefault = name === usualModel;
  if (isDefault) localStorage.removeItem(MODEL);
  else localStorage.setItem(MODEL, name);
  at("model").textContent = `${at("models-row").hidden ? `${model.name}, ` : ""}${model.width}\u00a0×\u00a0${model.height}`;
  for (const name of ["width", "height", "steps", "guidance_scale"]) form[name].placeholder = model[name];
  usual = model;
  form.steps.max = model.max_steps;
  form.count.max = model.max_count;
  for (const name of ["width", "height"]) form[name].step = form[name].min = model.multiple;
  form.width.min = form.height.min = Math.ceil(64 / model.multiple) * model.multiple;
  introduceFamily(model);
  introduceSamplers(model, choices);
  introduceCaches(model, choices);
  introduceWords(adapters);
  words.introduce(model, adapters.embeddings);
  tellPrompt();
  tellSize();
  tellSeed();
}

/** Offer what this kind of model takes, and nothing else. */
function introduceFamily({ guides_itself, repaints, follows_instructions, image_guidance_scale }) {
  form.negative_prompt.disabled = guides_itself;
  form.negative_prompt.placeholder = guides_itself ? "this model takes none" : "";
  usualStrength = () => (source.isMasked ? 1 : 0.8); // what is painted over is to be drawn anew
  at("image-guidance-row").hidden = form.image_guidance_scale.disabled = !follows_instructions;
  form.image_guidance_scale.placeholder = image_guidance_scale ?? "";
  at("strength-row").hidden = form.strength.disabled = follows_instructions;
  for (const element of document.querySelectorAll("[data-of-mask]")) element.hidden = follows_instructions;
  if (follows_instructions && source.isMasked) {
    paint(false);
    mask.clear();
  }
}

/** Offer what the prompt may name: each button puts its text where the cursor is. */
function introduceWords({ loras, embeddings }) {
  const words = [...loras.map((name) => [name, `<lora:${name}:1>`]), ...embeddings.map((word) => [word, word])];
  at("words").hidden = !words.length;
  at("word-list").replaceChildren(...words.map(([name, text]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.title = text;
    button.onclick = () => insert(text);
    return button;
  }));
}

/** Put a text in the place of the prompt. */
function takePrompt(text) {
  form.prompt.value = text;
  change();
}

/** Put a text into the prompt, with a space before it where there is none. */
function insert(text) {
  const { value, selectionStart: start, selectionEnd: end } = form.prompt;
  const gap = start && !/\s$/.test(value.slice(0, start)) ? " " : "";
  form.prompt.setRangeText(gap + text, start, end, "end");
  form.prompt.focus();
  change();
}

/** Fill the lists of samplers and of the schedulers that go with the one that is chosen. */
function introduceSamplers(model, { samplers, schedulers }) {
  const own = new Option("the model's own", "");
  form.sampler.replaceChildren(own, ...samplers.map(({ name, label }) => new Option(label, name)));
  tellSampler = () => {
    const sampler = samplers.find(({ name }) => name === (form.sampler.value || model.sampler));
    const wanted = form.scheduler.value;
    const fitting = schedulers.filter(({ name }) => sampler.schedulers.includes(name));
    form.scheduler.replaceChildren(
      new Option(form.sampler.value ? "the sampler's own" : "the model's own", ""),
      ...fitting.map(({ name, label }) => new Option(label, name)),
    );
    form.scheduler.value = fitting.some(({ name }) => name === wanted) ? wanted : "";
    at("sampler-help").textContent = `${sampler.label}: ${sampler.summary}`;
  };
  tellSampler();
}

/** Offer the caches that the model can have; `tellCache` takes the one that is to be chosen. */
function introduceCaches(model, { caches }) {
  const fitting = caches.filter(({ name }) => model.caches.includes(name));
  const choices = [
    new Option(`the server's own (${model.cache ?? "none"})`, ""),
    new Option("none", "none"),
    ...fitting.map(({ name, usual }) => new Option(`${name}:${usual}`)),
  ];
  tellCache = (wanted = form.cache.value) => {
    if (wanted === model.cache) wanted = ""; // so that it gives way where a sampler cannot have it
    const known = choices.some(({ value }) => value === wanted);
    form.cache.replaceChildren(...choices, ...(known ? [] : [new Option(wanted)])); // with a number of its own
    form.cache.value = wanted;
    const [name] = (wanted || model.cache || "").split(":");
    at("cache-help").textContent = caches.find((each) => each.name === name)?.summary ?? "";
  };
  tellCache("");
}

// What the stage shows.

let said = null; // what was read out last

/** Have a line read out, if it is a new one. */
function announce(line) {
  if (line !== said) at("status").textContent = said = line;
}

function say(status, error = "") {
  tell(status);
  at("status").textContent = said = status;
  at("error").textContent = error;
}

function show(url, alt, kinds = "") {
  const picture = at("picture");
  picture.src = url;
  picture.alt = alt;
  picture.className = kinds;
  const longest = Math.max(form.width.value || usual.width, form.height.value || usual.height);
  picture.style.setProperty("--most", kinds ? `${LARGEST * longest}px` : "");
  picture.hidden = false;
  at("empty").hidden = true;
  stopComparing();
}

function look(picture) {
  looking = picture;
  tellSeed();
  show(picture.url, `${picture.settings.prompt}, seed ${picture.seed}`);
  const { width, height } = picture.settings;
  at("picture").style.setProperty("--most", `${LARGEST * Math.max(width, height)}px`);
  at("download").href = picture.url;
  at("download").download = `${picture.seed}.png`;
  at("picture-actions").hidden = false;
  gallery.mark(picture.url);
  if (!busy) say(`${picture.settings.width} × ${picture.settings.height}, seed ${picture.seed}`);
}

function lookAtSketch({ url, prompt, steps }) {
  show(url, `A sketch of ${prompt}`, "preview sketch");
  at("picture-actions").hidden = true;
  gallery.mark(null);
  say("");
  tell(`A sketch in ${steps} ${steps === 1 ? "step" : "steps"}`);
}

/** Show a line without having it read out, as often as it may change. */
function tell(line) {
  at("line").textContent = line;
}

function onView(view) {
  const left = view.seconds_left === null ? "" : `, about ${duration(view.seconds_left)}`;
  at("progress").value = view.steps ? view.step / view.steps : 0;
  if (view.state === "queued") {
    const before = view.position === 1 ? "one drawing" : `${view.position} drawings`;
    const line = view.position ? `Waiting for ${before}` : "Waiting";
    tell(`${line}${left}`);
    announce(line);
  } else if (view.state === "running") {
    tell(view.step ? `Step ${view.step} of ${view.steps}${left}` : "Beginning");
    announce(`Drawing, ${Math.floor((4 * view.step) / view.steps) * 25} percent`);
  }
  if (view.preview) {
    at("picture-actions").hidden = true;
    show(view.preview, "What is drawn so far", "preview");
  }
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s left`;
  return `${Math.round(seconds / 60)} min left`;
}

function begin() {
  busy = true;
  stopping = false;
  said = null;
  at("draw").setAttribute("aria-disabled", "true"); // not `disabled`, which would take the focus away
  at("going").hidden = false;
  if (!at("board").hidden) paint(false);
  bringIntoView();
  at("progress").value = 0;
  at("frame").setAttribute("aria-busy", "true");
  say("Sending");
}

function end() {
  busy = false;
  job = null;
  if (document.activeElement === at("cancel")) at("draw").focus();
  at("draw").removeAttribute("aria-disabled");
  at("going").hidden = true;
  at("frame").removeAttribute("aria-busy");
}

// From an order to a picture.

async function draw() {
  eager ||= !introduced; // drawn as soon as the page knows what the server has
  if ((busy && !job) || !form.reportValidity()) return; // a second click
  sketcher.stop();
  keepForm();
  history.add(form.prompt.value);
  await follow(order());
}

/** Draw an order that is still being put together; after what is being drawn, if something is. */
async function follow(asked) {
  const isFirst = !busy;
  if (isFirst) begin(); // at once, so that a second click is one
  try {
    upcoming.push(await asked);
  } catch (error) {
    if (isFirst) giveUp(error);
    else say("", error.message);
    return;
  }
  if (isFirst || !busy) await drawUpcoming(); // the one before may have ended meanwhile
  else tellUpcoming();
}

async function drawUpcoming() {
  while (upcoming.length) {
    if (!busy) begin();
    try {
      const { id } = await createJob(upcoming.shift());
      await waitFor(id);
    } catch (error) {
      upcoming.length = 0;
      giveUp(error);
    }
  }
}

function tellUpcoming() {
  const count = upcoming.length;
  at("upcoming").textContent = count ? `${count} more ${count === 1 ? "follows" : "follow"}` : "";
}

/** On a phone, the form may fill the window. */
function bringIntoView() {
  if (at("stage").getBoundingClientRect().top > innerHeight / 2) at("stage").scrollIntoView({ block: "start" });
}

/** Say why there is no picture, and show the last one again. */
function giveUp(error) {
  end();
  showLast();
  say("", error.message);
}

function showLast() {
  if (looking) look(looking);
  else at("picture").hidden = !(at("empty").hidden = false);
}

async function waitFor(id) {
  job = id;
  at("draw").removeAttribute("aria-disabled"); // from now on, another drawing can follow
  tellUpcoming();
  sessionStorage.setItem(JOB, id);
  if (stopping) await deleteJob(id);
  const view = await followJob(id, onView, () => tell("Connecting again"));
  sessionStorage.removeItem(JOB); // only now: a page that is left stops following, too
  end();
  if (view.state === "done" && !stopping) {
    gallery.add(view.pictures);
    look(view.pictures[0]);
    words.offer();
    if (view.warnings.length) say(at("line").textContent, view.warnings.join(" "));
  } else {
    showLast();
    if (view.state === "failed") {
      upcoming.length = 0; // which would fail likewise, and hide the error
      say("", view.error);
    } else say(`Cancelled: ${view.error ?? "the drawing was done at that moment"}`);
  }
}

async function chooseSource(file) {
  restored = null;
  try {
    await source.choose(file);
    say("");
    restored = settingsOf(await readTexts(await base64(file)), choices);
  } catch (error) {
    if (source.file) return; // its text cannot be read, which is no fault of the picture
    sketcher.stop(); // by which the error would soon be replaced
    say("", error.message);
  } finally {
    at("restore").hidden = !restored;
    tellSize();
  }
}

function changeSource() {
  if (!source.file && !at("board").hidden) paint(false);
  tellStrength();
  sketchChange();
}

/** Have the mask painted on the stage, as large as that is, or beside the form. */
function paint(isLarge) {
  if (isLarge) at("board").append(at("easel"));
  else at("chosen").prepend(at("easel"));
  (isLarge ? at("stage-tools") : at("mask-place")).append(at("mask-tools"));
  at("board").hidden = at("zoom-row").hidden = !isLarge;
  at("enlarge").textContent = isLarge ? "Done" : "Paint on the stage";
  if (isLarge) bringIntoView();
}

/** Draw more like a picture: with all its settings, and the seeds that follow its own. */
async function vary({ settings }) {
  reuse(settings);
  await follow(order().then((asked) => ({ ...asked, seed: settings.seed + 1, count: VARIATIONS })));
}

/** Lay the picture that was drawn before over the one that is looked at. */
function compare() {
  const index = gallery.pictures.indexOf(looking);
  const before = gallery.pictures[index + 1] ?? gallery.pictures[index - 1];
  if (viewer.isComparing || !before) return stopComparing();
  viewer.compare(before, at("picture").style.getPropertyValue("--most"));
  at("compare").setAttribute("aria-pressed", "true");
}

function stopComparing() {
  viewer.stop();
  at("compare").setAttribute("aria-pressed", "false");
}

/** Set a size of these proportions, with about as many pixels as the model was trained at. */
function setProportions(ratio) {
  const { width, height, multiple } = usual;
  const side = (exact) => Math.round(exact / multiple) * multiple;
  form.width.value = side(Math.sqrt(width * height * ratio));
  form.height.value = side(Math.sqrt((width * height) / ratio));
  change();
}

async function startFrom(picture) {
  await chooseSource(await readPicture(picture.url));
  at("source").scrollIntoView({ block: "nearest" });
}

// Who does what when.

form.addEventListener("submit", (event) => {
  event.preventDefault();
  draw();
});
at("studio").addEventListener("input", ({ target }) => {
  if (!("ofView" in target.dataset)) change(); // some of the form's fields lie outside it
});
at("sketch").addEventListener("input", ({ target }) => {
  if (target.checked || !at("picture").classList.contains("sketch")) return;
  tell("");
  showLast();
});
// A number that is wrong cannot be pointed at while it is folded away.
at("studio").addEventListener("invalid", ({ target }) => (at("settings").open ||= at("settings").contains(target)), true);
form.strength.addEventListener("input", () => {
  strengthIsChosen = true;
  tellStrength();
});
form.cache.addEventListener("input", () => tellCache());
form.sampler.addEventListener("input", () => {
  for (const name of NOISE) delete carried[name]; // which another sampler may not take
  tellSampler();
});
at("cancel").onclick = () => {
  stopping = true;
  upcoming.length = 0;
  tellUpcoming();
  if (job) deleteJob(job).catch((error) => say("", error.message));
};
at("defaults").onclick = () => {
  for (const name of [...CHOICES, ...NUMBERS]) form[name].value = "";
  carried = {};
  strengthIsChosen = false;
  tellSampler();
  tellCache();
  tellStrength();
  change();
};
at("file").onchange = ({ target }) => {
  if (target.files.length) chooseSource(target.files[0]);
  target.value = "";
};
at("forget").onclick = () => {
  history.clear();
  form.prompt.focus();
};
at("lock").onclick = () => {
  form.seed.value = form.seed.value === "" && looking ? looking.seed : "";
  change();
};
at("clear-mask").onclick = () => mask.clear();
at("invert-mask").onclick = () => mask.invert();
at("mask-file").onchange = ({ target }) => {
  if (target.files.length) mask.load(target.files[0]).catch((error) => say("", error.message));
  target.value = "";
};
at("enlarge").onclick = () => {
  paint(at("board").hidden);
  at("mask").focus();
};
at("zoom").addEventListener("input", ({ target }) => at("board").style.setProperty("--zoom", target.value));
at("remove-source").onclick = () => {
  source.remove();
  at("file").focus();
};
at("aspects").onclick = ({ target }) => target.dataset.ratio && setProportions(Number(target.dataset.ratio));
at("restore").onclick = () => {
  reuse({ ...restored, task: "" }); // the picture stays, to be started from
};
at("vary").onclick = () => vary(looking).catch((error) => say("", error.message));
at("compare").onclick = compare;
at("full").onclick = () => viewer.toggleFull();
at("delete").onclick = async () => {
  try {
    looking = await gallery.remove(looking);
  } catch (error) {
    say("", error.message);
    return;
  }
  at("picture-actions").hidden = true;
  say("Deleted");
  showLast();
};
at("download-all").onclick = () => gallery.download();
at("reuse").onclick = () => reuse(looking.settings);
at("start-from-it").onclick = () => startFrom(looking).catch((error) => say("", error.message));

window.addEventListener("beforeunload", () => (leaving = true));
window.addEventListener("pagehide", () => sketcher.stop());
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) draw();
  if (event.key === "Escape" && !event.isComposing && !at("going").hidden) at("cancel").click();
});
document.addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", () => document.body.classList.remove("dragging"));
document.addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  document.body.classList.remove("dragging");
  chooseSource(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
  if (file) chooseSource(file);
});

try {
  await Promise.all([introduceModels(), gallery.load()]);
  introduced = true;
  for (const [name, value] of Object.entries(JSON.parse(sessionStorage.getItem(FORM) ?? "{}"))) {
    if (!(name in form)) continue;
    if (name === "strength") strengthIsChosen = true;
    if (name === "cache") {
      tellCache(value);
      continue;
    }
    if (!CHOICES.includes(name) || [...form[name].options].some((option) => option.value === value)) form[name].value = value;
    if (name === "sampler") tellSampler();
  }
  await source.restore();
  tellStrength();
  tellPrompt();
  tellSize();
  tellSeed();
  const unfinished = sessionStorage.getItem(JOB);
  sessionStorage.removeItem(JOB);
  if (unfinished) {
    begin(); // the page was loaded anew
    await waitFor(unfinished);
    await drawUpcoming();
  } else {
    busy = false;
    if (gallery.pictures.length) look(gallery.pictures[0]);
    if (eager) draw();
    else if (changed) sketcher.change();
  }
} catch (error) {
  if (!leaving) sessionStorage.removeItem(JOB); // the server has forgotten it
  if (gallery.pictures.length) look(gallery.pictures[0]);
  giveUp(error);
}
