// How a picture was drawn, as its file says: by us, or by AUTOMATIC1111's web UI and what writes as that does.

/** Return the seed that a picture was drawn with, and that of its variation, if it is one. */
export const seedsOf = ({ seed, settings }) => [seed, settings.variation_seed].filter((each) => each !== undefined);

const NAMES = { "Steps": "steps", "CFG scale": "guidance_scale", "Seed": "seed", "Variation seed": "variation_seed", "Variation seed strength": "variation_strength", "Denoising strength": "strength", "Clip skip": "clip_skip" };

/** Return the settings that a picture's text has, or null. `choices` are all samplers and schedulers. */
export function settingsOf({ info, items }, choices) {
  if (items["pocket-diffusion"]) return JSON.parse(items["pocket-diffusion"]);
  return info ? fromParameters(info, choices) : null;
}

const byLabel = (rows, text) => rows.find(({ label }) => label.toLowerCase() === text.trim().toLowerCase())?.name;

/** Older versions wrote the scheduler behind the sampler: "DPM++ 2M Karras". */
function samplerOf(text, { samplers, schedulers }) {
  const sampler = byLabel(samplers, text);
  if (sampler) return { sampler };
  const words = text.trim().split(" ");
  const [first, last] = [byLabel(samplers, words.slice(0, -1).join(" ")), byLabel(schedulers, words.at(-1))];
  return first && last ? { sampler: first, scheduler: last } : {};
}

/** Read the web UI's text: the prompt, "Negative prompt: …", and a line of facts that begins with the steps. */
function fromParameters(text, choices) {
  const lines = text.split("\n");
  const last = lines.findLastIndex((line) => line.startsWith("Steps: "));
  if (last < 0) return null;
  const [prompt, negative = ""] = lines.slice(0, last).join("\n").split(/^Negative prompt: /m);
  const settings = { prompt: prompt.trim(), negative_prompt: negative.trim(), task: "text-to-image" };
  for (const [, name, value] of lines[last].matchAll(/([A-Z][\w ]*): ("(?:[^"\\]|\\.)*"|[^,]*)/g)) {
    if (name in NAMES) settings[NAMES[name]] = Number(value);
    if (name === "Schedule type") settings.scheduler = byLabel(choices.schedulers, value) ?? settings.scheduler;
    if (name === "Sampler") Object.assign(settings, samplerOf(value, choices));
    if (name === "Size") [settings.width, settings.height] = value.split("x").map(Number);
  }
  if ("strength" in settings) settings.task = "image-to-image";
  return settings;
}
