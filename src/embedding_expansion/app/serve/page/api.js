// Requests to this server, with a token if the server needs one.

// The server's root path, derived from this script's URL, so that it includes the prefix of a proxy.
const HOME = new URL(".", import.meta.url).pathname.replace(/\/$/, "");

let token = sessionStorage.getItem("token");
let hasPictures = true;
let asking = null; // one dialog for all waiting requests

export class Problem extends Error {}

export async function ask(path, options = {}) {
  return (await answered(path, options)).json();
}

// Sends JSON.
export function post(path, body, options = {}) {
  return ask(path, { ...options, method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
}

// Sends the bytes of an image.
export function send(path, blob, options = {}) {
  return ask(path, { ...options, method: "POST", body: blob, headers: { "Content-Type": "application/octet-stream" } });
}

// Saves the answer as a file.
export async function save(path, body, name) {
  const content = await (await answered(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } })).blob();
  const url = URL.createObjectURL(content);
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

async function answered(path, options) {
  const response = await request(HOME + path, options);
  if (response.ok) return response;
  let detail = `the server returned status ${response.status}`;
  try {
    detail = (await response.json()).detail;
  } catch { /* not JSON, for example a proxy's error page */ }
  throw new Problem(detail);
}

export function withoutPictures(none) {
  hasPictures = !none;
}

// Shows a picture, or calls `failed`. With a token, the picture is fetched by script, because an <img> cannot send the token.
export async function picture(image, url, failed = () => gone(image)) {
  image.dataset.wanted = url; // the latest URL wins, even if an earlier response arrives later
  image.onload = () => image.classList.toggle("tiny", image.naturalWidth <= 64);
  image.onerror = () => image.dataset.wanted === url && failed();
  image.parentElement?.classList.remove("gone");
  if (!hasPictures) {
    gone(image);
    return;
  }
  if (!token || url.startsWith("blob:")) {
    image.src = url;
    return;
  }
  const response = await request(url, {}).catch(() => null);
  const content = response?.ok ? await response.blob() : null;
  if (image.dataset.wanted !== url) return;
  if (!content) {
    failed();
    return;
  }
  const own = URL.createObjectURL(content);
  image.addEventListener("load", () => URL.revokeObjectURL(own), { once: true });
  image.src = own;
}

// Items of the second collection have a `collection` of 1.
const place = (item) => (item.collection ? `?collection=${item.collection}` : "");
export const thumbnailOf = (item) => `${HOME}/api/items/${item.id}/thumbnail${place(item)}`;
export const originalOf = (item) => `${HOME}/api/items/${item.id}/original${place(item)}`;

function gone(image) {
  image.removeAttribute("src");
  image.parentElement?.classList.add("gone");
}

async function request(path, options) {
  for (;;) {
    const used = token;
    const headers = used ? { ...options.headers, Authorization: `Bearer ${used}` } : options.headers;
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem("the server does not respond; check that it is still running");
    }
    if (response.status !== 401) return response;
    if (used === token) await (asking ??= askForToken(Boolean(used)).finally(() => (asking = null)));
  }
}

function askForToken(wasWrong) {
  const dialog = document.getElementById("ask");
  const field = document.getElementById("token");
  if (wasWrong) document.getElementById("ask-why").textContent = "The token is wrong; try again.";
  field.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      token = field.value.trim() || token;
      if (token) sessionStorage.setItem("token", token);
      resolve();
    }, { once: true });
  });
}
