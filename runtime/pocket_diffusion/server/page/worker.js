// The service worker: opens the page where its server is away. The server comes first, so that no new version is hidden;
// pictures and answers of the API pass by.

const { scope } = registration; // the application's own address
const AWAY = [502, 503, 504]; // as proxies say

addEventListener("install", () => skipWaiting());
addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  const isPart = url.split(/[?#]/)[0] === scope || url.startsWith(`${scope}page/`);
  if (method === "GET" && isPart) event.respondWith(answer(event.request));
});

async function answer(request) {
  const response = await fetch(request).catch(() => Response.error());
  if (response.status === 401 && request.mode === "navigate") return letIn(request);
  const isAway = response.type === "error" || AWAY.includes(response.status);
  return (isAway && (await caches.match(request, { ignoreSearch: true, ignoreVary: true }))) || response;
}

/** Browsers ask for a token only where no worker stands between: the page registers another, once it is let in. */
async function letIn({ url }) {
  await registration.unregister();
  return Response.redirect(url);
}
