// What the model knows: examples to begin with, what its prompts may name, and the words of a prompt that it never saw.

import { button } from "./dom.js";

const SYNTAX = /<[^<>]*>|\bBREAK\b/g; // what a prompt says to the program: names of LoRAs, and where a chunk ends
const WORDS = /\p{L}+/gu;
const SHOWN = 3; // examples at a time

export class Words {
  /** `onChoose` is called with an example that was clicked, `onInsert` with the text of a name that was. */
  constructor({ examples, unknown, names, onChoose, onInsert }) {
    Object.assign(this, { places: { examples, unknown, names }, onChoose, onInsert });
    this.introduce({ vocabulary: null, examples: [] }, { loras: [], embeddings: [] });
  }

  /** Take a model's words and examples, and what its prompts may name; without a vocabulary, no word is unknown. */
  introduce({ vocabulary, examples }, { loras, embeddings }) {
    const learned = embeddings.join(" ").toLowerCase().match(WORDS) ?? [];
    this.vocabulary = vocabulary && new Set([...vocabulary, ...learned]);
    this.examples = examples ?? [];
    this.places.examples.hidden = !this.examples.length;
    this.offer();
    const names = [...loras.map((name) => [name, `<lora:${name}:1>`]), ...embeddings.map((word) => [word, word])];
    this.places.names.closest("details").hidden = !names.length;
    this.places.names.replaceChildren(...names.map(([name, text]) => Object.assign(button(name, () => this.onInsert(text)), { title: text })));
  }

  /** Offer some examples, others each time. */
  offer() {
    const some = this.examples.map((text) => [Math.random(), text]).sort().slice(0, SHOWN).map(([, text]) => text);
    const surprise = button("Surprise me", () => this.onChoose(this.examples[Math.floor(Math.random() * this.examples.length)]));
    this.places.examples.replaceChildren(...some.map((text) => button(text, () => this.onChoose(text))), surprise);
  }

  /** Say which words of a prompt the model does not know. */
  tell(prompt) {
    const unknown = this.unknown(prompt);
    const words = unknown.flatMap((word, i) => [...(i ? [", "] : []), Object.assign(document.createElement("u"), { textContent: word })]);
    this.places.unknown.replaceChildren(...(unknown.length ? ["This model has never seen: ", ...words] : []));
  }

  unknown(prompt) {
    if (!this.vocabulary) return [];
    const words = prompt.replace(SYNTAX, " ").toLowerCase().match(WORDS) ?? [];
    return [...new Set(words)].filter((word) => !this.vocabulary.has(word));
  }
}
