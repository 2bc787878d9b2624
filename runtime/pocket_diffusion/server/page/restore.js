// How a picture was drawn, as its file says: by us, or by AUTOMATIC1111's web UI and what writes as that does.

const NAMES = { "Steps": "steps", "CFG scale": "guidance_scale", "Seed": "seed", "Denoising strength": "strength", "Clip skip": "clip_skip" };
const CHOICES = { "Sampler": "sampler", "Schedule type": "scheduler" };

/** Return the settings that a picture's text has, or null. `choices` are all samplers and schedulers. */
export function settingsOf({ info, items }, choices) {
  if (items["pocket-diffusion"]) return JSON.parse(items["pocket-diffusion"]);
  return info ? fromParameters(info, choices) : null;
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
    if (name in CHOICES) {
      const found = choices[`${CHOICES[name]}s`].find(({ label }) => label.toLowerCase() === value.trim().toLowerCase());
      if (found) settings[CHOICES[name]] = found.name;
    }
    if (name === "Size") [settings.width, settings.height] = value.split("x").map(Number);
  }
  if ("strength" in settings) settings.task = "image-to-image";
  return settings;
}
