//! Which devices a container gets, and what it gets of them.

use std::collections::{BTreeMap, BTreeSet};

use autoweave_usb_device::Port;
use tonic::Status;

use crate::api::{
    AllocateRequest, ContainerAllocateResponse, ContainerPreferredAllocationRequest,
    ContainerPreferredAllocationResponse, DeviceSpec, PreferredAllocationRequest,
    PreferredAllocationResponse,
};
use crate::inventory::{Entry, Place};

/// Characters of an id that an error quotes.
const QUOTED_MAX: usize = 80;

/// A device that was asked for and is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub id: String,
    pub place: Place,
}

/// The devices asked for, of each container.
///
/// # Errors
/// `NotFound` for an id that never was, `Unavailable` for a device that is unplugged, `InvalidArgument` for one asked for
/// twice.
pub fn wanted(listing: &[Entry], request: &AllocateRequest) -> Result<Vec<Vec<Wanted>>, Status> {
    let places = places(listing);
    let mut taken = BTreeSet::new();
    let mut one = |id: &String| {
        let place = *places.get(id.as_str()).ok_or_else(|| unknown(id))?;
        let place = place.ok_or_else(|| Status::unavailable(format!("{} is unplugged", quoted(id))))?;
        if !taken.insert(id.clone()) {
            return Err(Status::invalid_argument(format!("{} is asked for twice", quoted(id))));
        }
        Ok(Wanted { id: id.clone(), place })
    };
    let containers = request.container_requests.iter();
    containers.map(|container| container.devices_ids.iter().map(&mut one).collect()).collect()
}

/// What a container is given of `devices`: the nodes, and their names in the environment.
///
/// # Errors
/// `Unavailable` when a device has gone meanwhile.
pub fn given(
    resource: &str,
    devices: &[Wanted],
    nodes: fn(Port) -> Vec<String>,
) -> Result<ContainerAllocateResponse, Status> {
    let mut paths = Vec::new();
    for Wanted { id, place } in devices {
        let mut all = nodes(place.port);
        // Nodes are found by port; this one says whose they are.
        let own = format!("/dev/bus/usb/{:03}/{:03}", place.port.bus, place.address);
        let index = all.iter().position(|node| *node == own);
        let index = index.ok_or_else(|| Status::unavailable(format!("{} is unplugged", quoted(id))))?;
        all.swap_remove(index);
        all.sort_unstable();
        paths.push(own);
        paths.append(&mut all);
    }
    let ids: Vec<&str> = devices.iter().map(|device| device.id.as_str()).collect();
    let prefix = variable_prefix(resource);
    let envs =
        [(format!("{prefix}_IDS"), ids.join(",")), (format!("{prefix}_NODES"), paths.join(","))].into();
    let node = |path: String| DeviceSpec {
        container_path: path.clone(),
        host_path: path,
        permissions: "rw".to_owned(),
    };
    Ok(ContainerAllocateResponse { envs, devices: paths.into_iter().map(node).collect() })
}

/// Which devices to take where there are more than are wanted: those that are plugged in, each on another bus as far as
/// that goes, since the devices of a bus share its bandwidth.
///
/// # Errors
/// `InvalidArgument` for a request that cannot be met.
pub fn preferred(
    listing: &[Entry],
    request: PreferredAllocationRequest,
) -> Result<PreferredAllocationResponse, Status> {
    let places = places(listing);
    let containers = request.container_requests.into_iter();
    let container_responses =
        containers.map(|container| prefer(&places, container)).collect::<Result<_, _>>()?;
    Ok(PreferredAllocationResponse { container_responses })
}

fn prefer(
    places: &BTreeMap<&str, Option<Place>>,
    request: ContainerPreferredAllocationRequest,
) -> Result<ContainerPreferredAllocationResponse, Status> {
    let chosen: BTreeSet<String> = request.must_include_device_ids.into_iter().collect();
    let mut available: BTreeSet<String> = request.available_device_ids.into_iter().collect();
    let size = usize::try_from(request.allocation_size).unwrap_or(0);
    if size == 0 || size < chosen.len() || size > available.len() || !chosen.is_subset(&available) {
        let (chosen, available) = (chosen.len(), available.len());
        let size = request.allocation_size;
        let message = format!("{size} devices, {chosen} of them chosen, cannot be had of {available}");
        return Err(Status::invalid_argument(message));
    }
    available.retain(|id| !chosen.contains(id));
    let place = |id: &String| places.get(id.as_str()).copied().flatten();
    let mut on_bus: BTreeMap<u8, usize> = BTreeMap::new();
    for place in chosen.iter().filter_map(place) {
        *on_bus.entry(place.port.bus).or_default() += 1;
    }
    let mut candidates: Vec<(Option<Port>, String)> =
        available.into_iter().map(|id| (place(&id).map(|place| place.port), id)).collect();
    candidates.sort_unstable();
    // By how many of the same bus go before it.
    let mut ranked: Vec<_> = candidates
        .into_iter()
        .map(|(port, id)| {
            let Some(port) = port else { return (true, 0, None, id) };
            let before = on_bus.entry(port.bus).or_default();
            *before += 1;
            (false, *before, Some(port), id)
        })
        .collect();
    ranked.sort_unstable();
    let more = ranked.into_iter().map(|(_, _, _, id)| id).take(size - chosen.len());
    let device_ids = chosen.iter().cloned().chain(more).collect();
    Ok(ContainerPreferredAllocationResponse { device_ids })
}

fn places(listing: &[Entry]) -> BTreeMap<&str, Option<Place>> {
    listing.iter().map(|entry| (entry.id.as_str(), entry.place)).collect()
}

fn unknown(id: &str) -> Status {
    Status::not_found(format!("no device is called {}", quoted(id)))
}

/// `id` made fit for a message: short, and without control characters.
fn quoted(id: &str) -> String {
    let start: String = id.chars().take(QUOTED_MAX).collect();
    let more = if start.len() < id.len() { "…" } else { "" };
    format!("{start:?}{more}")
}

/// `autoweave.dev/usb-camera` as `AUTOWEAVE_DEV_USB_CAMERA`.
fn variable_prefix(resource: &str) -> String {
    let shout = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    resource.chars().map(shout).collect()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::api::ContainerAllocateRequest;

    fn listing(devices: &[(&str, Option<&str>)]) -> Vec<Entry> {
        let place = |port: &str| Place { port: port.parse().unwrap(), address: 5 };
        devices.iter().map(|(id, port)| Entry { id: (*id).to_owned(), place: port.map(place) }).collect()
    }

    fn owned(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    fn ask(listing: &[Entry], containers: &[&[&str]]) -> Result<Vec<usize>, Code> {
        let container = |ids: &&[&str]| ContainerAllocateRequest { devices_ids: owned(ids) };
        let request = AllocateRequest { container_requests: containers.iter().map(container).collect() };
        let wanted = wanted(listing, &request).map_err(|status| status.code())?;
        Ok(wanted.iter().map(Vec::len).collect())
    }

    #[test]
    fn only_what_is_there_is_allocated_and_only_once() {
        let listing = listing(&[("a", Some("1-1")), ("b", Some("1-2")), ("gone", None)]);
        assert_eq!(ask(&listing, &[&["b"], &[], &["a"]]), Ok(vec![1, 0, 1]));
        assert_eq!(ask(&listing, &[]), Ok(vec![]));
        assert_eq!(ask(&listing, &[&["a", "c"]]), Err(Code::NotFound));
        assert_eq!(ask(&listing, &[&["gone"]]), Err(Code::Unavailable));
        assert_eq!(ask(&listing, &[&["a"], &["a"]]), Err(Code::InvalidArgument));
        let long = "\u{1b}".repeat(1000);
        let request = ContainerAllocateRequest { devices_ids: vec![long] };
        let status = wanted(&listing, &AllocateRequest { container_requests: vec![request] }).unwrap_err();
        assert!(status.message().len() < 600 && !status.message().contains('\u{1b}'), "{status}");
    }

    #[test]
    fn a_container_gets_all_nodes_of_its_devices_and_their_names() {
        let port: Port = "1-2".parse().unwrap();
        let nodes = |_: Port| owned(&["/dev/bus/usb/001/005", "/dev/video1", "/dev/video0"]);
        let device = |address| Wanted { id: "046d:0825:S".to_owned(), place: Place { port, address } };
        let given_of = |devices: &[Wanted]| given("autoweave.dev/usb-camera", devices, nodes);
        let response = given_of(&[device(5)]).unwrap();
        let paths: Vec<_> = response.devices.iter().map(|node| node.host_path.as_str()).collect();
        assert_eq!(paths, ["/dev/bus/usb/001/005", "/dev/video0", "/dev/video1"]);
        assert!(response.devices.iter().all(|n| n.permissions == "rw" && n.container_path == n.host_path));
        let expected = [
            ("AUTOWEAVE_DEV_USB_CAMERA_IDS".to_owned(), "046d:0825:S".to_owned()),
            ("AUTOWEAVE_DEV_USB_CAMERA_NODES".to_owned(), paths.join(",")),
        ];
        assert_eq!(response.envs, expected.into());
        // Another device is in the port by now.
        assert_eq!(given_of(&[device(6)]).unwrap_err().code(), Code::Unavailable);
    }

    #[test]
    fn devices_on_other_buses_are_preferred_and_unplugged_ones_come_last() {
        let listing = listing(&[
            ("a", Some("1-1")),
            ("b", Some("1-2")),
            ("c", Some("2-1")),
            ("d", Some("3-1.4")),
            ("gone", None),
        ]);
        let prefer = |available: &[&str], must: &[&str], allocation_size| {
            let container = ContainerPreferredAllocationRequest {
                available_device_ids: owned(available),
                must_include_device_ids: owned(must),
                allocation_size,
            };
            let request = PreferredAllocationRequest { container_requests: vec![container] };
            let response = preferred(&listing, request).map_err(|status| status.code())?;
            Ok(response.container_responses[0].device_ids.clone())
        };
        let all = ["gone", "d", "c", "b", "a"];
        assert_eq!(prefer(&all, &[], 3), Ok(owned(&["a", "c", "d"])));
        assert_eq!(prefer(&all, &[], 4), Ok(owned(&["a", "c", "d", "b"])));
        assert_eq!(prefer(&all, &["c"], 2), Ok(owned(&["c", "a"])));
        assert_eq!(prefer(&all, &[], 5), Ok(owned(&["a", "c", "d", "b", "gone"])));
        assert_eq!(prefer(&["never", "a"], &["never"], 1), Ok(owned(&["never"])));
        for (available, must, size) in [
            (&all[..], &[][..], 0),
            (&all, &[], -1),
            (&all, &[], 6),
            (&["a", "a"], &[], 2),
            (&all, &["a", "b"], 1),
            (&["a"], &["b"], 1),
        ] {
            assert_eq!(prefer(available, must, size), Err(Code::InvalidArgument), "{available:?} {must:?}");
        }
    }
}
