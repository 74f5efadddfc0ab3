// Communication, CDC data and HID: serial adapters, and scanners that pose as keyboards.
const here = new Map();

const name = ({ manufacturer, product, vendor_id, product_id }) =>
  [manufacturer, product].filter(Boolean).join(" ") || `${vendor_id}:${product_id}`;

export function attached({ device }, { log }) {
  here.set(device.device_id, device);
  const drivers = device.interfaces.map(({ driver }) => driver).filter(Boolean);
  log("info", `${name(device)} is on bus ${device.bus_number}, port ${device.port_path}` +
    (drivers.length ? `, driven by ${drivers.join(", ")}` : "") + `; ${here.size} in all`);
}

export function detached({ device }, { log }) {
  here.delete(device.device_id);
  log("info", `${name(device)} is gone; ${here.size} in all`);
}
