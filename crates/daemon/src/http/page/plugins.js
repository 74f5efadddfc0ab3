// The plugins: as /health names them, with how long they take from /metrics.

import { byId, icon, make } from "./dom.js";
import { bounds, quantile } from "./latency.js";
import { duration, number, visible } from "./words.js";

let shown = "";

/** Only what is new is written: text that somebody has selected stays. */
export function showPlugins(plugins, samples) {
  const told = plugins.map((plugin) => ({ plugin, most: most(plugin, samples) }));
  const state = JSON.stringify(told);
  if (state === shown) return;
  shown = state;
  byId("plugins").hidden = plugins.length === 0;
  byId("plugin-list").replaceChildren(...told.map(row));
}

/** What 95 % of a plugin's answers took at most, in milliseconds; null before the first. */
function most(plugin, samples) {
  const buckets = samples.filter((one) => one.name === "plugin_duration_ms_bucket" && one.labels.plugin === plugin.name);
  const counts = buckets.map((one) => one.value);
  return (counts.at(-1) ?? 0) === 0 ? null : quantile(0.95, bounds(buckets), counts);
}

function row({ plugin, most }) {
  const state = standing(plugin);
  const counts = [
    [plugin.done, "done", ""],
    [plugin.waiting, "waiting", state === "running" ? "" : "notable"],
    [plugin.failed, plugin.failed === 1 ? "failure" : "failures", "notable"],
    [plugin.given_up, "given up", "grave"],
    [plugin.crashes, plugin.crashes === 1 ? "crash" : "crashes", "notable"],
  ].filter(([count, what]) => count > 0 || what === "done");
  const facts = counts.map(([count, what, grade]) => make("span", { class: grade }, `${number(count)} ${what}`));
  if (most !== null) facts.push(make("span", { title: "what 95 % of its answers took at most" }, `95 % within ${duration(most)}`));
  const what = make("div", { class: "what" },
    make("p", { class: "plugin" }, make("span", { class: "name" }, plugin.name), make("span", { class: "version" }, plugin.version),
      make("span", { class: "tag" }, state)),
    make("p", { class: "counts" }, ...facts));
  if (plugin.last_error !== null && plugin.last_error !== undefined) {
    const error = visible(plugin.last_error);
    what.append(make("p", { class: "why", title: error }, make("span", { class: "unseen" }, "Last error: "), make("bdi", { dir: "ltr" }, error)));
  }
  return make("li", { "data-state": state }, make("span", { class: "tile" }, icon("vendor")), what);
}

function standing({ state, workers, waiting }) {
  if (state === "resting") return "breaker open";
  return workers === 0 && waiting > 0 ? "no worker" : state;
}
