// Two small charts of the last minutes, on one axis of time.

import { byId, draw, setText } from "./dom.js";
import { duration } from "./words.js";

export const SPAN_MS = 300_000;

const STEP_MS = 4000;
const WIDTH = 300;
const HEIGHT = 60;

/** A power of ten of milliseconds. */
const decade = (power) => (power < 3 ? `${10 ** power} ms` : `${10 ** (power - 3)} s`);

const x = (at, now) => WIDTH - ((now - at) / SPAN_MS) * WIDTH;

/** Events per second, attaches upwards and detaches downwards. */
export class RateChart {
  #svg = frame("rate");
  #up = this.#svg.appendChild(draw("path", { class: "attach" }));
  #down = this.#svg.appendChild(draw("path", { class: "detach" }));
  #base = this.#svg.appendChild(draw("path", { class: "base", d: `M0 ${HEIGHT / 2}H${WIDTH}` }));

  render(events, now) {
    const steps = SPAN_MS / STEP_MS;
    const counts = { attach: new Array(steps + 1).fill(0), detach: new Array(steps + 1).fill(0) };
    const newest = Math.floor(now / STEP_MS);
    let last = 0;
    // They are nearly in order of time; a reconcile may tell of one that was earlier.
    for (let at = events.length - 1; at >= 0; at -= 1) {
      const { timestamp, action } = events[at].event;
      if (timestamp < now - SPAN_MS - STEP_MS) break;
      const step = newest - Math.floor(timestamp / STEP_MS);
      if (step >= 0 && step <= steps) counts[action][step] += 1;
      if (timestamp > now - 1000) last += 1;
    }
    const perSecond = (count) => count / (STEP_MS / 1000);
    const highest = Math.max(...counts.attach, ...counts.detach, STEP_MS / 1000);
    const bars = (list, sign) => list.map((count, step) => {
      const left = x((newest - step) * STEP_MS, now);
      const height = (count / highest) * (HEIGHT / 2 - 2) * sign;
      return count === 0 ? "" : `M${left.toFixed(1)} ${HEIGHT / 2}v${(-height).toFixed(1)}h${(WIDTH / steps) * 0.7}V${HEIGHT / 2}z`;
    }).join("");
    this.#up.setAttribute("d", bars(counts.attach, 1));
    this.#down.setAttribute("d", bars(counts.detach, -1));
    const all = counts.attach.map((count, step) => count + counts.detach[step]);
    const most = perSecond(Math.max(...all));
    setText(byId("rate-now"), `${last} /s`);
    setText(byId("rate-top"), `${Number(perSecond(highest).toFixed(1))} /s`);
    this.#svg.setAttribute("aria-label", `Events per second over the last 5 minutes: now ${last}, at most ${most.toFixed(1)}`);
  }
}

/** How long events took, on a logarithmic axis. */
export class LatencyChart {
  #svg = frame("latency");
  #grid = this.#svg.appendChild(draw("path", { class: "base" }));
  #half = this.#svg.appendChild(draw("path", { class: "half" }));
  #most = this.#svg.appendChild(draw("path", { class: "most" }));

  /** `samples`: `{at, half, most}` in milliseconds, oldest first; `overall`: the same over all of them. */
  render(samples, overall, now) {
    const values = samples.flatMap((one) => [one.half, one.most]);
    const low = Math.floor(Math.log10(Math.max(Math.min(...values, 1), 0.1)));
    const high = Math.max(Math.ceil(Math.log10(Math.max(...values, 1))), low + 1);
    const y = (ms) => HEIGHT - 3 - ((Math.log10(Math.max(ms, 0.1)) - low) / (high - low)) * (HEIGHT - 6);
    const line = (name) => {
      let previous = -Infinity;
      return samples.map((one) => {
        const point = `${x(one.at, now).toFixed(1)} ${y(one[name]).toFixed(1)}`;
        // A dot of its own where there was nothing shortly before.
        const path = one.at - previous > 3 * STEP_MS ? `M${point}h.01` : `L${point}`;
        previous = one.at;
        return path;
      }).join("");
    };
    let grid = "";
    for (let decade = low; decade <= high; decade += 1) grid += `M0 ${y(10 ** decade).toFixed(1)}H${WIDTH}`;
    this.#grid.setAttribute("d", grid);
    this.#half.setAttribute("d", line("half"));
    this.#most.setAttribute("d", line("most"));
    setText(byId("latency-now"), overall === null ? "none yet" : duration(overall.most));
    setText(byId("latency-top"), decade(high));
    setText(byId("latency-bottom"), decade(low));
    this.#svg.setAttribute("aria-label", overall === null ? "Latency: no event yet"
      : `Latency: half of the events within ${duration(overall.half)}, 95 % within ${duration(overall.most)}`);
  }
}

function frame(id) {
  const svg = byId(id);
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  return svg;
}
