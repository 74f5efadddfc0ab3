// The device table and every event after it: a snapshot, then the event stream from there on, again and again.

import { Refused, ask, askJson, now, problem } from "./access.js";
import { SPAN_MS } from "./rates.js";

/** Events before the snapshot, for the list. */
const HISTORY = 500;

/** Events that are counted at a time, and how often: as many as 100 a second make in the minutes of the chart. */
const PAGE = 1000;
const PAGES_BACK = 30;

const RETRY_MS = 1000;

/** The stream says something at least every 15 s. */
const SILENCE_MS = 40_000;

/** Follows for as long as the page is open. `tell` gets whether events come, and why not. */
export async function follow(store, tell) {
  for (;;) {
    try {
      if (store.seq === null || !(await isSameJournal(store))) await begin(store);
      await listen(store, tell);
      tell(false, "The daemon ended the stream.");
    } catch (error) {
      // What is no longer kept, or the log of another journal: only a snapshot helps.
      if (error instanceof Refused && error.status === 410) store.seq = null;
      tell(false, error instanceof Refused ? error.message : "The daemon does not answer.");
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

async function begin(store) {
  const { devices, seq } = await askJson("/api/v1/devices");
  store.reset(devices, seq, await lastBefore(seq + 1, HISTORY));
  // It goes on by itself: nobody waits for the far end of a chart.
  countBack(store.rates, store.events[0]?.event.seq ?? 1).catch(() => {});
}

/** Up to `count` events right before event `end`; fewer where fewer are kept. */
async function lastBefore(end, count) {
  for (let many = Math.min(count, end - 1); many > 0; many = Math.floor(many / 2)) {
    try {
      return (await askJson(`/api/v1/events?since=${end - 1 - many}&limit=${many}`)).events;
    } catch (error) {
      if (!(error instanceof Refused && error.status === 410)) throw error;
    }
  }
  return [];
}

/** Counts what was before event `end`, as far as the chart goes back and no further than is cheap. */
async function countBack(rates, end) {
  for (let page = 0; page < PAGES_BACK && end > 1 && rates.since > now() - SPAN_MS; page += 1) {
    const events = await lastBefore(end, PAGE);
    if (events.length === 0) return;
    rates.countOlder(events);
    end = events[0].seq;
  }
}

/** Whether the event at the page's position is still the one that the page has: another journal has another. */
async function isSameJournal(store) {
  const last = store.events.at(-1)?.event;
  if (last?.seq !== store.seq) return store.seq === 0;
  const { events } = await askJson(`/api/v1/events?since=${last.seq - 1}&limit=1`);
  return events[0]?.producer === last.producer && events[0].event_id === last.event_id;
}

async function listen(store, tell) {
  const stop = new AbortController();
  let watchdog;
  const alive = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => stop.abort(), SILENCE_MS);
  };
  alive();
  try {
    const response = await ask(`/api/v1/events/stream?since=${store.seq}`, { signal: stop.signal });
    if (!response.ok) throw new Refused(response.status, await problem(response));
    tell(true, "");
    for await (const data of messages(response.body, alive)) {
      const event = JSON.parse(data);
      if (event.seq === store.seq + 1) store.apply(event);
      else if (event.seq > store.seq) throw new Refused(410, "Events are missing; beginning anew.");
    }
  } finally {
    clearTimeout(watchdog);
    stop.abort();
  }
}

/** The data of each message of an event stream (https://html.spec.whatwg.org/multipage/server-sent-events.html). */
async function* messages(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    alive();
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line === "" && data.length > 0) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}

/** Events of one device among up to `count` before `before`, oldest first, and where that search ended. */
export async function before(before, count, deviceId) {
  const since = Math.max(before - 1 - count, 0);
  const { events } = await askJson(`/api/v1/events?since=${since}&limit=${before - 1 - since}`);
  return { events: events.filter((event) => event.device.device_id === deviceId), end: since + 1 };
}
