// Pictures in rows and columns with labels: as a table on the stage that fills up, and as one PNG.

const FONT = 16; // pixels, of labels
const GAP = 8;
const SIDE = 16_000; // the most pixels that browsers let a canvas be wide or high
const PIXELS = 16_000_000; // and that phones let it have

export class Sheet {
  /** `place` gets the table; `onChoose` is called with a picture ({url, file, seed, settings}) that was clicked. */
  constructor({ place, onChoose }) {
    Object.assign(this, { place, onChoose });
  }

  /** Begin with empty places; `columns` and `rows` are their labels, `text` says what all of it is. */
  begin(columns, rows, text) {
    Object.assign(this, { columns, rows, text });
    this.pictures = columns.map(() => []); // by column and row
    const table = document.createElement("table");
    table.createCaption().textContent = text;
    table.caption.className = "unseen";
    const head = table.createTHead().insertRow();
    if (rows.some(Boolean)) head.insertCell();
    head.append(...columns.map((label) => heading(label, "col")));
    const body = table.createTBody();
    for (const label of rows) {
      const row = body.insertRow();
      if (rows.some(Boolean)) row.append(heading(label, "row"));
      for (const _ of columns) row.insertCell();
    }
    this.cells = [...body.rows].map((row) => [...row.querySelectorAll("td")]);
    this.place.style.setProperty("--columns", columns.length);
    this.place.style.setProperty("--rows", rows.length);
    this.place.replaceChildren(table);
    this.place.scrollTo(0, 0);
  }

  labelOf(column, row) {
    return [this.columns[column], this.rows[row]].filter(Boolean).join(", ");
  }

  fill(column, row, picture) {
    this.pictures[column][row] = picture;
    const { width, height } = picture.settings;
    this.place.style.setProperty("--ratio", width / height);
    const image = Object.assign(new Image(), { src: picture.url, alt: this.labelOf(column, row) });
    const button = document.createElement("button");
    Object.assign(button, { type: "button", onclick: () => this.onChoose(picture) });
    button.append(image);
    this.cells[row][column].replaceChildren(button);
  }

  /** Say in a picture's place why there is none. */
  refuse(column, row, reason) {
    this.cells[row][column].textContent = reason;
  }

  /** Return all that is filled in as one PNG (a Blob), whose text says what it is. */
  async file() {
    const bitmaps = await Promise.all(this.pictures.map((column) => Promise.all(column.map(({ file }) => createImageBitmap(file)))));
    const [width, height] = ["width", "height"].map((side) => Math.max(...bitmaps.flat().map((each) => each[side])));
    const canvas = document.createElement("canvas");
    const context = canvas.getContext("2d");
    const font = `${FONT}px system-ui, sans-serif`;
    context.font = font;
    const left = this.rows.some(Boolean) ? width + GAP : 0;
    const heads = this.columns.map((label) => lines(context, label, width));
    const top = FONT * 1.25 * Math.max(...heads.map(({ length }) => length)) + GAP;
    const whole = [left + this.columns.length * (width + GAP), top + this.rows.length * (height + GAP)];
    const scale = Math.min(1, SIDE / Math.max(...whole), Math.sqrt(PIXELS / (whole[0] * whole[1])));
    [canvas.width, canvas.height] = whole.map((side) => Math.ceil(side * scale));
    context.scale(scale, scale);
    Object.assign(context, { font, fillStyle: "#fff", textAlign: "center", textBaseline: "middle" });
    context.fillRect(0, 0, ...whole);
    context.fillStyle = "#000";
    const write = (text, x, y) => text.forEach((line, i) => context.fillText(line, x, y + FONT * 1.25 * (i - (text.length - 1) / 2), width));
    heads.forEach((text, column) => write(text, left + column * (width + GAP) + width / 2, top / 2));
    this.rows.forEach((label, row) => write(lines(context, label, width), width / 2, top + row * (height + GAP) + height / 2));
    bitmaps.forEach((each, column) => each.forEach((bitmap, row) => {
      context.drawImage(bitmap, left + column * (width + GAP), top + row * (height + GAP));
      bitmap.close();
    }));
    const png = await new Promise((resolve) => canvas.toBlob(resolve));
    return described(png, this.text);
  }
}

function heading(label, scope) {
  return Object.assign(document.createElement("th"), { textContent: label, scope });
}

/** Part a text between words into lines of a width; longer words are squeezed where they are written. */
function lines(context, text, width) {
  const found = [];
  for (const word of text.split(" ")) {
    const longer = found.length ? `${found.at(-1)} ${word}` : null;
    if (longer && context.measureText(longer).width <= width) found[found.length - 1] = longer;
    else found.push(word);
  }
  return found;
}

/** Return a PNG with a description, in a chunk that follows its header. */
async function described(png, text) {
  const chunk = new TextEncoder().encode(`iTXtDescription\0\0\0\0\0${text}`); // neither compressed nor translated
  const length = new DataView(new ArrayBuffer(4));
  length.setUint32(0, chunk.length - 4); // its type does not count
  const header = 33;
  return new Blob([png.slice(0, header), length, chunk, await checksum(chunk), png.slice(header)], { type: png.type });
}

/** Return bytes' CRC-32 as PNGs have it. Browsers compute one for gzip: the first half of its last 8 bytes, backwards. */
async function checksum(bytes) {
  const gzip = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(gzip).arrayBuffer()).slice(-8, -4).reverse();
}
