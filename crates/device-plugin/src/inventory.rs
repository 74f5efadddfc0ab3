//! Which devices belong to which resource, under which id, and whether they are plugged in.

use std::collections::BTreeMap;
use std::sync::Arc;

use autoweave_usb_device::{Device, Port, Selector};
use tokio::sync::watch;

use crate::identity::{Named, identity};

/// Devices of a resource that are remembered while they are unplugged. When there are more, the one that has been gone
/// for longest is forgotten.
const UNPLUGGED_MAX: usize = 1024;

/// Where a device is for as long as it is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The port.
    pub port: Port,
    /// The address on its bus, 1 to 127; another at the next plug.
    pub address: u8,
}

/// The devices of each resource that were given ids, those first that were seen first.
pub type Remembered = BTreeMap<String, Vec<Named>>;

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
    named: Named,
    place: Option<Place>,
    /// The number of its latest departure.
    left: u64,
}

impl Inventory {
    /// Resources by their names. Devices that are remembered have their ids, and count as unplugged.
    pub fn new(resources: BTreeMap<String, Selector>, mut remembered: Remembered) -> Self {
        let resource = |(name, selector)| {
            let known = remembered.remove(&name).unwrap_or_default().into_iter().zip(1..);
            let known: Vec<_> = known.map(|(named, left)| Known { named, place: None, left }).collect();
            let departures = known.last().map_or(0, |known| known.left);
            Resource { name, selector, known, departures, listing: watch::Sender::new(Vec::new()) }
        };
        Self { resources: resources.into_iter().map(resource).collect() }
    }

    /// Takes in what is plugged in now; whether [`Self::remembered`] is another. Nobody is told before [`Self::tell`], so
    /// that no id is given away that could be forgotten.
    ///
    /// A device that several resources select belongs to the one that names most of it, of several such to the first
    /// by name: two containers must never be given the same device.
    #[must_use]
    pub fn update<'a>(&mut self, devices: impl IntoIterator<Item = &'a Arc<Device>>) -> bool {
        let mut present: Vec<Vec<(String, Place)>> = self.resources.iter().map(|_| Vec::new()).collect();
        for device in devices {
            let selecting = self.resources.iter().zip(&mut present);
            let selecting = selecting.filter(|(resource, _)| resource.selector.selects(device));
            // Reversed, since `max_by_key` gives the last of equals.
            if let Some((_, present)) =
                selecting.rev().max_by_key(|(resource, _)| resource.selector.specificity())
            {
                let place = Place { port: device.port(), address: device.device_address };
                present.push((identity(device), place));
            }
        }
        let updates = self.resources.iter_mut().zip(present);
        updates.fold(false, |is_other, (resource, present)| resource.update(present) | is_other)
    }

    /// Tells who subscribed what is another since it was told last.
    pub fn tell(&self) {
        self.resources.iter().for_each(Resource::tell);
    }

    /// The resources' names, each with its listing now and from now on.
    pub fn subscribe(&self) -> impl Iterator<Item = (String, watch::Receiver<Listing>)> {
        self.resources.iter().map(|resource| (resource.name.clone(), resource.listing.subscribe()))
    }

    /// What has to be known for the ids to be the same in another run.
    pub fn remembered(&self) -> Remembered {
        let named = |known: &Known| known.named.clone();
        let resource =
            |resource: &Resource| (resource.name.clone(), resource.known.iter().map(named).collect());
        self.resources.iter().map(resource).collect()
    }
}

impl Resource {
    fn update(&mut self, present: Vec<(String, Place)>) -> bool {
        let mut is_other = self.take_out(&present);
        let mut alone: BTreeMap<String, bool> = BTreeMap::new();
        for (identity, _) in &present {
            alone.entry(identity.clone()).and_modify(|is_alone| *is_alone = false).or_insert(true);
        }
        let is_new = |(identity, place): &(String, Place)| {
            !self.known.iter().any(|known| known.place == Some(*place) && known.named.identity == *identity)
        };
        let new: Vec<_> = present.into_iter().filter(is_new).collect();
        // Those that are back where they were go first.
        let (_, elsewhere): (Vec<_>, Vec<_>) =
            new.into_iter().partition(|(identity, place)| self.put_back(identity, *place));
        is_other |= !elsewhere.is_empty();
        for (identity, place) in elsewhere {
            let is_alone = alone[&identity];
            self.name(identity, place, is_alone);
        }
        self.forget() | is_other
    }

    /// Notes who is gone. Who goes by another identity now, having been read better, was never there under the old one:
    /// whether there was any such.
    fn take_out(&mut self, present: &[(String, Place)]) -> bool {
        let before = self.known.len();
        let departures = &mut self.departures;
        self.known.retain_mut(|known| {
            let Some(place) = known.place else { return true };
            let in_place = present.iter().find(|(_, other)| *other == place);
            if in_place.is_some_and(|(identity, _)| *identity == known.named.identity) {
                return true;
            }
            *departures += 1;
            (known.place, known.left) = (None, *departures);
            in_place.is_none()
        });
        self.known.len() < before
    }

    /// Whether a device of this identity was gone from this port.
    fn put_back(&mut self, identity: &str, place: Place) -> bool {
        let is_it = |known: &&mut Known| {
            known.place.is_none() && known.named.port == place.port && known.named.identity == identity
        };
        let known = self.known.iter_mut().find(is_it);
        known.map(|known| known.place = Some(place)).is_some()
    }

    /// Gives an id to a device that was not in this port before. A serial number says which device this is as long as no
    /// two were seen with it; from then on the port does, too, and the first one's id stays with its port as well:
    /// nobody could say which of them has moved.
    fn name(&mut self, identity: String, place: Place, is_alone: bool) {
        let mut same = self.known.iter_mut().filter(|known| known.named.identity == identity);
        let named = match (same.next(), same.next()) {
            (None, _) if is_alone => Named::alone(identity, place.port),
            (Some(known), None) if is_alone && known.named.is_alone() => {
                (known.named.port, known.place) = (place.port, Some(place));
                return;
            }
            _ => Named::in_port(identity, place.port),
        };
        // What had this id is gone: there is one device in a port. A hash may be that of two identities.
        self.known.retain(|known| known.named.id != named.id);
        self.known.push(Known { named, place: Some(place), left: 0 });
    }

    /// Whether there were too many.
    fn forget(&mut self) -> bool {
        let mut left: Vec<u64> =
            self.known.iter().filter(|known| known.place.is_none()).map(|known| known.left).collect();
        let Some(excess) = left.len().checked_sub(UNPLUGGED_MAX).filter(|excess| *excess > 0) else {
            return false;
        };
        left.sort_unstable();
        let newest_forgotten = left[excess - 1];
        self.known.retain(|known| known.place.is_some() || known.left > newest_forgotten);
        true
    }

    fn tell(&self) {
        let entry = |known: &Known| Entry { id: known.named.id.clone(), place: known.place };
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
    use proptest::prelude::*;

    use super::*;

    fn device(port: &str, address: u8, serial: Option<&str>) -> Arc<Device> {
        let mut reading = Reading::bare(port.parse().unwrap(), address, 0x046d, 0x0825, Some(14));
        reading.serial_number = serial.map(|text| HexBytes(text.as_bytes().to_vec()));
        Arc::new(Device::new(&reading, String::new()))
    }

    fn inventory(resources: &[(&str, Selector)]) -> Inventory {
        Inventory::new(
            resources.iter().map(|(name, selector)| ((*name).to_owned(), selector.clone())).collect(),
            Remembered::new(),
        )
    }

    fn cameras() -> Inventory {
        restarted(Remembered::new())
    }

    fn restarted(remembered: Remembered) -> Inventory {
        let cameras = Selector { class: Some(14), ..Selector::default() };
        Inventory::new([("a.b/camera".to_owned(), cameras)].into(), remembered)
    }

    fn update(inventory: &mut Inventory, present: &[Arc<Device>]) {
        let before = inventory.remembered();
        let is_other = inventory.update(present);
        assert_eq!(is_other, inventory.remembered() != before);
        inventory.tell();
    }

    /// One of several with the same serial number.
    fn twin(port: &str) -> Arc<Device> {
        device(port, port.bytes().last().unwrap() - b'0', Some("S"))
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
        update(inventory, present);
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
        let (one, two) = (twin("1-1"), twin("1-2"));
        check(&mut cameras, std::slice::from_ref(&one), &["046d:0825:S"]);
        check(&mut cameras, &[one.clone(), two.clone()], &["046d:0825:S", "046d:0825:S@1-2"]);
        check(&mut cameras, &[], &["046d:0825:S -", "046d:0825:S@1-2 -"]);
        check(&mut cameras, std::slice::from_ref(&two), &["046d:0825:S -", "046d:0825:S@1-2"]);
        check(&mut cameras, &[one, two], &["046d:0825:S", "046d:0825:S@1-2"]);
    }

    #[test]
    fn devices_with_one_serial_number_that_are_there_from_the_start_are_known_by_their_ports() {
        for order in [["1-1", "1-2"], ["1-2", "1-1"]] {
            let mut cameras = cameras();
            update(&mut cameras, &order.map(twin));
            let mut ids = listed(&cameras, "a.b/camera");
            ids.sort();
            assert_eq!(ids, ["046d:0825:S@1-1", "046d:0825:S@1-2"]);
        }
    }

    #[test]
    fn once_two_had_a_serial_number_no_id_with_it_follows_a_device_to_another_port() {
        let mut cameras = cameras();
        check(&mut cameras, &[twin("1-3")], &["046d:0825:S"]);
        check(&mut cameras, &[twin("1-3"), twin("1-4")], &["046d:0825:S", "046d:0825:S@1-4"]);
        let moved = ["046d:0825:S", "046d:0825:S@1-4 -", "046d:0825:S@1-5"];
        check(&mut cameras, &[twin("1-3"), twin("1-5")], &moved);
        let three = ["046d:0825:S", "046d:0825:S@1-4", "046d:0825:S@1-5"];
        check(&mut cameras, &[twin("1-3"), twin("1-4"), twin("1-5")], &three);
        let alone = ["046d:0825:S -", "046d:0825:S@1-4 -", "046d:0825:S@1-5 -", "046d:0825:S@1-6"];
        check(&mut cameras, &[twin("1-6")], &alone);
    }

    #[test]
    fn ids_outlive_a_restart() {
        let mut cameras = cameras();
        check(&mut cameras, &[twin("1-4")], &["046d:0825:S"]);
        check(&mut cameras, &[twin("1-3"), twin("1-4")], &["046d:0825:S", "046d:0825:S@1-3"]);
        let mut again = restarted(cameras.remembered());
        check(&mut again, &[twin("1-3"), twin("1-4")], &["046d:0825:S", "046d:0825:S@1-3"]);
        assert_eq!(again.remembered(), cameras.remembered());
        let mut without_one = restarted(cameras.remembered());
        check(&mut without_one, &[twin("1-3")], &["046d:0825:S -", "046d:0825:S@1-3"]);
        let mut moved_meanwhile = restarted(cameras.remembered());
        let three = ["046d:0825:S -", "046d:0825:S@1-3", "046d:0825:S@1-5"];
        check(&mut moved_meanwhile, &[twin("1-3"), twin("1-5")], &three);

        let mut single = restarted(Remembered::new());
        check(&mut single, &[twin("1-4")], &["046d:0825:S"]);
        check(&mut restarted(single.remembered()), &[twin("2-7")], &["046d:0825:S"]);
    }

    proptest! {
        #[test]
        fn ids_are_distinct_and_stay_while_a_device_does(
            steps in proptest::collection::vec((0..6_u8, 0..4_u8, 0..8_u8), 1..40)
        ) {
            let mut cameras = cameras();
            let mut present: BTreeMap<u8, Arc<Device>> = BTreeMap::new();
            let mut ids: BTreeMap<Place, String> = BTreeMap::new();
            for (address, (port, serial, what)) in (1..).zip(steps) {
                let serial = [None, Some("S"), Some("S"), Some("T")][usize::from(serial)];
                match what {
                    0 => cameras = restarted(cameras.remembered()),
                    1 => cameras = restarted(Remembered::new()),
                    2 | 3 => drop(present.remove(&port)),
                    _ => drop(present.insert(port, device(&format!("1-{}", port + 1), address, serial))),
                }
                // Several changes may come at once.
                if what == 7 {
                    continue;
                }
                update(&mut cameras, &present.values().cloned().collect::<Vec<_>>());
                let (_, listing) = cameras.subscribe().next().unwrap();
                let listing = listing.borrow().clone();
                let distinct: std::collections::BTreeSet<_> = listing.iter().map(|entry| &entry.id).collect();
                prop_assert_eq!(distinct.len(), listing.len(), "{:?}", listing);
                let now = listing.iter().filter_map(|entry| Some((entry.place?, entry.id.clone())));
                let now: BTreeMap<_, _> = now.collect();
                prop_assert_eq!(now.len(), present.len());
                for (place, id) in &now {
                    let before = ids.get(place).filter(|_| what != 1);
                    prop_assert!(before.is_none_or(|before| before == id), "{:?} became {}", before, id);
                }
                ids = now;
            }
        }
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
            update(&mut inventory, &[device("1-1", 5, Some("S"))]);
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
            update(&mut cameras, &[device("1-1", 5, Some(&format!("S{number}")))]);
            assert!(listing.has_changed().unwrap());
            listing.mark_unchanged();
        }
        update(&mut cameras, &[device("1-1", 5, Some(&format!("S{}", 2 * UNPLUGGED_MAX - 1)))]);
        assert!(!listing.has_changed().unwrap());
        // Each was taken for the one before, read better: nothing is left of those.
        assert_eq!(listing.borrow().len(), 1);
        for number in 0..2 * UNPLUGGED_MAX {
            assert!(cameras.update(&[device("1-1", 5, Some(&format!("T{number}")))]));
            // One is forgotten for each that goes.
            assert_eq!(cameras.update([]), number >= UNPLUGGED_MAX);
            cameras.tell();
        }
        let listed = listed(&cameras, "a.b/camera");
        assert_eq!(listed.len(), UNPLUGGED_MAX);
        assert_eq!(listed[0], format!("046d:0825:T{UNPLUGGED_MAX} -"));
    }
}
