// Everything that is known of one device: as it is now, as its descriptors say, and what happened to it.

import { askJson } from "./access.js";
import { configurations } from "./descriptors.js";
import { before } from "./feed.js";
import { byId, make, parts, setText, tile } from "./dom.js";
import {
  DESCRIPTOR, className, classes, clock, date, drivers, hex, ids, look, names, number, port, speed, speedName, visible,
} from "./words.js";

/** Older events that are looked through at a time. */
const LOOK_BACK = 1000;

/** Rows of a history. */
const HISTORY_MAX = 200;

export class Details {
  #store;
  #dialog = byId("details");
  #device = null;
  #older = [];
  /** Events before this one were not looked through. */
  #end = null;
  /** The signature of the device whose descriptors were asked for, and what was told of them. */
  #decoded = { signature: null, told: null };
  #rendered = "";

  constructor(store) {
    this.#store = store;
    byId("details-close").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("click", (event) => {
      // The dialog itself is hit only outside of what is in it.
      if (event.target === this.#dialog) this.#dialog.close();
    });
    this.#dialog.addEventListener("close", () => {
      // It is told later, when another device may be open.
      if (!this.#dialog.open) this.#device = null;
    });
  }

  open(device) {
    this.#device = device;
    this.#older = [];
    this.#end = this.#store.events[0]?.event.seq ?? this.#store.seq + 1;
    this.#decoded = { signature: null, told: null };
    this.#rendered = "";
    if (!this.#dialog.open) this.#dialog.showModal();
    this.render();
    this.#dialog.scrollTop = 0;
    byId("details-title").focus();
  }

  /** Brings an open view up to date. */
  render() {
    if (this.#device === null) return;
    const id = this.#device.device_id;
    const now = [...this.#store.devices.values()].find((one) => one.device.device_id === id);
    const device = now?.device ?? this.#device;
    if (now !== undefined && device.signature !== this.#decoded.signature) this.#decode(device);
    const recent = this.#store.events.map((known) => known.event).filter((event) => event.device.device_id === id);
    const history = [...this.#older, ...recent].slice(-HISTORY_MAX);
    const state = [now === undefined, history.at(-1)?.event_id, history.length, this.#end, device.signature, this.#decoded.told !== null].join();
    if (state === this.#rendered) return;
    this.#rendered = state;
    this.#device = device;
    byId("details-tile").replaceWith(Object.assign(tile(look(device)), { id: "details-tile" }));
    byId("details-title").replaceChildren(...parts("h2", {}, names(device)).childNodes);
    setText(byId("details-place"), now === undefined ? "not connected" : `connected at ${port(device)}`);
    byId("details-place").className = now === undefined ? "gone" : "there";
    const focused = document.activeElement?.id;
    const { signature, told } = this.#decoded;
    const decoded = told !== null && signature === device.signature ? configurations(told, device.speed_mbps) : [];
    byId("details-body").replaceChildren(identity(device), interfaces(device), descriptor(device), ...decoded, this.#history(history));
    if (focused === "look-back") byId(focused)?.focus();
  }

  /** Asks what the descriptors of a connected device say; where that cannot be had, nothing of it is shown. */
  async #decode(device) {
    const asked = { signature: device.signature, told: null };
    this.#decoded = asked;
    const told = await askJson(`/api/v1/devices/${port(device)}/descriptors`).catch(() => null);
    // By now another device may be there.
    if (told?.signature !== asked.signature) return;
    asked.told = told;
    if (this.#decoded === asked) this.render();
  }

  #history(history) {
    const rows = history.toReversed().map((event) => make("li", {},
      make("time", { datetime: new Date(event.timestamp).toISOString() }, `${date(event.timestamp)} ${clock(event.timestamp)}`),
      make("span", { class: `word ${event.action}` }, `${event.action}ed`),
      make("span", { class: "port" }, port(event.device)),
      make("span", { class: "facts" }, event.reason === "hotplug" ? "" : event.reason)));
    const part = make("section", {}, make("h3", {}, "History"));
    part.append(rows.length > 0 ? make("ol", { class: "history" }, ...rows)
      : make("p", { class: "facts" }, `Nothing since event ${number(this.#end)}.`));
    if (this.#end > 1) {
      const button = make("button", { type: "button", id: "look-back" }, `Look further back than event ${number(this.#end)}`);
      button.addEventListener("click", () => this.#lookBack(button));
      part.append(button);
    }
    return part;
  }

  async #lookBack(button) {
    button.disabled = true;
    const device = this.#device;
    try {
      const { events, end } = await before(this.#end, LOOK_BACK, device.device_id);
      if (this.#device?.device_id !== device.device_id) return;
      this.#older = [...events, ...this.#older];
      this.#end = end;
      this.render();
    } catch (error) {
      button.textContent = error.status === 410 ? "Older events are no longer kept" : "The daemon does not answer; try again";
      button.disabled = error.status === 410;
    }
  }
}

function identity(device) {
  const facts = [
    ["Manufacturer", device.manufacturer], ["Product", device.product], ["Serial number", device.serial_number],
    ["Vendor and product", ids(device)], ["Class", classes(device)], ["Driver", drivers(device)],
    ["Speed", [speed(device.speed_mbps), speedName(device.speed_mbps)].filter(Boolean).join(", ")],
    ["Port", port(device)], ["Bus and address", `${device.bus_number}, ${device.device_address}`],
    ["Device id", device.device_id], ["Signature", device.signature],
  ];
  for (const [name, bytes] of Object.entries(device.raw_strings ?? {})) facts.push([`Bytes of ${name.replace("_", " ")}`, bytes]);
  const known = facts.filter(([, value]) => value !== null && value !== "");
  return make("section", {}, make("h3", { class: "unseen" }, "Device"),
    make("dl", { class: "facts-list" }, ...known.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, make("bdi", { dir: "ltr" }, visible(value)))))));
}

function interfaces(device) {
  if (device.interfaces.length === 0) return "";
  const rows = device.interfaces.map((one) => make("tr", {}, make("th", { scope: "row" }, String(one.number)),
    make("td", {}, className(one.class)), make("td", { class: "code" }, [one.class, one.subclass, one.protocol].map((code) => hex(code, 2)).join(" ")),
    make("td", {}, one.driver ?? "–")));
  return table("Interfaces", ["No.", "Class", "Codes", "Driver"], rows);
}

function descriptor(device) {
  if (device.device_descriptor === null) return make("p", { class: "facts" }, "It was gone before its descriptors could be read.");
  const rows = Object.entries(device.device_descriptor).map(([name, value]) => make("tr", {},
    make("th", { scope: "row", class: "code" }, name), make("td", { class: "code" }, `0x${hex(value, value > 0xff || name.startsWith("bcd") || name.startsWith("id") ? 4 : 2)}`),
    make("td", {}, DESCRIPTOR[name]?.(value, device) ?? "")));
  return table("Device descriptor", ["Field", "Value", "Meaning"], rows);
}

function table(heading, columns, rows) {
  const head = make("thead", {}, make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name))));
  return make("section", {}, make("h3", {}, heading), make("table", {}, head, make("tbody", {}, ...rows)));
}
