// Making and keeping elements. Text only ever becomes text: there is no way from a string to markup here.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; strings among the children become text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** An element of a drawing. */
export function draw(tag, attributes = {}) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** One of the page's symbols, which says nothing to those who do not see it. */
export function icon(name) {
  const svg = draw("svg", { class: "icon", "aria-hidden": "true" });
  svg.append(draw("use", { href: `#${name}` }));
  return svg;
}

/** The icon of a device on its tint. */
export function tile([name, tint]) {
  const element = make("span", { class: "tile", "data-tint": tint });
  element.append(icon(name));
  return element;
}

/** Text in parts, none of which can change the direction of another, nor of the whole. */
export function parts(tag, attributes, texts) {
  const isolated = texts.flatMap((text) => [" ", make("bdi", { dir: "ltr" }, text)]).slice(1);
  return make(tag, attributes, ...isolated);
}

export const byId = (id) => document.getElementById(id);

/** Writes only what is new: text that is written is laid out. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Makes the children of `list` those of `rows`, moving none that can stay: one that moves loses its focus. */
export function reconcile(list, rows) {
  const wanted = new Set(rows);
  const focused = list.contains(document.activeElement) ? document.activeElement.closest("li") : null;
  let heir = null;
  if (focused !== null && !wanted.has(focused)) {
    for (heir = focused.nextElementSibling; heir !== null && !wanted.has(heir);) heir = heir.nextElementSibling;
    heir ??= rows.at(-1) ?? null;
  }
  for (let row = list.firstElementChild; row !== null;) {
    const next = row.nextElementSibling;
    if (!wanted.has(row)) row.remove();
    row = next;
  }
  let place = list.firstElementChild;
  for (const row of rows) {
    if (row === place) place = place.nextElementSibling;
    else list.insertBefore(row, place);
  }
  if (heir !== null) stopOf(heir).focus({ preventScroll: true });
}

/** What of a row gets the focus: its button, if it has one. */
const stopOf = (row) => row.querySelector("button") ?? row;

/** One stop of the tab key for a whole list; arrows, Page, Home and End move within it. */
export function rove(list, onKey) {
  const rows = () => [...list.children];
  const stop = (row) => {
    list.querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
    stopOf(row).setAttribute("tabindex", "0");
  };
  list.addEventListener("focusin", (event) => {
    const row = event.target.closest("li");
    if (row !== null) stop(row);
  });
  list.addEventListener("keydown", (event) => {
    const row = event.target.closest("li");
    if (row === null || event.altKey || event.ctrlKey || event.metaKey) return;
    const all = rows();
    const at = all.indexOf(row);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 10, PageUp: at - 10, Home: 0, End: all.length - 1 };
    if (event.key in to) {
      stopOf(all[Math.min(Math.max(to[event.key], 0), all.length - 1)]).focus();
    } else if (!onKey(event.key, row)) {
      return;
    }
    event.preventDefault();
  });
  // The stop has to be on a row that is there.
  return () => {
    if (list.firstElementChild !== null && list.querySelector("[tabindex='0']") === null) {
      stopOf(list.firstElementChild).setAttribute("tabindex", "0");
    }
  };
}
