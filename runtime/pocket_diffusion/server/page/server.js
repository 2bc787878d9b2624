// What the page asks of the server. Paths are relative, so that the application can be mounted anywhere.

const FIRST_PAUSE = 1000; // milliseconds before the server is asked again where it did not answer; then ever more
const LONGEST_PAUSE = 15_000;
const PATIENCE = 10_000; // milliseconds in which it has to answer where a job stands
const SILENCE = 30_000; // milliseconds without news of a job, after which its connection may be dead

/** The server does not answer. */
export class Unreachable extends Error {
  constructor() {
    super("The server cannot be reached.");
  }
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw new Unreachable();
  }
}

/** Return the answer's JSON, or throw an Error with the server's own words. */
async function ask(path, options = {}) {
  const response = await reach(path, options);
  const answer = await response.json().catch(() => ({}));
  if (!answer.error && [502, 503, 504].includes(response.status)) throw new Unreachable(); // a proxy says so
  if (!response.ok) {
    const { status } = response;
    throw Object.assign(new Error(answer.error?.message ?? `The server answered ${status}.`), { status });
  }
  return answer;
}

export const readModels = () => ask("api/models");
export const readModel = (name) => ask(`api/models/${encodeURIComponent(name)}`);
export const readSamplers = () => ask("api/samplers");
export const readAdapters = (model) => ask(`api/adapters?model=${encodeURIComponent(model)}`);

/** Cancel a job; or, where it is over, delete its pictures. This is sent even while the page is being left. */
export const deleteJob = (id) => ask(`api/jobs/${id}`, { method: "DELETE", keepalive: true });

export const createJob = (order) =>
  ask("api/jobs", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(order),
  });

/** Return the pictures that the server keeps: {kept, pictures}. */
export async function readGallery() {
  const gallery = await ask("api/gallery");
  for (const picture of gallery.pictures) picture.url = relative(picture.url);
  return gallery;
}

/** Delete a picture that the server keeps. */
export const deleteKept = (url) => ask(url, { method: "DELETE" });

/** Return an address within the server, seen from the page. */
const relative = (url) => url.split("/").slice(-2).join("/");

/** Return what a picture's file says of itself: {info, items}. */
export const readTexts = (image) =>
  ask("sdapi/v1/png-info", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ image }),
  });

/** Return a picture's file. */
export async function readPicture(url) {
  const response = await reach(url);
  if (!response.ok) throw new Error("The server does not have this picture any more.");
  return response.blob();
}

const pass = (milliseconds, signal) =>
  new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", resolve);
  });

/** Ask something of the server until it answers, with growing pauses; `onGap` is called where it did not. */
export async function insist(task, { onGap = () => {}, signal } = {}) {
  for (let pause = FIRST_PAUSE; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
    signal?.throwIfAborted();
    try {
      return await task();
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      onGap();
      await pass(pause, signal);
    }
  }
}

/**
 * Resolve to the last view of a job, and call `onView` with each; `onGap` is called where the server does not answer, which
 * is then asked again. Rejects where it does not know the job, or with the signal's reason.
 */
export async function followJob(id, { onView = () => {}, onGap, signal } = {}) {
  for (;;) {
    const last = (await listen(id, onView, signal)) ?? (await insist(() => readJob(id), { onGap, signal }));
    if (isOver(last)) return last;
    onView(last);
    await pass(FIRST_PAUSE, signal); // a proxy may let no events through
  }
}

const isOver = ({ state }) => !["queued", "running"].includes(state);

async function readJob(id) {
  try {
    return seen(await ask(`api/jobs/${id}`, { signal: AbortSignal.timeout(PATIENCE) }));
  } catch (error) {
    if (error.status !== 404) throw error;
    throw new Error("The drawing is lost: the server does not know it any more. Draw it again.");
  }
}

/** Return a job's view with its pictures' addresses as seen from the page. */
function seen(view) {
  for (const picture of view.pictures) picture.url = relative(picture.kept ?? picture.url);
  return view;
}

/** Call `onView` with the news of a job; resolve to its last view, or to null where its connection is broken or silent. */
function listen(id, onView, signal) {
  return new Promise((resolve) => {
    const events = new EventSource(`api/jobs/${id}/events`);
    let silence;
    const end = (view) => {
      clearTimeout(silence);
      events.close();
      resolve(view);
    };
    const wait = () => {
      clearTimeout(silence);
      silence = setTimeout(end, SILENCE, null);
    };
    for (const state of ["queued", "running", "done", "failed", "cancelled"]) {
      events.addEventListener(state, ({ data }) => {
        const view = seen(JSON.parse(data));
        wait();
        onView(view);
        if (isOver(view)) end(view);
      });
    }
    events.onerror = () => end(null);
    signal?.addEventListener("abort", () => end(null));
    wait();
  });
}
