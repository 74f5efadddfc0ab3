// The dashboard: one store, what feeds it, and the views of it.

import { now } from "./access.js";
import { RateChart } from "./charts.js";
import { Details } from "./details.js";
import { byId, setText } from "./dom.js";
import { EventList } from "./events.js";
import { follow } from "./feed.js";
import { watchStatus } from "./status.js";
import { Store } from "./store.js";
import { Tree, offerClasses } from "./tree.js";
import { number } from "./words.js";

/** However fast events come, the page is drawn this often at most. */
const FRAME_MS = 200;

const RATE_MS = 1000;

const store = new Store();
const details = new Details(store);
const tree = new Tree(store, (place) => {
  const one = store.devices.get(place);
  if (one !== undefined) details.open(one.device);
});
const list = new EventList(store, (event) => details.open(event.device));
const rate = new RateChart();

let drawnAt = 0;
let isDue = false;

function render() {
  if (isDue) return;
  isDue = true;
  const wait = Math.max(drawnAt + FRAME_MS - performance.now(), 0);
  setTimeout(() => requestAnimationFrame((at) => {
    [drawnAt, isDue] = [at, false];
    paint();
  }), wait);
}

function paint() {
  const words = byId("query").value.toLowerCase().split(/\s+/).filter((word) => word !== "");
  offerClasses(store, byId("class"));
  tree.render(words, byId("class").value);
  list.render(words, byId("action").value);
  details.render();
  const devices = [...store.devices.values()];
  if (store.seq === null) return;
  const hubs = devices.filter((one) => one.isHub).length;
  const buses = new Set(devices.map((one) => one.device.bus_number)).size;
  setText(byId("count"), number(devices.length));
  setText(byId("count-more"), `${count(hubs, "hub")}, ${count(buses, "bus", "buses")}`);
  const host = store.host || location.hostname;
  setText(byId("host"), host);
  const name = `${number(devices.length)} USB · ${host}`;
  if (document.title !== name) document.title = name;
}

const count = (many, one, more = `${one}s`) => `${number(many)} ${many === 1 ? one : more}`;

store.onChange(render);
document.addEventListener("render", render);
for (const id of ["query", "class", "action"]) byId(id).addEventListener("input", render);

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, select, dialog") !== null;
  if (event.key === "/" && !isTyping) {
    event.preventDefault();
    byId("query").focus();
  }
});

let heardAt = 0;
setInterval(() => {
  if (store.isLive) heardAt = now();
  rate.render(store.rates, heardAt, now());
}, RATE_MS);
follow(store, (isLive, why) => {
  byId("events-shown").title = why;
  store.setLive(isLive);
});
watchStatus();
