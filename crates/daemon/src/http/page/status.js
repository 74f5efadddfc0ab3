// How the daemon is: /health and /metrics, asked every two seconds.

import { ask } from "./access.js";
import { byId, make, setText } from "./dom.js";
import { Latency } from "./latency.js";
import { showPlugins } from "./plugins.js";
import { bytes, number, uptime, visible } from "./words.js";

const PERIOD_MS = 2000;
const TIMEOUT_MS = 10_000;
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
  const { active, failovers, overruns } = source ?? { active: null, failovers: 0, overruns: 0 };
  setText(byId("source"), active ?? "none");
  mark("failovers", number(failovers), failovers > 0);
  mark("overruns", number(overruns), overruns > 0);
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
  const reasons = health.reasons.map(visible);
  if (byId("reasons").innerText !== reasons.join("\n")) {
    byId("reasons").replaceChildren(...reasons.map((reason) => make("li", {}, reason)));
  }
}

function mark(id, text, isNotable) {
  setText(byId(id), text);
  byId(id).classList.toggle("notable", isNotable);
}

/** The samples of a text for Prometheus. */
function parse(text) {
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
