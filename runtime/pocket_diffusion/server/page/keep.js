// Keeps the page itself in the browser, so that it can be installed, and opens where its server is away.

const CACHE = "pocket-diffusion page";

/** Keep all parts of the page as they are now; browsers allow that over https and on the machine itself. */
export async function keepPage() {
  if (!("serviceWorker" in navigator)) return;
  try {
    await navigator.serviceWorker.register("worker.js");
    await navigator.serviceWorker.ready;
    const parts = performance.getEntriesByType("resource").map(({ name }) => name).filter((name) => name.includes("/page/"));
    const cache = await caches.open(CACHE);
    await cache.addAll([".", document.querySelector("link[rel=manifest]").href, ...new Set(parts)]);
  } catch {
    // This browser keeps nothing, or the server has just gone: the page works all the same.
  }
}
