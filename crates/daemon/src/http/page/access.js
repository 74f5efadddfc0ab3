// Asking the daemon, with the token where it wants one.
//
// The token goes into a header with every request, also of the event stream, which is therefore read by fetch: a
// cookie would be sent along by any page that makes the browser ask, and EventSource cannot send headers.

import { byId, setText } from "./dom.js";

const KEY = "autoweave-usbd token";

/** What the configuration takes for a token, and a header can hold: visible ASCII. */
const TOKEN = /^[!-~]+$/;

/** Clocks that differ by less are taken for equal: the daemon tells whole seconds. */
const SKEW_MS = 3000;

/** The token that somebody waits for; null while nobody does. */
let asking = null;
let skew = 0;

/** The daemon's time, in milliseconds since 1970: the events' times are its, not this machine's. */
export const now = () => Date.now() + skew;

/** GET `path`; asks the person for the token as often as the daemon refuses the one there is. */
export async function ask(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(KEY);
    const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
    const response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
    const ahead = Date.parse(response.headers.get("date")) - Date.now();
    skew = Math.abs(ahead) > SKEW_MS ? ahead : 0;
    if (response.status !== 401) return response;
    await response.body?.cancel();
    // Another request may have been told another one meanwhile.
    if (sessionStorage.getItem(KEY) === token) await askForToken(token !== null);
  }
}

/** The JSON at `path`. */
export async function askJson(path, options) {
  const response = await ask(path, options);
  if (!response.ok) throw new Refused(response.status, await problem(response));
  return response.json();
}

/** The daemon answered, but not with what was asked for. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** What a `problem+json` says. */
export async function problem(response) {
  const body = await response.json().catch(() => null);
  return body?.detail ?? `HTTP ${response.status}`;
}

function askForToken(wasRefused) {
  if (asking === null) {
    asking = Promise.withResolvers();
    complain(wasRefused ? "The daemon refused that token. Try another." : "");
    byId("ask").showModal();
  }
  return asking.promise;
}

function complain(text) {
  setText(byId("ask-error"), text);
  byId("token").setAttribute("aria-invalid", String(text !== ""));
}

byId("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = byId("token").value.trim();
  if (!TOKEN.test(token)) {
    complain("A token has only the letters, digits and signs of ASCII, and no blanks. Was a quotation mark turned into another?");
    return;
  }
  sessionStorage.setItem(KEY, token);
  byId("token").value = "";
  const { resolve } = asking;
  asking = null;
  byId("ask").close();
  resolve();
});

// Without a token there is nothing to see: Escape, which a browser grants at the second time, only asks again.
byId("ask").addEventListener("cancel", (event) => event.preventDefault());
byId("ask").addEventListener("close", () => {
  if (asking !== null) byId("ask").showModal();
});
