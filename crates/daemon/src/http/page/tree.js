// What is connected, by hub and port: a flat list in the order of ports, indented, so that 500 devices are 500 rows.

import { now } from "./access.js";
import { byId, icon, make, parts, reconcile, rove, setText, tile } from "./dom.js";
import { matches } from "./store.js";
import { className, classes, drivers, ids, look, names, number, port, speed } from "./words.js";

/** How long a new row is marked, in milliseconds. */
const NEW_MS = 2000;

export class Tree {
  #store;
  #open;
  #list = byId("tree");
  #rows = new Map();
  #collapsed = new Set();
  #rest;
  #seen = -1;
  #search = "";

  /** `open` is called with the port of a device that was chosen. */
  constructor(store, open) {
    this.#store = store;
    this.#open = open;
    this.#rest = rove(this.#list, (key, row) => this.#onKey(key, row));
    this.#list.addEventListener("click", (event) => {
      const row = event.target.closest("li");
      if (row === null) return;
      if (event.target.closest(".twisty") !== null) this.#toggle(row.dataset.port);
      else open(row.dataset.port);
    });
  }

  /** Brings the list up to date with the store, the words searched for and the class picked. */
  render(words, code) {
    const search = `${words.join(" ")}|${code}`;
    if (this.#seen === this.#store.version && this.#search === search) return;
    [this.#seen, this.#search] = [this.#store.version, search];
    const { devices } = this.#store;
    const sorted = [...devices.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
    const parents = new Set(sorted.map((one) => one.parent));
    const isFiltered = words.length > 0 || code !== "";
    const found = sorted.filter((one) => isFiltered && matches(one.text, words) && (code === "" || one.codes.includes(Number(code))));
    const shown = isFiltered ? withHubs(found, devices) : null;
    const isFound = new Set(found);
    const rows = [];
    const levels = new Map();
    let hiddenBelow = null;
    for (const one of sorted) {
      const level = (levels.get(one.parent) ?? 0) + 1;
      levels.set(one.port, level);
      if (hiddenBelow !== null && one.key.startsWith(hiddenBelow)) continue;
      hiddenBelow = null;
      if (shown !== null && !shown.has(one)) continue;
      // What is found is shown, so that there is nothing to fold then.
      const isParent = parents.has(one.port) && !isFiltered;
      const isCollapsed = isParent && this.#collapsed.has(one.port);
      if (isCollapsed) hiddenBelow = below(one);
      rows.push(this.#row(one, { level, isParent, isCollapsed, isDim: isFiltered && !isFound.has(one) }));
    }
    for (const place of this.#rows.keys()) if (!devices.has(place)) this.#rows.delete(place);
    reconcile(this.#list, rows);
    this.#rest();
    setText(byId("shown"), isFiltered ? `${number(found.length)} of ${number(devices.size)}` : number(devices.size));
    this.#sayEmpty(rows.length, devices.size);
  }

  #row(one, { level, isParent, isCollapsed, isDim }) {
    let row = this.#rows.get(one.port);
    if (row?.entry !== one) {
      const isFocused = row?.element === document.activeElement;
      const element = build(one);
      if (isFocused) {
        row.element.replaceWith(element);
        element.focus({ preventScroll: true });
      }
      row = { entry: one, element, state: "" };
      this.#rows.set(one.port, row);
    }
    const { element } = row;
    const state = `${level} ${isParent} ${isCollapsed} ${isDim}`;
    if (row.state === state) return element;
    row.state = state;
    element.setAttribute("aria-level", level);
    element.style.setProperty("--level", level - 1);
    if (isParent) element.setAttribute("aria-expanded", String(!isCollapsed));
    else element.removeAttribute("aria-expanded");
    element.classList.toggle("dim", isDim);
    return element;
  }

  #onKey(key, row) {
    const place = row.dataset.port;
    const expanded = row.getAttribute("aria-expanded");
    if (key === "Enter" || key === " ") this.#open(place);
    else if (key === "ArrowRight" && expanded === "false") this.#toggle(place);
    else if (key === "ArrowRight" && expanded === "true") row.nextElementSibling?.focus();
    else if (key === "ArrowLeft" && expanded === "true") this.#toggle(place);
    else if (key === "ArrowLeft") this.#rows.get(this.#store.devices.get(place)?.parent)?.element.focus();
    else return false;
    return true;
  }

  #toggle(place) {
    if (!this.#collapsed.delete(place)) this.#collapsed.add(place);
    this.#store.version += 1;
    document.dispatchEvent(new Event("render"));
  }

  #sayEmpty(shown, connected) {
    const empty = byId("tree-empty");
    empty.hidden = shown > 0 || this.#store.seq === null;
    this.#list.hidden = shown === 0;
    setText(empty, connected === 0
      ? "No USB device is connected. What is plugged in appears here at once."
      : "No connected device matches.");
  }
}

/** The classes of what is connected, for the list to pick from. */
export function offerClasses(store, select) {
  const there = new Set();
  for (const one of store.devices.values()) for (const code of one.codes) there.add(code);
  if (select.value !== "") there.add(Number(select.value));
  const wanted = [...there].sort((a, b) => className(a).localeCompare(className(b)));
  const offered = [...select.options].slice(1).map((option) => Number(option.value));
  if (wanted.join() === offered.join()) return;
  const { value } = select;
  select.replaceChildren(select.options[0], ...wanted.map((code) => make("option", { value: code }, className(code))));
  select.value = value;
}

/** What the keys of all that is behind a hub begin with. */
const below = (one) => (one.device.port_path === "0" ? one.key.replace(/000$/, "") : `${one.key}.`);

function withHubs(found, devices) {
  const shown = new Set();
  for (let one of found) {
    while (one !== undefined && !shown.has(one)) {
      shown.add(one);
      one = devices.get(one.parent);
    }
  }
  return shown;
}

function build(one) {
  const { device } = one;
  const twisty = make("span", { class: "twisty" });
  twisty.append(icon("twisty"));
  // A hub's driver is called as its class is.
  const facts = [...new Set([classes(device), drivers(device)])].filter((text) => text !== "").join(" · ");
  const element = make("li", { role: "treeitem", tabindex: "-1", "data-port": one.port },
    twisty,
    tile(look(device)),
    make("span", { class: "what" }, parts("span", { class: "name" }, names(device)), make("span", { class: "facts" }, facts)),
    make("span", { class: "where" }, make("span", { class: "port" }, port(device)), make("span", { class: "ids" }, ids(device))),
    make("span", { class: "speed" }, speed(device.speed_mbps)));
  if (one.isNew && now() - one.since < NEW_MS) element.classList.add("new");
  one.isNew = false;
  return element;
}
