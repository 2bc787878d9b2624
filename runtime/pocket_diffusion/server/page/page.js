// The page: a form becomes an order, the order a job, the job a picture, and the picture a place in the gallery.

import { Board } from "./board.js";
import { at } from "./dom.js";
import { Drops } from "./drops.js";
import { Form } from "./form.js";
import { Gallery } from "./gallery.js";
import { Grid } from "./grid.js";
import { History } from "./history.js";
import { keepPage } from "./keep.js";
import { Mask } from "./masks.js";
import { Models } from "./models.js";
import { Presets } from "./presets.js";
import { Queue } from "./queue.js";
import { settingsOf } from "./restore.js";
import { insist, readPicture, readTexts } from "./server.js";
import { Sketcher } from "./sketch.js";
import { Source } from "./source.js";
import { Stage } from "./stage.js";
import { Words } from "./words.js";

const VARIATIONS = { count: 4, variation_strength: 0.3 };

const mask = new Mask({
  canvas: at("mask"), ring: at("ring"), brush: at("brush"), eraser: at("eraser"), undo: at("undo"), redo: at("redo"),
  onChange: () => {
    source.keepMask();
    onSource();
  },
});
const source = new Source({
  chosen: at("chosen"), drop: at("drop"), picture: at("source-picture"), restore: at("restore"), error: at("source-error"), mask, feather: at("feather"),
  readSettings: async (image) => settingsOf(await readTexts(image), form.choices),
  onChange: onSource,
});
const board = new Board();
const words = new Words({
  examples: at("examples"), unknown: at("unknown"), names: at("word-list"),
  onChoose: takePrompt,
  onInsert: (text) => {
    form.insert(text);
    change();
  },
});
const form = new Form({
  fields: at("form"), source, words,
  onTell: () => {
    presets.tell();
    grid.tell();
  },
});
const models = new Models({ list: at("models"), row: at("models-row"), line: at("model"), onModel, onError: complain });
const history = new History({ place: at("history"), list: at("prompts"), onChoose: takePrompt });
const presets = new Presets({
  saving: at("preset"), list: at("preset-list"), line: at("preset-line"),
  read: () => ({ prompt: form.fields.prompt.value, negative_prompt: form.fields.negative_prompt.value, settings: form.settings }),
  onChoose: ({ settings, ...given }) => {
    form.fill(given);
    if (settings) form.takeSettings(settings);
    change();
  },
});
const stage = new Stage({
  size: () => form.size,
  onLook: (picture) => {
    gallery.mark(picture?.url);
    form.seedAtHand = stage.looking?.seed ?? null;
    form.tell();
  },
});
const gallery = new Gallery({
  section: at("gallery-section"), list: at("gallery"), note: at("gallery-note"),
  onChoose: (picture) => {
    sketcher.stop(); // which would soon take its place
    grid.close();
    stage.look(picture);
  },
});
const sketcher = new Sketcher({
  box: at("sketch"), order: sketchOrder,
  onSketch: (sketch) => {
    grid.close();
    stage.lookAtSketch(sketch);
  },
  onGap: () => stage.sayGone(),
  onError: ({ message }) => stage.tell(message),
});
const queue = new Queue({
  onBegin: () => {
    at("draw").setAttribute("aria-disabled", "true"); // not `disabled`, which would take the focus away
    board.close();
    stage.begin();
  },
  onJob: () => at("draw").removeAttribute("aria-disabled"), // another drawing can follow
  onView: (view) => stage.onView(view),
  onGap: () => stage.sayGone(),
  onEnd: () => {
    if (document.activeElement === at("cancel")) at("draw").focus();
    at("draw").removeAttribute("aria-disabled");
    stage.end();
  },
  onUpcoming: (count) => stage.tellUpcoming(count),
});
const grid = new Grid({
  fields: { ...Object.fromEntries([...at("form").elements].map((field) => [field.name, field])), model: at("models") },
  prompt: () => form.fields.prompt.value,
  order: async () => {
    if (!isReady || !form.fields.reportValidity()) return null;
    sketcher.stop();
    return order();
  },
  put: (asked) => queue.put(asked, { isTrial: true }),
  onOpen: () => {
    board.close();
    stage.bringIntoView();
  },
  onChoose: (picture) => {
    if (!gallery.pictures.includes(picture)) gallery.add([picture]);
    stage.look(picture);
    at("reuse").focus(); // the picture's own button is hidden now
  },
  onEnd: ({ line, error }) => {
    stage.showLast(); // in the place of a cell's preview
    stage.say(line, error);
  },
});
new Drops({
  box: at("source"),
  find: (url) => gallery.pictures.find((each) => each.url === url),
  onFile: (file) => source.choose(file),
  onPicture: (picture) => startFrom(picture).catch(complain),
});
let isReady = false; // whether the page knows what the server has, and what a reload interrupted
let isEager = false; // asked to draw before
let isChanged = false; // likewise, the form was filled in

// From the form to an order.

/** Return the form as an order; drawings have the seed of their sketches. */
async function order() {
  const asked = await form.order();
  if (sketcher.seed !== null) asked.seed ??= sketcher.seed;
  return asked;
}

/** Return the order of a sketch of the form; null where that cannot be drawn. */
async function sketchOrder() {
  if (!form.model || !form.fields.prompt.value.trim() || !form.fields.matches(":valid")) return null;
  return form.sketch(await order());
}

/** The form was changed by hand. */
function change() {
  form.tell();
  form.keep();
  sketchChange();
}

/** Sketch what has changed, unless something is drawn; as soon as the page is ready. */
function sketchChange() {
  isChanged ||= !isReady;
  if (isReady && !queue.isBusy) sketcher.change();
}

/** Put a text in the place of the prompt. */
function takePrompt(text) {
  form.fill({ prompt: text });
  change();
}

/** Take a picture's settings for the form; of two passes, the first's, since the page draws in one. */
function reuse(told, { keepsSource = false } = {}) {
  const settings = told.first_pass ?? told;
  if (settings.task === "text-to-image" && !keepsSource) source.remove();
  form.reuse(settings);
  form.tell();
  form.keep();
  sketcher.stop(); // which the picture's settings need not
}

function onModel({ model, choices, adapters, isDefault }) {
  words.introduce(model, adapters);
  form.introduce(model, choices, isDefault);
  if (!model.follows_instructions || !source.isMasked) return;
  board.close();
  mask.clear();
}

function onSource() {
  if (!source.file) board.close();
  form.tell();
  sketchChange();
}

async function startFrom(picture) {
  await source.choose(picture.file ?? (await readPicture(picture.url))); // the server may have forgotten it
  at("source").scrollIntoView({ block: "nearest" });
}

// From an order to a picture in the gallery.

async function draw() {
  isEager ||= !isReady;
  if (!isReady || queue.isSending || !form.fields.reportValidity()) return; // a second click, while it is sent
  sketcher.stop();
  form.keep();
  history.add(form.fields.prompt.value);
  grid.close();
  await finish(queue.put(order()));
}

/** Draw more like a picture: with all its settings, and noise that differs a little from its seed's. */
async function vary({ settings: { variation_seed, variation_strength, ...settings } }) {
  reuse(settings);
  await finish(queue.put(order().then((asked) => ({ ...asked, seed: settings.seed, ...VARIATIONS }))));
}

/** Show what has become of an order in the queue. */
async function finish(drawn) {
  const { state, pictures, warnings, error } = await drawn;
  if (state === "done") {
    gallery.add(pictures);
    stage.look(pictures[0]);
    words.offer();
    if (warnings.length) stage.say(at("line").textContent, warnings.join(" "));
  } else if (state !== "dropped") {
    stage.showLast();
    if (state === "failed") stage.say("", error);
    else stage.say(`Cancelled: ${error}`);
  }
}

function complain({ message }) {
  stage.say("", message);
}

function compare() {
  const index = gallery.pictures.indexOf(stage.looking);
  stage.compare(gallery.pictures[index + 1] ?? gallery.pictures[index - 1]);
}

// Who does what when.

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  draw();
});
at("studio").addEventListener("input", ({ target }) => {
  if (!("ofView" in target.dataset)) change(); // some of the form's fields lie outside it
});
at("sketch").addEventListener("input", ({ target }) => {
  if (target.checked || !stage.showsSketch) return;
  stage.tell("");
  stage.showLast();
});
// A number that is wrong cannot be pointed at while it is folded away.
at("studio").addEventListener("invalid", ({ target }) => (at("settings").open ||= at("settings").contains(target)), true);
at("cancel").onclick = () => queue.cancel();
at("defaults").onclick = () => {
  form.clear();
  change();
};
at("lock").onclick = () => {
  form.toggleSeed();
  change();
};
at("aspects").onclick = ({ target }) => {
  if (!target.dataset.ratio) return;
  form.setProportions(Number(target.dataset.ratio));
  change();
};
at("forget").onclick = () => {
  history.clear();
  form.fields.prompt.focus();
};

for (const [input, take] of [["file", (file) => source.choose(file)], ["mask-file", (file) => source.loadMask(file)]]) {
  at(input).onchange = ({ target }) => {
    if (target.files.length) take(target.files[0]);
    target.value = "";
  };
}
at("remove-source").onclick = () => {
  source.remove();
  at("file").focus();
};
at("restore").onclick = () => reuse(source.settings, { keepsSource: true }); // to start from it
at("clear-mask").onclick = () => mask.clear();
at("invert-mask").onclick = () => mask.invert();
at("enlarge").onclick = () => {
  if (board.isOpen) return board.close();
  grid.close();
  board.open();
  stage.bringIntoView();
};
at("zoom").addEventListener("input", ({ target }) => at("board").style.setProperty("--zoom", target.value));

at("reuse").onclick = () => reuse(stage.looking.settings);
at("start-from-it").onclick = () => startFrom(stage.looking).catch(complain);
at("vary").onclick = () => vary(stage.looking);
at("compare").onclick = compare;
at("full").onclick = () => stage.viewer.toggleFull();
at("delete").onclick = async () => {
  try {
    const next = await gallery.remove(stage.looking);
    stage.say("Deleted");
    if (next) stage.look(next);
    else stage.forget();
  } catch (error) {
    complain(error);
  }
};
at("download-all").onclick = () => gallery.download();

window.addEventListener("pagehide", () => sketcher.stop());
window.addEventListener("beforeunload", (event) => {
  if (grid.isGoing) event.preventDefault(); // the browser asks
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) draw();
  if (event.key === "Escape" && !event.isComposing && queue.isBusy) queue.cancel();
});

// What is there to begin with.

const onGap = () => stage.sayGone();
form.restore();
try {
  await Promise.all([insist(() => models.load(), { onGap }), insist(() => gallery.load(), { onGap })]);
  stage.say("");
  await source.restore();
  form.tell();
  isReady = true;
  const found = queue.restore();
  if (gallery.pictures.length && !stage.looking) stage.look(gallery.pictures[0]);
  found.forEach(finish);
  if (isEager) draw();
  else if (isChanged) sketchChange();
  keepPage();
} catch (error) {
  isReady = true; // for the server's own model
  complain(error);
}
