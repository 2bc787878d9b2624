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
  /** Open it; a browser may keep nothing, as in some private windows. */
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

  /** Keep a picture {file, seed, settings} and return its id; null where there is no room for it. */
  async add(picture) {
    if (!this.database) return null;
    try {
      const id = await settled(this.pictures().add(picture));
      const ids = await settled(this.pictures("readonly").getAllKeys());
      for (const old of ids.slice(0, Math.max(ids.length - MOST, 0))) await this.remove(old);
      return id;
    } catch {
      return null;
    }
  }

  async remove(id) {
    if (this.database) await settled(this.pictures().delete(id));
  }

  pictures(mode = "readwrite") {
    return this.database.transaction(PICTURES, mode).objectStore(PICTURES);
  }
}
