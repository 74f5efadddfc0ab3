// What the page knows: the device table and the newest events. Everything in it is bounded.

import { now } from "./access.js";
import { Rates } from "./rates.js";
import { codes, haystack, isHub, parent, port, sortKey } from "./words.js";

/** What comes sooner after another event, in milliseconds, is one of many, and not marked as new: each mark is drawn. */
const ALONE_MS = 50;

/** Newest events that are kept, for the list and the devices' histories. */
const EVENTS_MAX = 5000;

export class Store {
  /** The last event the table includes; null before the first snapshot. */
  seq = null;
  /** Port → what is there, with what the page derives of it. */
  devices = new Map();
  /** Oldest first. */
  events = [];
  rates = new Rates();
  host = "";
  /** Whether events come in as they happen. */
  isLive = false;
  /** Rises with each change of the table. */
  version = 0;
  #listeners = [];
  #cameAt = 0;

  onChange(listener) {
    this.#listeners.push(listener);
  }

  /** Begins anew: the table as of event `seq`, and the newest events up to there. */
  reset(devices, seq, history) {
    this.devices = new Map(devices.map((device) => [port(device), entry(device)]));
    this.events = history.map(record);
    this.rates = new Rates();
    // Where there is no event yet, there was none.
    this.rates.since = seq === 0 ? -Infinity : now();
    this.rates.countOlder(history);
    this.host = history.at(-1)?.host ?? this.host;
    this.seq = seq;
    this.#changed();
  }

  /** An event that follows those there are. */
  apply(event) {
    const place = port(event.device);
    const known = record(event);
    const at = performance.now();
    const isNew = at - this.#cameAt > ALONE_MS;
    this.#cameAt = at;
    if (event.action === "attach") {
      this.devices.set(place, { ...known.entry, isNew, since: event.timestamp });
    } else {
      this.devices.delete(place);
    }
    this.events.push(known);
    this.rates.count(event);
    // In one go now and then: each cut moves all the rest.
    if (this.events.length > EVENTS_MAX * 1.2) this.events.splice(0, this.events.length - EVENTS_MAX);
    this.host = event.host;
    this.seq = event.seq;
    this.#changed();
  }

  setLive(isLive) {
    this.isLive = isLive;
    this.#changed();
  }

  #changed() {
    this.version += 1;
    for (const listener of this.#listeners) listener();
  }
}

function entry(device) {
  return {
    device, port: port(device), parent: parent(device), key: sortKey(device), codes: codes(device),
    text: haystack(device), isHub: isHub(device), isNew: false, since: null,
  };
}

const record = (event) => ({ event, entry: entry(event.device) });

/** Whether all words of a search are in `text`. */
export const matches = (text, words) => words.every((word) => text.includes(word));
