// What people call devices, classes and speeds. Pure: values in, text out.

// usb.org, "Defined Class Codes": name, icon, and which tint it gets.
const CLASSES = new Map([
  [0x01, ["audio", "audio", "sound"]],
  [0x02, ["communications", "network", "link"]],
  [0x03, ["HID", "hid", "input"]],
  [0x05, ["physical", "hid", "input"]],
  [0x06, ["still imaging", "image", "picture"]],
  [0x07, ["printer", "printer", "paper"]],
  [0x08, ["mass storage", "storage", "disk"]],
  [0x09, ["hub", "hub", "plain"]],
  [0x0a, ["CDC data", "network", "link"]],
  [0x0b, ["smart card", "smartcard", "paper"]],
  [0x0d, ["content security", "smartcard", "paper"]],
  [0x0e, ["video", "video", "picture"]],
  [0x0f, ["personal healthcare", "vendor", "plain"]],
  [0x10, ["audio/video", "video", "picture"]],
  [0x11, ["billboard", "usb", "plain"]],
  [0x12, ["Type-C bridge", "usb", "plain"]],
  [0xdc, ["diagnostic", "vendor", "plain"]],
  [0xe0, ["wireless", "wireless", "link"]],
  [0xef, ["miscellaneous", "usb", "plain"]],
  [0xfe, ["application specific", "vendor", "plain"]],
  [0xff, ["vendor specific", "vendor", "plain"]],
]);

const UNKNOWN = ["unknown class", "usb", "plain"];

// Said of a device whose interfaces say what it is.
const IN_INTERFACES = new Set([0x00, 0xef]);

const VENDOR_SPECIFIC = 0xff;

const BOOT = new Map([[1, "keyboard"], [2, "mouse"]]);

export const className = (code) => (CLASSES.get(code) ?? [`class ${hex(code, 2)}`])[0];

export const hex = (number, digits) => number.toString(16).padStart(digits, "0");

/** The port as Linux names it: `usb1`, `1-4.2`. */
export const port = (device) =>
  device.port_path === "0" ? `usb${device.bus_number}` : `${device.bus_number}-${device.port_path}`;

/** The port of the hub a device hangs from; null of a root hub. */
export function parent(device) {
  if (device.port_path === "0") return null;
  const end = device.port_path.lastIndexOf(".");
  return end < 0 ? `usb${device.bus_number}` : `${device.bus_number}-${device.port_path.slice(0, end)}`;
}

/** Sorts as ports do: a hub before what is behind it, 1-2 before 1-10. */
export const sortKey = (device) => [device.bus_number, ...device.port_path.split(".")]
  .map((number) => String(number).padStart(3, "0")).join(".");

export const ids = (device) => `${device.vendor_id}:${device.product_id}`;

export const isHub = (device) => device.port_path === "0" || codes(device).includes(0x09);

/** The class codes that say what a device is, each once; what says nothing to others comes last. */
export function codes(device) {
  const own = device.device_class;
  if (own !== null && !IN_INTERFACES.has(own)) return [own];
  const said = [...new Set(device.interfaces.map((one) => one.class))]
    .sort((one, other) => (one === VENDOR_SPECIFIC) - (other === VENDOR_SPECIFIC));
  return said.length > 0 || own === null ? said : [own];
}

export const classes = (device) => codes(device).map(className).join(", ");

export const drivers = (device) =>
  [...new Set(device.interfaces.map((one) => one.driver).filter((name) => name !== null))].join(", ");

/** The name of the device's icon, and its tint. */
export function look(device) {
  if (device.port_path === "0") return ["root", "plain"];
  const code = codes(device)[0];
  const [, icon, tint] = CLASSES.get(code) ?? UNKNOWN;
  const boot = device.interfaces.find((one) => one.class === 0x03 && one.subclass === 1);
  return [(code === 0x03 && BOOT.get(boot?.protocol)) || icon, tint];
}

/** What the device calls itself, else its ids, in parts. The maker of a root hub is the kernel, which says nothing. */
export function names(device) {
  const product = said(device.product);
  const maker = device.port_path === "0" ? null : said(device.manufacturer);
  if (product === null) return [maker ?? "Device", ids(device)];
  const repeats = maker !== null && product.toLowerCase().startsWith(maker.toLowerCase());
  return maker === null || repeats ? [product] : [maker, product];
}

export const title = (device) => names(device).join(" ");

const said = (text) => (text === null || text.trim() === "" ? null : visible(text.trim()));

/** Characters without a shape of their own: some turn what is around them, some look like nothing. */
const SHAPELESS = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800]/gu;

/** Text of somebody else's, with each character in it to be seen. */
export const visible = (text) =>
  text.replace(SHAPELESS, (one) => `\u2039U+${hex(one.codePointAt(0), 4).toUpperCase()}\u203a`);

export function speed(mbps) {
  if (mbps === null) return "";
  return mbps >= 1000 ? `${mbps / 1000} Gb/s` : `${mbps} Mb/s`;
}

const SPEEDS = new Map([[1.5, "low speed"], [12, "full speed"], [480, "high speed"], [5000, "SuperSpeed"],
  [10000, "SuperSpeed+"], [20000, "SuperSpeed+ 2×2"]]);

export const speedName = (mbps) => SPEEDS.get(mbps) ?? "";

/** Everything that a search looks at, in lower case. */
export const haystack = (device) => [title(device), device.manufacturer, device.product, device.serial_number,
  port(device), ids(device), device.device_id, classes(device), drivers(device)].join("\n").toLowerCase();

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; count >= 1000 && unit < units.length - 1; unit += 1) count /= 1000;
  return `${count >= 100 || unit === 0 ? Math.round(count) : count.toFixed(1)} ${units[unit]}`;
}

export function duration(ms) {
  if (ms >= 10_000) return `${Math.round(ms / 1000)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return ms >= 10 ? `${Math.round(ms)} ms` : `${ms.toFixed(1)} ms`;
}

export function uptime(ms) {
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 1) return "less than a minute";
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

export const number = (value) => value.toLocaleString("en").replaceAll(",", " ");

const two = (value) => String(value).padStart(2, "0");

export function clock(ms) {
  const at = new Date(ms);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

export function date(ms) {
  const at = new Date(ms);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

/** The meaning of each field of the device descriptor (USB 2.0, 9.6.1), where it has one beyond its number. */
export const DESCRIPTOR = {
  bLength: (value) => `${value} bytes`,
  bDescriptorType: (value) => (value === 1 ? "device" : "not a device descriptor"),
  bcdUSB: (value) => `USB ${bcd(value)}`,
  bDeviceClass: (value) => (value === 0 ? "told by each interface" : className(value)),
  bDeviceSubClass: () => "",
  bDeviceProtocol: () => "",
  bMaxPacketSize0: (value, device) => `${device.speed_mbps >= 5000 ? 2 ** value : value} bytes`,
  idVendor: (value) => hex(value, 4),
  idProduct: (value) => hex(value, 4),
  bcdDevice: (value) => `release ${bcd(value)}`,
  iManufacturer: (value, device) => string(value, device.manufacturer),
  iProduct: (value, device) => string(value, device.product),
  iSerialNumber: (value, device) => string(value, device.serial_number),
  bNumConfigurations: (value) => (value === 1 ? "one configuration" : `${value} configurations`),
};

const bcd = (value) => `${hex(value >> 8, 1)}.${hex(value & 0xff, 2)}`;

const string = (index, text) => (index === 0 ? "none" : text === null ? "not readable" : visible(text));
