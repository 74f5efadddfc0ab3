//! Which devices belong to which resource, under which id, and whether they are plugged in.

use std::collections::BTreeMap;
use std::sync::Arc;

use autoweave_usb_device::{Device, Port, Selector};
use tokio::sync::watch;

use crate::identity::Identity;

/// Devices of a resource that are remembered while they are unplugged. When there are more, the one that has been gone
/// for longest is forgotten.
const UNPLUGGED_MAX: usize = 1024;

/// Where a device is for as long as it is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The port.
    pub port: Port,
    /// The address on its bus, 1 to 127; another at the next plug.
    pub address: u8,
}

/// A device as the kubelet hears of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// At most 63 bytes; the same over replugs.
    pub id: String,
    /// Where it is; none while it is unplugged.
    pub place: Option<Place>,
}

/// All devices of a resource that were seen, in the order they were first seen.
pub type Listing = Vec<Entry>;

/// The devices of all resources. Whoever subscribes gets the newest listing, never one between.
#[derive(Debug)]
pub struct Inventory {
    resources: Vec<Resource>,
}

#[derive(Debug)]
struct Resource {
    name: String,
    selector: Selector,
    known: Vec<Known>,
    departures: u64,
    listing: watch::Sender<Listing>,
}

/// A device that is plugged in, or was.
#[derive(Debug)]
struct Known {
    identity: Identity,
    id: String,
    /// Where it is, or was last.
    port: Port,
    place: Option<Place>,
    /// The number of its latest departure.
    left: u64,
}

impl Inventory {
    /// No devices yet, for resources by their names.
    pub fn new(resources: BTreeMap<String, Selector>) -> Self {
        let resource = |(name, selector)| Resource {
            name,
            selector,
            known: Vec::new(),
            departures: 0,
            listing: watch::Sender::new(Vec::new()),
        };
        Self { resources: resources.into_iter().map(resource).collect() }
    }

    /// What is plugged in now. A device that several resources select belongs to the one that names most of it, of
    /// several such to the first by name: two containers must never be given the same device.
    pub fn update<'a>(&mut self, devices: impl IntoIterator<Item = &'a Arc<Device>>) {
        let mut present: Vec<Vec<(Identity, Place)>> = self.resources.iter().map(|_| Vec::new()).collect();
        for device in devices {
            let selecting = self.resources.iter().zip(&mut present);
            let selecting = selecting.filter(|(resource, _)| resource.selector.selects(device));
            // Reversed, since `max_by_key` gives the last of equals.
            if let Some((_, present)) =
                selecting.rev().max_by_key(|(resource, _)| resource.selector.specificity())
            {
                let place = Place { port: device.port(), address: device.device_address };
                present.push((Identity::of(device), place));
            }
        }
        for (resource, present) in self.resources.iter_mut().zip(present) {
            resource.update(present);
        }
    }

    /// The resources' names, each with its listing now and from now on.
    pub fn subscribe(&self) -> impl Iterator<Item = (String, watch::Receiver<Listing>)> {
        self.resources.iter().map(|resource| (resource.name.clone(), resource.listing.subscribe()))
    }
}

impl Resource {
    fn update(&mut self, present: Vec<(Identity, Place)>) {
        self.take_out(&present);
        let is_new = |(identity, place): &(Identity, Place)| {
            !self.known.iter().any(|known| known.place == Some(*place) && known.identity == *identity)
        };
        let new: Vec<_> = present.into_iter().filter(is_new).collect();
        // Those that are back where they were go first: of devices with one serial number, each gets its id again.
        let (mut elsewhere, mut names) = (Vec::new(), Vec::new());
        for (identity, place) in new {
            if !self.put_back(&identity, place, |known| known.port == place.port) {
                elsewhere.push((identity, place));
            }
        }
        for (identity, place) in elsewhere {
            if !self.put_back(&identity, place, |_| true) {
                names.push((identity, place));
            }
        }
        for (identity, place) in names {
            let id = Some(identity.id()).filter(|id| !self.known.iter().any(|known| known.id == *id));
            let id = id.unwrap_or_else(|| identity.id_in(place.port));
            self.known.push(Known { identity, id, port: place.port, place: Some(place), left: 0 });
        }
        self.forget();
        self.tell();
    }

    /// Notes who is gone. Who goes by another identity now, having been read better, was never there under the old one.
    fn take_out(&mut self, present: &[(Identity, Place)]) {
        let departures = &mut self.departures;
        self.known.retain_mut(|known| {
            let Some(place) = known.place else { return true };
            let in_place = present.iter().find(|(_, other)| *other == place);
            if in_place.is_some_and(|(identity, _)| *identity == known.identity) {
                return true;
            }
            *departures += 1;
            (known.place, known.left) = (None, *departures);
            in_place.is_none()
        });
    }

    /// Whether a device of this identity was gone, and `is_wanted`.
    fn put_back(&mut self, identity: &Identity, place: Place, is_wanted: impl Fn(&Known) -> bool) -> bool {
        let is_it =
            |known: &&mut Known| known.place.is_none() && known.identity == *identity && is_wanted(known);
        let Some(known) = self.known.iter_mut().find(is_it) else { return false };
        (known.port, known.place) = (place.port, Some(place));
        true
    }

    fn forget(&mut self) {
        let mut left: Vec<u64> =
            self.known.iter().filter(|known| known.place.is_none()).map(|known| known.left).collect();
        let Some(excess) = left.len().checked_sub(UNPLUGGED_MAX).filter(|excess| *excess > 0) else { return };
        left.sort_unstable();
        let newest_forgotten = left[excess - 1];
        self.known.retain(|known| known.place.is_some() || known.left > newest_forgotten);
    }

    fn tell(&self) {
        let entry = |known: &Known| Entry { id: known.id.clone(), place: known.place };
        let listing: Listing = self.known.iter().map(entry).collect();
        self.listing.send_if_modified(|told| {
            let is_new = *told != listing;
            *told = listing;
            is_new
        });
    }
}

#[cfg(test)]
mod tests {
    use autoweave_usb_device::{HexBytes, Reading};

    use super::*;

    fn device(port: &str, address: u8, serial: Option<&str>) -> Arc<Device> {
        let mut reading = Reading::bare(port.parse().unwrap(), address, 0x046d, 0x0825, Some(14));
        reading.serial_number = serial.map(|text| HexBytes(text.as_bytes().to_vec()));
        Arc::new(Device::new(&reading, String::new()))
    }

    fn inventory(resources: &[(&str, Selector)]) -> Inventory {
        Inventory::new(
            resources.iter().map(|(name, selector)| ((*name).to_owned(), selector.clone())).collect(),
        )
    }

    fn cameras() -> Inventory {
        inventory(&[("a.b/camera", Selector { class: Some(14), ..Selector::default() })])
    }

    /// `id` or `id -` for one that is unplugged, of the resource `name`.
    fn listed(inventory: &Inventory, name: &str) -> Vec<String> {
        let (_, listing) = inventory.subscribe().find(|(other, _)| other == name).unwrap();
        let shown = |entry: &Entry| match entry.place {
            Some(_) => entry.id.clone(),
            None => format!("{} -", entry.id),
        };
        listing.borrow().iter().map(shown).collect()
    }

    #[track_caller]
    fn check(inventory: &mut Inventory, present: &[Arc<Device>], expected: &[&str]) {
        inventory.update(present);
        assert_eq!(listed(inventory, "a.b/camera"), expected);
    }

    #[test]
    fn ids_outlive_a_replug_and_a_move() {
        let mut cameras = cameras();
        let serial = |port, address| device(port, address, Some("S"));
        check(&mut cameras, &[serial("1-1", 5), device("1-2", 6, None)], &["046d:0825:S", "046d:0825@1-2"]);
        check(&mut cameras, &[], &["046d:0825:S -", "046d:0825@1-2 -"]);
        check(&mut cameras, &[device("1-2", 7, None)], &["046d:0825:S -", "046d:0825@1-2"]);
        check(&mut cameras, &[serial("2-4", 2)], &["046d:0825:S", "046d:0825@1-2 -"]);
        // Without a serial number, another port is another device.
        let moved = device("1-3", 8, None);
        check(&mut cameras, &[moved], &["046d:0825:S -", "046d:0825@1-2 -", "046d:0825@1-3"]);
    }

    #[test]
    fn devices_with_one_serial_number_keep_their_ids_in_whatever_order_they_come_back() {
        let mut cameras = cameras();
        let (one, two) = (device("1-1", 5, Some("S")), device("1-2", 6, Some("S")));
        check(&mut cameras, &[one.clone(), two.clone()], &["046d:0825:S", "046d:0825:S@1-2"]);
        check(&mut cameras, &[], &["046d:0825:S -", "046d:0825:S@1-2 -"]);
        check(&mut cameras, std::slice::from_ref(&two), &["046d:0825:S -", "046d:0825:S@1-2"]);
        check(&mut cameras, &[one, two], &["046d:0825:S", "046d:0825:S@1-2"]);
    }

    #[test]
    fn a_device_that_is_read_better_gets_its_id() {
        let mut cameras = cameras();
        check(&mut cameras, &[device("1-1", 5, None)], &["046d:0825@1-1"]);
        check(&mut cameras, &[device("1-1", 5, Some("S"))], &["046d:0825:S"]);
    }

    #[test]
    fn a_device_belongs_to_the_resource_that_names_most_of_it() {
        let class = Selector { class: Some(14), ..Selector::default() };
        let vendor = Selector { vendor_id: Some(0x046d), ..Selector::default() };
        let both = Selector { vendor_id: Some(0x046d), ..class.clone() };
        let check = |resources: [(&str, Selector); 2], expected: [&[&str]; 2]| {
            let mut inventory = inventory(&resources);
            inventory.update(&[device("1-1", 5, Some("S"))]);
            assert_eq!(resources.map(|(name, _)| listed(&inventory, name)), expected);
        };
        check([("a.b/class", class.clone()), ("a.b/vendor", vendor)], [&["046d:0825:S"], &[]]);
        check([("a.b/class", class), ("a.b/z", both)], [&[], &["046d:0825:S"]]);
    }

    #[test]
    fn only_a_change_is_told_and_only_the_newest_of_many_departures_are_remembered() {
        let mut cameras = cameras();
        let (_, mut listing) = cameras.subscribe().next().unwrap();
        for number in 0..2 * UNPLUGGED_MAX {
            cameras.update(&[device("1-1", 5, Some(&format!("S{number}")))]);
            assert!(listing.has_changed().unwrap());
            listing.mark_unchanged();
        }
        cameras.update(&[device("1-1", 5, Some(&format!("S{}", 2 * UNPLUGGED_MAX - 1)))]);
        assert!(!listing.has_changed().unwrap());
        // Each was taken for the one before, read better: nothing is left of those.
        assert_eq!(listing.borrow().len(), 1);
        for number in 0..2 * UNPLUGGED_MAX {
            cameras.update(&[device("1-1", 5, Some(&format!("T{number}")))]);
            cameras.update([]);
        }
        let listed = listed(&cameras, "a.b/camera");
        assert_eq!(listed.len(), UNPLUGGED_MAX);
        assert_eq!(listed[0], format!("046d:0825:T{UNPLUGGED_MAX} -"));
    }
}
