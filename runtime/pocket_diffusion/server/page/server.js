// What the page asks of the server. Paths are relative, so that the application can be mounted anywhere.

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw new Error("The server cannot be reached.");
  }
}

/** Return the answer's JSON, or throw an Error with the server's own words. */
async function ask(path, options = {}) {
  const response = await reach(path, options);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error?.message ?? `The server answered ${response.status}.`);
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

/** Call `onView` with each view of a job until it is over, and `onGap` where the connection broke; resolve to the last. */
export function followJob(id, onView = () => {}, onGap = () => {}) {
  return new Promise((resolve, reject) => {
    const events = new EventSource(`api/jobs/${id}/events`);
    const end = (settle, value) => {
      events.close();
      settle(value);
    };
    for (const state of ["queued", "running", "done", "failed", "cancelled"]) {
      events.addEventListener(state, ({ data }) => {
        const view = JSON.parse(data);
        for (const picture of view.pictures) picture.url = relative(picture.kept ?? picture.url);
        onView(view);
        if (!["queued", "running"].includes(state)) end(resolve, view);
      });
    }
    events.onerror = () => {
      // The browser tries again by itself, unless the server said that there is nothing to follow.
      if (events.readyState === EventSource.CLOSED) end(reject, new Error("The drawing cannot be followed any more."));
      else onGap();
    };
  });
}
