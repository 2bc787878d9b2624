// Pictures with their settings, kept by the browser across tabs and restarts (IndexedDB).

const NAME = "pocket-diffusion";
const PICTURES = "pictures";
const MOST = 200; // the oldest go first

const settled = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

export class Store {
  /** Open it; where the browser keeps nothing (a private window, a full disk), pictures last as long as the page. */
  static async open() {
    const store = new Store();
    try {
      const request = indexedDB.open(NAME, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(PICTURES, { keyPath: "id", autoIncrement: true });
      store.database = await settled(request);
    } catch {
      store.database = null;
    }
    return store;
  }

  /** Return all that is kept, the newest first: {id, file, seed, settings}. */
  async all() {
    return this.database ? (await settled(this.pictures("readonly").getAll())).reverse() : [];
  }

  /** Keep a picture {file, seed, settings} and return its id; null where it cannot be kept. */
  async add(picture) {
    if (!this.database) return null;
    try {
      const id = await settled(this.pictures().add(picture));
      const ids = await settled(this.pictures("readonly").getAllKeys());
      for (const old of ids.slice(0, Math.max(ids.length - MOST, 0))) await this.remove(old);
      return id;
    } catch {
      return null; // there is no room
    }
  }

  async remove(id) {
    if (this.database) await settled(this.pictures().delete(id));
  }

  pictures(mode = "readwrite") {
    return this.database.transaction(PICTURES, mode).objectStore(PICTURES);
  }
}
