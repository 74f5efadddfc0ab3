// The device table and every event after it: a snapshot, then the event stream from there on, again and again.

import { Refused, ask, askJson, problem } from "./access.js";

/** Events before the snapshot, for the list. */
const HISTORY = 500;

const RETRY_MS = 1000;

/** The stream says something at least every 15 s. */
const SILENCE_MS = 40_000;

/** Follows for as long as the page is open. `tell` gets whether events come, and why not. */
export async function follow(store, tell) {
  for (;;) {
    try {
      if (store.seq === null) await begin(store);
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
  store.reset(devices, seq, await newest(seq));
}

/** The newest events up to `seq`; fewer where fewer are kept. */
async function newest(seq) {
  for (let count = Math.min(HISTORY, seq); count > 0; count = Math.floor(count / 2)) {
    try {
      return (await askJson(`/api/v1/events?since=${seq - count}&limit=${count}`)).events;
    } catch (error) {
      if (!(error instanceof Refused && error.status === 410)) throw error;
    }
  }
  return [];
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
