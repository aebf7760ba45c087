// Requests to this server, with the token where it asks for one.

// Where this server is: beside its scripts, also below the prefix of a proxy.
const HOME = new URL(".", import.meta.url).pathname.replace(/\/$/, "");

let token = sessionStorage.getItem("token");
let hasPictures = true;
let asking = null; // one dialog, however many requests wait for it

export class Problem extends Error {}

export async function ask(path, options = {}) {
  const response = await request(HOME + path, options);
  if (response.ok) return response.json();
  let detail = `the server says ${response.status}`;
  try {
    detail = (await response.json()).detail;
  } catch { /* no JSON, such as from a proxy */ }
  throw new Problem(detail);
}

export function withoutPictures(none) {
  hasPictures = !none;
}

// Shows a picture. With a token it is fetched with it, since an <img> sends none.
export async function picture(image, url) {
  image.dataset.wanted = url; // what it shows in the end, however late the answer to an earlier wish comes
  image.onload = () => image.classList.toggle("tiny", image.naturalWidth <= 64);
  image.onerror = () => gone(image);
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
    gone(image);
    return;
  }
  const own = URL.createObjectURL(content);
  image.addEventListener("load", () => URL.revokeObjectURL(own), { once: true });
  image.src = own;
}

export const thumbnailOf = (id) => `${HOME}/api/items/${id}/thumbnail`;

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
      throw new Problem("the server does not answer; is it still running?");
    }
    if (response.status !== 401) return response;
    if (used === token) await (asking ??= askForToken(Boolean(used)).finally(() => (asking = null)));
  }
}

function askForToken(wasWrong) {
  const dialog = document.getElementById("ask");
  const field = document.getElementById("token");
  if (wasWrong) document.getElementById("ask-why").textContent = "That was not the right one; try again.";
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
