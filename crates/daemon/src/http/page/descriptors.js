// What the descriptors below the device descriptor say: configurations, interfaces, endpoints. Any byte may be in them.

import { make } from "./dom.js";
import { className, hex } from "./words.js";

const TRANSFERS = ["control", "isochronous", "bulk", "interrupt"];
const isPeriodic = (type) => type === "isochronous" || type === "interrupt";

/** A section for each configuration, and one for why what follows is missing. */
export function configurations(told, mbps) {
  const sections = told.configurations.map((one) => configuration(one, mbps));
  if (told.fault !== null) sections.push(make("p", { class: "remark" }, `More cannot be read: ${told.fault}.`));
  return sections;
}

function configuration(one, mbps) {
  const facts = [power(one, mbps), one.bmAttributes & 0x40 ? "self-powered" : "powered by the bus"];
  if (one.bmAttributes & 0x20) facts.push("remote wakeup");
  const section = make("section", {}, make("h3", {}, `Configuration ${one.bConfigurationValue}`),
    make("p", { class: "remark" }, facts.join(" · ")));
  if (one.interfaces.length === 0) return section;
  const columns = ["Endpoint", "Transfer", "Bytes", "Interval"].map((name) => make("th", { scope: "col" }, name));
  section.append(make("table", { class: "endpoints" }, make("thead", {}, make("tr", {}, ...columns)),
    ...one.interfaces.map((setting) => alternateSetting(setting, mbps))));
  return section;
}

function alternateSetting(setting, mbps) {
  const { bInterfaceNumber, bAlternateSetting, bInterfaceClass, bInterfaceSubClass, bInterfaceProtocol } = setting;
  const codes = [bInterfaceClass, bInterfaceSubClass, bInterfaceProtocol].map((code) => hex(code, 2)).join(" ");
  const alternate = bAlternateSetting === 0 ? [] : [`, alternate ${bAlternateSetting}`];
  const heading = make("th", { scope: "rowgroup", colspan: "4" }, `Interface ${bInterfaceNumber}`, ...alternate,
    make("span", {}, ` ${className(bInterfaceClass)} `), make("span", { class: "code" }, codes));
  return make("tbody", {}, make("tr", {}, heading), ...setting.endpoints.map((endpoint) => row(endpoint, mbps)));
}

function row(endpoint, mbps) {
  const { bEndpointAddress, bmAttributes } = endpoint;
  return make("tr", {},
    make("th", { scope: "row", class: "code" }, `0x${hex(bEndpointAddress, 2)} ${bEndpointAddress & 0x80 ? "in" : "out"}`),
    make("td", {}, TRANSFERS[bmAttributes & 3]), make("td", {}, size(endpoint, mbps)), make("td", {}, interval(endpoint, mbps)));
}

/** USB 2.0, 9.6.3, in units of 2 mA; USB 3.2, 9.6.3, of 8 mA. */
const power = ({ bMaxPower }, mbps) => `at most ${bMaxPower * (mbps >= 5000 ? 8 : 2)} mA`;

/** USB 2.0, 9.6.6: at high speed, up to two more transactions in a microframe. */
function size({ wMaxPacketSize, bmAttributes }, mbps) {
  const more = mbps === 480 && isPeriodic(TRANSFERS[bmAttributes & 3]) ? (wMaxPacketSize >> 11) & 3 : 0;
  return more === 0 ? String(wMaxPacketSize & 0x7ff) : `${more + 1}\u00a0×\u00a0${wMaxPacketSize & 0x7ff}`;
}

/** USB 2.0, 9.6.6: in frames of 1 ms, from high speed on in microframes of 125 µs; most of them as an exponent. */
function interval({ bInterval, bmAttributes }, mbps) {
  const type = TRANSFERS[bmAttributes & 3];
  if (!isPeriodic(type)) return "";
  const isExponent = mbps >= 480 || type === "isochronous";
  if (mbps === null || bInterval === 0 || (isExponent && bInterval > 16)) return `bInterval ${bInterval}`;
  const microseconds = (isExponent ? 2 ** (bInterval - 1) : bInterval) * (mbps >= 480 ? 125 : 1000);
  return microseconds < 1000 ? `${microseconds}\u00a0µs` : `${microseconds / 1000}\u00a0ms`;
}
