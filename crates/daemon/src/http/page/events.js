// The newest events, newest first.

import { now } from "./access.js";
import { byId, icon, make, parts, reconcile, rove, setText } from "./dom.js";
import { matches } from "./store.js";
import { clock, date, names, number, port } from "./words.js";

/** Rows at a time. */
const ROWS_MAX = 200;

export class EventList {
  #store;
  #list = byId("log");
  #rows = new Map();
  #rest;
  #seen = -1;
  #search = "";
  #today = "";
  #paused = null;

  /** `open` is called with the event that was chosen. */
  constructor(store, open) {
    this.#store = store;
    this.#rest = rove(this.#list, () => false);
    this.#list.addEventListener("click", (event) => {
      const row = event.target.closest("li");
      if (row !== null) open(this.#rows.get(Number(row.dataset.seq)).known.event);
    });
    byId("pause").addEventListener("click", () => this.#pause());
  }

  /** Brings the list up to date with the store, the words searched for and the action picked. */
  render(words, action) {
    const today = date(now());
    const search = `${words.join(" ")}|${action}|${today}`;
    if (this.#seen === this.#store.version && this.#search === search) return;
    [this.#seen, this.#search] = [this.#store.version, search];
    const { events } = this.#store;
    // Rows say their day only where it is another one.
    if (this.#today !== today) this.#rows.clear();
    this.#today = today;
    const rows = [];
    for (let at = events.length - 1; at >= 0 && rows.length < ROWS_MAX; at -= 1) {
      const known = events[at];
      if (this.#paused !== null && known.event.seq > this.#paused) continue;
      if (action !== "" && known.event.action !== action) continue;
      if (words.length > 0 && !matches(known.entry.text, words)) continue;
      rows.push(this.#row(known));
    }
    const shown = new Set(rows);
    for (const [seq, row] of this.#rows) if (!shown.has(row.element)) this.#rows.delete(seq);
    reconcile(this.#list, rows);
    this.#rest();
    const waiting = this.#paused === null ? 0 : this.#store.seq - this.#paused;
    setText(byId("events-shown"), waiting > 0 ? `${number(waiting)} new` : this.#store.isLive ? "live" : "connecting");
    byId("events-shown").dataset.state = this.#store.isLive ? (this.#paused === null ? "live" : "paused") : "lost";
    const empty = byId("log-empty");
    empty.hidden = rows.length > 0 || this.#store.seq === null;
    this.#list.hidden = rows.length === 0;
    setText(empty, events.length === 0 ? "Nothing was plugged in or out yet." : "No recent event matches.");
  }

  #row(known) {
    const { event } = known;
    let row = this.#rows.get(event.seq);
    // After a new beginning the same number is another event.
    if (row?.known.event.event_id !== event.event_id) {
      row = { known, element: build(event, this.#today) };
      this.#rows.set(event.seq, row);
    }
    return row.element;
  }

  #pause() {
    this.#paused = this.#paused === null ? this.#store.seq : null;
    byId("pause").setAttribute("aria-pressed", String(this.#paused !== null));
    setText(byId("pause"), this.#paused === null ? "Pause" : "Go on");
    this.#store.version += 1;
    document.dispatchEvent(new Event("render"));
  }
}

function build(event, today) {
  const { device, action, reason, edges } = event;
  const sign = make("span", { class: `sign ${action}` }, icon(action), make("span", { class: "unseen" }, `${action}ed`));
  const day = date(event.timestamp);
  const time = make("time", { datetime: new Date(event.timestamp).toISOString(), title: `${day}, event ${event.seq}` });
  if (day !== today) time.append(make("span", { class: "day" }, day), " ");
  time.append(clock(event.timestamp));
  const row = make("button", { type: "button", tabindex: "-1", "aria-haspopup": "dialog" }, time, sign,
    parts("span", { class: "name" }, names(device)));
  if (reason !== "hotplug") row.append(make("span", { class: "tag" }, reason));
  if (edges > 1) row.append(make("span", { class: "tag", title: `joined from ${edges} plugs and unplugs` }, `×${edges}`));
  row.append(make("span", { class: "port" }, port(device)));
  return make("li", { "data-seq": event.seq }, row);
}
