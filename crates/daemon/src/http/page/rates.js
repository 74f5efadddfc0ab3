// How many events there were in each second of the last minutes, and since when that is known: it does not depend on
// how many of them are kept.

/** What charts look back on, in milliseconds. */
export const SPAN_MS = 300_000;

/** What a chart shows as one, in seconds. */
export const STEP = 4;

export class Rates {
  /** Second since 1970 → how many came and went. */
  #seconds = new Map();
  /** From here on every event is counted, in milliseconds since 1970. */
  since = Infinity;

  count({ timestamp, action }) {
    const second = Math.floor(timestamp / 1000);
    let counts = this.#seconds.get(second);
    if (counts === undefined) {
      this.#forget(second);
      counts = { attach: 0, detach: 0 };
      this.#seconds.set(second, counts);
    }
    counts[action] += 1;
  }

  /** Events that go before all counted so far. The journal's first is known to be the first; else `since` moves to them. */
  countOlder(events) {
    for (const event of events) this.count(event);
    const oldest = events[0];
    if (oldest !== undefined) this.since = oldest.seq === 1 ? -Infinity : Math.min(this.since, oldest.timestamp);
  }

  /** Counts of the steps up to `now`, the newest first: one more than fit, since the first is not over. */
  steps(now) {
    const newest = Math.floor(now / 1000 / STEP);
    return Array.from({ length: SPAN_MS / 1000 / STEP + 1 }, (_, back) => this.#sum((newest - back) * STEP));
  }

  /** Events per second over the last whole seconds, as many as a step has. */
  recent(now) {
    const { attach, detach } = this.#sum(Math.floor(now / 1000) - STEP);
    return (attach + detach) / STEP;
  }

  #sum(first) {
    const sum = { attach: 0, detach: 0 };
    for (let second = first; second < first + STEP; second += 1) {
      const counts = this.#seconds.get(second);
      sum.attach += counts?.attach ?? 0;
      sum.detach += counts?.detach ?? 0;
    }
    return sum;
  }

  /** Keeps what is within reach of `second`, now and then. */
  #forget(second) {
    const reach = SPAN_MS / 1000 + 2 * STEP;
    if (this.#seconds.size < 2 * reach) return;
    for (const one of this.#seconds.keys()) if (Math.abs(one - second) > reach) this.#seconds.delete(one);
  }
}
