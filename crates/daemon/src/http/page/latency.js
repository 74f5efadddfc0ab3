// How long events take from being seen to being acknowledged: the histogram of /metrics as it grows.

import { LatencyChart } from "./charts.js";
import { SPAN_MS } from "./rates.js";

const HISTOGRAM = "usb_event_processing_duration_ms_bucket";

export class Latency {
  #chart = new LatencyChart();
  /** `{at, counts}`: how many events had taken up to each bound. */
  #looks = [];
  #samples = [];
  #bounds = [];
  #first = null;
  #last = null;

  add(samples) {
    const buckets = samples.filter((one) => one.name === HISTOGRAM);
    this.#bounds = bounds(buckets);
    const look = { at: Date.now(), counts: buckets.map((one) => one.value) };
    const previous = this.#looks.at(-1);
    // A daemon that was started again counts from the beginning.
    if (previous !== undefined && look.counts.at(-1) < previous.counts.at(-1)) this.#looks = [];
    const since = this.#looks.at(-1)?.counts;
    if (since !== undefined && look.counts.at(-1) > since.at(-1)) {
      this.#samples.push({ at: look.at, ...this.#quantiles(look.counts, since) });
    }
    this.#looks.push(look);
    this.#first ??= look.at;
    this.#last = look.at;
    const begin = look.at - SPAN_MS;
    this.#looks = this.#looks.filter((one) => one.at >= begin);
    this.#samples = this.#samples.filter((one) => one.at >= begin);
  }

  render() {
    const newest = this.#looks.at(-1)?.counts;
    if (newest === undefined) return;
    const now = Date.now();
    const oldest = this.#looks[0].counts;
    const isRecent = newest.at(-1) > oldest.at(-1);
    const since = isRecent ? oldest : newest.map(() => 0);
    const overall = newest.at(-1) === since.at(-1) ? null : this.#quantiles(newest, since);
    const recent = now - this.#first < SPAN_MS ? "since page load" : "in 5 minutes";
    const what = isRecent ? recent : "since daemon start";
    this.#chart.render({ samples: this.#samples, overall, what, since: this.#first, until: this.#last }, now);
  }

  #quantiles(counts, since) {
    const grown = counts.map((count, at) => count - since[at]);
    return { half: quantile(0.5, this.#bounds, grown), most: quantile(0.95, this.#bounds, grown) };
  }
}

/** The upper bounds of a histogram's buckets. */
export const bounds = (buckets) => buckets.map(({ labels }) => (labels.le === "+Inf" ? Infinity : Number(labels.le)));

/** As Prometheus' `histogram_quantile` does it: evenly within a bucket. `counts`: how many there were up to each bound. */
export function quantile(share, bounds, counts) {
  const rank = share * counts.at(-1);
  const at = counts.findIndex((count) => count >= rank);
  if (bounds[at] === Infinity) return bounds[at - 1];
  const [below, bound] = at === 0 ? [0, 0] : [counts[at - 1], bounds[at - 1]];
  return bound + (bounds[at] - bound) * ((rank - below) / (counts[at] - below));
}
