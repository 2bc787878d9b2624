// What all parts of the page need of its elements.

export const at = (id) => document.getElementById(id);

/** Return a button that acts when it is clicked. */
export function button(text, act) {
  return Object.assign(document.createElement("button"), { type: "button", textContent: text, onclick: act });
}

/** Offer options ([text, value]) in a list, where others are there; what was chosen stays, if it still can be. */
export function offer(list, options) {
  if (JSON.stringify([...list.options].map(({ text, value }) => [text, value])) === JSON.stringify(options)) return;
  const chosen = list.value;
  list.replaceChildren(...options.map(([text, value]) => new Option(text, value)));
  list.value = options.some(([, value]) => value === chosen) ? chosen : "";
}
