// The daemon that the specification sketches (§3.2, §4.1), on npm's `usb` and `ioredis`, to be measured beside ours.
//
// It does what the sketch does but for two things. On a detach the sketch opens the device, which is gone, to read its
// strings, and so never tells a detach; here the device is found by its signature without. And what is there at the
// start is not told: only changes are measured.
import { createHash } from 'node:crypto';
import { usb } from 'usb';
import Redis from 'ioredis';

const redis = new Redis(process.argv[2]);
const connected = new Map();

function signature(device) {
  const { idVendor, idProduct } = device.deviceDescriptor;
  const data = `${idVendor}:${idProduct}:${device.busNumber}:${device.deviceAddress}`;
  return createHash('sha256').update(data).digest('hex').substring(0, 16);
}

function string(device, index) {
  return new Promise((resolve) => {
    if (!index) return resolve('');
    device.getStringDescriptor(index, (error, data) => resolve(error ? '' : (data ?? '')));
  });
}

async function information(device) {
  device.open();
  const { iManufacturer, iProduct, iSerialNumber } = device.deviceDescriptor;
  const [manufacturer, product, serialNumber] = await Promise.all(
    [iManufacturer, iProduct, iSerialNumber].map((index) => string(device, index)),
  );
  try {
    device.close();
  } catch {
    // It may be gone by now.
  }
  return {
    vendor_id: device.deviceDescriptor.idVendor.toString(16),
    product_id: device.deviceDescriptor.idProduct.toString(16),
    device_signature: signature(device),
    manufacturer,
    product,
    serial_number: serialNumber,
    bus_number: device.busNumber.toString(),
    device_address: device.deviceAddress.toString(),
    port_path: device.portNumbers ? device.portNumbers.join('.') : '0',
    device_descriptor: JSON.stringify(device.deviceDescriptor),
  };
}

async function publish(action, fields) {
  const event = { source: 'node-usb', action, ...fields, timestamp: Date.now().toString() };
  await redis.xadd('aw:hotplug', '*', ...Object.entries(event).flat());
}

async function attached(device) {
  try {
    const known = await information(device);
    if (connected.has(known.device_signature)) return;
    connected.set(known.device_signature, known);
    await publish('attach', known);
  } catch (error) {
    console.error(`attach: ${error.message}`);
  }
}

async function detached(device) {
  const known = connected.get(signature(device));
  if (!known) return;
  connected.delete(known.device_signature);
  await publish('detach', known);
}

usb.on('attach', attached);
usb.on('detach', detached);
await redis.ping();
console.log('ready');
