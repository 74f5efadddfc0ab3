// How the daemon is: /health and /metrics, asked every two seconds.

import { ask } from "./access.js";
import { LatencyChart, SPAN_MS } from "./charts.js";
import { byId, icon, make, setText } from "./dom.js";
import { bytes, number, uptime } from "./words.js";

const PERIOD_MS = 2000;
const TIMEOUT_MS = 10_000;
const HISTOGRAM = "usb_event_processing_duration_ms_bucket";
const SAMPLE = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-z_]+)="((?:[^"\\]|\\.)*)"/g;

/** Asks for as long as the page is open. */
export async function watchStatus() {
  const latency = new Latency();
  for (;;) {
    try {
      const get = (path) => ask(path, { signal: AbortSignal.timeout(TIMEOUT_MS) });
      const [health, metrics] = await Promise.all([get("/health"), get("/metrics")]);
      const [told, samples] = [await health.json(), parse(await metrics.text())];
      show(told, samples);
      showPlugins(told.plugins, samples);
      latency.add(samples);
    } catch {
      byId("pill").dataset.state = "lost";
      setText(byId("verdict"), "no answer");
    }
    latency.render();
    await new Promise((resolve) => setTimeout(resolve, PERIOD_MS));
  }
}

function show(health, samples) {
  byId("pill").dataset.state = health.status;
  setText(byId("verdict"), health.status);
  setText(byId("version"), `autoweave-usbd ${health.version}, up for ${uptime(health.uptime_ms)}`);
  const { source, journal, stream } = health;
  setText(byId("source"), source.active ?? "none");
  mark("failovers", number(source.failovers), source.failovers > 0);
  mark("overruns", number(source.overruns), source.overruns > 0);
  setText(byId("journal"), journal.last_seq === 0 ? "empty" : `event ${number(journal.last_seq)}`);
  setText(byId("bytes"), bytes(journal.bytes));
  setText(byId("coalesced"), number(total(samples, "usb_events_coalesced_total")));
  setText(byId("filtered"), number(total(samples, "usb_events_filtered_total")));
  setText(byId("stream"), stream.kind === "redis" ? `Redis ${stream.state}` : "embedded");
  byId("stream").dataset.state = stream.state;
  mark("lag", journal.unpublished === 0 ? "0" : `${number(journal.unpublished)} events`, journal.unpublished > 0);
  const errors = total(samples, "usb_publish_errors_total");
  mark("publish-errors", number(errors), errors > 0);
  byId("publish-errors").title = stream.last_error ?? "";
  byId("notice").hidden = health.reasons.length === 0;
  byId("notice").dataset.state = health.status;
  if (byId("reasons").innerText !== health.reasons.join("\n")) {
    byId("reasons").replaceChildren(...health.reasons.map((reason) => make("li", {}, reason)));
  }
}

function mark(id, text, isNotable) {
  setText(byId(id), text);
  byId(id).classList.toggle("notable", isNotable);
}

/** Plugins as /health names them, with what /metrics counts of each. */
function showPlugins(plugins, samples) {
  byId("plugins").hidden = plugins.length === 0;
  byId("plugin-list").replaceChildren(...plugins.map((plugin) => {
    const of = (name) => samples.filter((one) => one.name === name && one.labels.plugin === plugin.name);
    const outcomes = of("plugin_events_total").map((one) => `${number(one.value)} ${one.labels.outcome.replace("_", " ")}`);
    const restarts = of("plugin_restarts_total").reduce((sum, one) => sum + one.value, 0);
    const isOpen = plugin.state === "resting";
    return make("li", { "data-state": isOpen ? "open" : "closed" },
      icon("vendor"),
      make("span", { class: "name" }, `${plugin.name} ${plugin.version}`),
      make("span", { class: "facts" }, [...outcomes, `${number(restarts)} restarts`].join(" · ")),
      make("span", { class: "tag" }, isOpen ? "breaker open" : plugin.state));
  }));
}

/** The samples of a text for Prometheus. */
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = line.startsWith("#") ? null : SAMPLE.exec(line);
    if (found === null) continue;
    const labels = Object.fromEntries([...(found[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [name, value]));
    samples.push({ name: found[1], labels, value: Number(found[3]) });
  }
  return samples;
}

const total = (samples, name) => samples.filter((one) => one.name === name).reduce((sum, one) => sum + one.value, 0);

/** The histogram as it grows. */
class Latency {
  #chart = new LatencyChart();
  /** `{at, counts}`: how many events had taken up to each bound. */
  #looks = [];
  #samples = [];
  #bounds = [];

  add(samples) {
    const buckets = samples.filter((one) => one.name === HISTOGRAM);
    this.#bounds = buckets.map((one) => Number(one.labels.le === "+Inf" ? Infinity : one.labels.le));
    const look = { at: Date.now(), counts: buckets.map((one) => one.value) };
    const previous = this.#looks.at(-1);
    // A daemon that was started again counts from the beginning.
    if (previous !== undefined && look.counts.at(-1) < previous.counts.at(-1)) this.#looks = [];
    const since = this.#looks.at(-1)?.counts;
    if (since !== undefined && look.counts.at(-1) > since.at(-1)) {
      this.#samples.push({ at: look.at, ...this.#quantiles(look.counts, since) });
    }
    this.#looks.push(look);
    const begin = look.at - SPAN_MS;
    this.#looks = this.#looks.filter((one) => one.at >= begin);
    this.#samples = this.#samples.filter((one) => one.at >= begin);
  }

  render() {
    const newest = this.#looks.at(-1)?.counts;
    if (newest === undefined) return;
    const oldest = this.#looks[0].counts;
    // Where nothing happened in these minutes: since the daemon started.
    const since = newest.at(-1) > oldest.at(-1) ? oldest : newest.map(() => 0);
    const overall = newest.at(-1) === since.at(-1) ? null : this.#quantiles(newest, since);
    this.#chart.render(this.#samples, overall, Date.now());
  }

  #quantiles(counts, since) {
    return { half: this.#quantile(0.5, counts, since), most: this.#quantile(0.95, counts, since) };
  }

  /** As Prometheus' `histogram_quantile` does it: evenly within a bucket. */
  #quantile(share, counts, since) {
    const grown = counts.map((count, at) => count - since[at]);
    const rank = share * grown.at(-1);
    const at = grown.findIndex((count) => count >= rank);
    if (this.#bounds[at] === Infinity) return this.#bounds[at - 1];
    const [below, bound] = at === 0 ? [0, 0] : [grown[at - 1], this.#bounds[at - 1]];
    return bound + (this.#bounds[at] - bound) * ((rank - below) / (grown[at] - below));
  }
}
