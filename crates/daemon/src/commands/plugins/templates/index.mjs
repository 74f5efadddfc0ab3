// A device that the manifest asks for was plugged in. An error thrown here means: again, later.
export async function attached({ device }, { log }) {
  log("info", `${device.product ?? device.device_id} is here`);
}

export async function detached({ device }, { log }) {
  log("info", `${device.product ?? device.device_id} is gone`);
}
