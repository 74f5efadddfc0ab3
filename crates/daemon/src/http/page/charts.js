// Two small charts of the last minutes, on one axis of time. What is not known is shaded: nothing is not zero.

import { byId, draw, setText } from "./dom.js";
import { SPAN_MS, STEP } from "./rates.js";
import { duration, number } from "./words.js";

const WIDTH = 300;
const HEIGHT = 60;

/** A power of ten of milliseconds. */
const decade = (power) => (power < 3 ? `${10 ** power} ms` : `${10 ** (power - 3)} s`);

const x = (at, now) => WIDTH - ((now - at) / SPAN_MS) * WIDTH;

const short = (value) => number(Number(value.toFixed(value < 10 ? 1 : 0)));

/** Events per second, attaches upwards and detaches downwards. */
export class RateChart {
  #svg = frame("rate");
  #up = this.#svg.appendChild(draw("path", { class: "attach" }));
  #down = this.#svg.appendChild(draw("path", { class: "detach" }));
  #base = this.#svg.appendChild(draw("path", { class: "base", d: `M0 ${HEIGHT / 2}H${WIDTH}` }));

  /** `until`: when the page last heard all events, in milliseconds since 1970. */
  render(rates, until, now) {
    const steps = rates.steps(now);
    const highest = Math.max(...steps.map((one) => Math.max(one.attach, one.detach)), STEP);
    const newest = Math.floor(now / 1000 / STEP) * STEP * 1000;
    const width = ((STEP * 1000) / SPAN_MS) * WIDTH * 0.7;
    const bars = (name, sign) => steps.map(({ [name]: count }, back) => {
      const left = x(newest - back * STEP * 1000, now);
      const height = (count / highest) * (HEIGHT / 2 - 2) * sign;
      return count === 0 ? "" : `M${left.toFixed(1)} ${HEIGHT / 2}v${(-height).toFixed(1)}h${width}V${HEIGHT / 2}z`;
    }).join("");
    this.#up.setAttribute("d", bars("attach", 1));
    this.#down.setAttribute("d", bars("detach", -1));
    const hidden = shade("rate", rates.since, until, now);
    const sum = (name) => number(steps.reduce((all, one) => all + one[name], 0));
    const [recent, most] = [rates.recent(now), Math.max(...steps.map((one) => one.attach + one.detach)) / STEP];
    setText(byId("rate-now"), `${short(recent)} /s`);
    setText(byId("rate-top"), `${short(highest / STEP)} /s`);
    this.#svg.setAttribute("aria-label", `Events of the last 5 minutes${hidden ? ", not all of which are known" : ""}: `
      + `${sum("attach")} attached, ${sum("detach")} detached; now ${short(recent)} a second, at most ${short(most)}`);
  }
}

/** How long events took, on a logarithmic axis. */
export class LatencyChart {
  #svg = frame("latency");
  #grid = this.#svg.appendChild(draw("path", { class: "base" }));
  #level = this.#svg.appendChild(draw("path", { class: "level" }));
  #half = this.#svg.appendChild(draw("path", { class: "half" }));
  #most = this.#svg.appendChild(draw("path", { class: "most" }));

  /**
   * `samples`: `{at, half, most}` in milliseconds, oldest first; `overall`: the same over all that `what` says, or
   * null; `since` and `until`: the first and the last look at them.
   */
  render({ samples, overall, what, since, until }, now) {
    const values = [...samples, ...(overall === null ? [] : [overall])].flatMap((one) => [one.half, one.most]);
    const low = Math.floor(Math.log10(Math.max(Math.min(...values, 1), 0.1)));
    const high = Math.max(Math.ceil(Math.log10(Math.max(...values, 1))), low + 1);
    const y = (ms) => HEIGHT - 3 - ((Math.log10(Math.max(ms, 0.1)) - low) / (high - low)) * (HEIGHT - 6);
    const line = (name) => {
      let previous = -Infinity;
      return samples.map((one) => {
        const point = `${x(one.at, now).toFixed(1)} ${y(one[name]).toFixed(1)}`;
        // A dot of its own where there was nothing shortly before.
        const path = one.at - previous > 3 * STEP * 1000 ? `M${point}h.01` : `L${point}`;
        previous = one.at;
        return path;
      }).join("");
    };
    let grid = "";
    for (let power = low; power <= high; power += 1) grid += `M0 ${y(10 ** power).toFixed(1)}H${WIDTH}`;
    this.#grid.setAttribute("d", grid);
    this.#level.setAttribute("d", overall === null ? "" : `M0 ${y(overall.most).toFixed(1)}H${WIDTH}`);
    this.#half.setAttribute("d", line("half"));
    this.#most.setAttribute("d", line("most"));
    shade("latency", since, until, now);
    setText(byId("latency-what"), overall === null ? "" : `95 % ${what}`);
    setText(byId("latency-now"), overall === null ? "none yet" : duration(overall.most));
    setText(byId("latency-top"), decade(high));
    setText(byId("latency-bottom"), decade(low));
    this.#svg.setAttribute("aria-label", overall === null ? "Latency: no event yet"
      : `Latency ${what}: half of the events within ${duration(overall.half)}, 95 % within ${duration(overall.most)}`);
  }
}

/** Shades all but what is between `since` and `until`; whether that is anything to speak of. */
function shade(id, since, until, now) {
  const share = (ms) => Math.min(Math.max(ms / SPAN_MS, 0), 1);
  const before = share(since - (now - SPAN_MS));
  const after = Math.min(share(now - until), 1 - before);
  for (const [side, part] of [["before", before], ["after", after]]) {
    const element = byId(`${id}-${side}`);
    element.style.setProperty("width", `${(part * 100).toFixed(1)}%`);
    // A page that was just opened knows of nothing yet, and one that listens is a moment behind.
    element.hidden = part < 0.01;
  }
  return before > 0 || after >= 0.01;
}

function frame(id) {
  const svg = byId(id);
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  return svg;
}
