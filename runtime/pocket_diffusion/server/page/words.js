// What the model knows: examples to begin with, and the words of a prompt that it never saw.

const SYNTAX = /<[^<>]*>|\bBREAK\b/g; // what a prompt says to the program: names of LoRAs, and where a chunk ends
const WORDS = /\p{L}+/gu;
const SHOWN = 3; // examples at a time

export class Words {
  /** `onChoose` is called with an example that was clicked. */
  constructor({ examples, unknown, onChoose }) {
    Object.assign(this, { places: { examples, unknown }, onChoose });
    this.introduce({ vocabulary: null, examples: [] });
  }

  /** Take a model's words, those of embeddings, and examples; without a vocabulary, no word is unknown. */
  introduce({ vocabulary, examples }, embeddings = []) {
    const learned = embeddings.join(" ").toLowerCase().match(WORDS) ?? [];
    this.vocabulary = vocabulary && new Set([...vocabulary, ...learned]);
    this.examples = examples ?? [];
    this.places.examples.hidden = !this.examples.length;
    this.offer();
  }

  /** Offer some examples, others each time. */
  offer() {
    const some = this.examples.map((text) => [Math.random(), text]).sort().slice(0, SHOWN).map(([, text]) => text);
    const surprise = ["Surprise me", () => this.choose(this.examples[Math.floor(Math.random() * this.examples.length)])];
    this.places.examples.replaceChildren(...[...some.map((text) => [text, () => this.choose(text)]), surprise].map(([text, act]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.onclick = act;
      return button;
    }));
  }

  choose(text) {
    this.onChoose(text);
    this.tell(text);
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
