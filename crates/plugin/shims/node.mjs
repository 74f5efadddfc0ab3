// Runs a plugin's entry under node: imports it and calls the functions that its manifest names in `hooks`.
// Standard output is the protocol's alone; what the plugin prints goes to standard error, which is the log.
import { writeSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { entry, hooks } = JSON.parse(process.argv[1]);
const input = process.stdin;

Object.defineProperty(process, "stdout", { get: () => process.stderr });
globalThis.console = new console.Console(process.stderr, process.stderr);

function send(message) {
  const line = Buffer.from(JSON.stringify(message) + "\n");
  for (let sent = 0; sent < line.length; ) sent += writeSync(1, line, sent);
}

const log = (level, message) => send({ type: "log", level, message: String(message).slice(0, 4096) });

async function answer({ id, hook, delivery, event }) {
  try {
    await functions[hook]?.(event, { id, delivery, log });
    return { type: "done", id, ok: true };
  } catch (error) {
    const text = String(error?.stack ?? error).slice(0, 4096);
    return { type: "done", id, ok: false, error: text, retry: error?.retry !== false };
  }
}

const plugin = await import(pathToFileURL(entry).href);
const functions = {};
for (const [hook, name] of Object.entries(hooks)) {
  if (!name) continue;
  const found = plugin[name] ?? plugin.default?.[name];
  if (typeof found !== "function") throw new Error(`${entry} exports no function ${name}, which hooks.${hook} names`);
  functions[hook] = found;
}

for await (const line of createInterface({ input, crlfDelay: Infinity })) {
  const message = JSON.parse(line);
  if (message.type === "hello") {
    await functions.onLoad?.({ plugin: message.plugin, log });
    send({ type: "ready", protocol: 1 });
  } else if (message.type === "event") {
    send(await answer(message));
  } else if (message.type === "shutdown") {
    break;
  }
}
await functions.onUnload?.();
process.exit(0);
