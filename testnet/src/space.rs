//! A place of its own for each node: a network namespace, whose one cable ends in this process.
//!
//! The cable is a TUN device: what a node sends, this process reads, packet by packet; [`Links`] decide when it arrives;
//! and it is written to the device of whom it is for. So every protocol goes through it, TCP, QUIC and multicast, and
//! needs nothing of the kernel but TUN. Namespaces have no names: they end with the processes in them and with this one,
//! however that ends.
//!
//! A node may also be at home, behind a router that does NAT: then the router has the cable, and the node a wire to it.
//!
//! The API of a node listens on its own loopback. A listener on ours with the same port hands connections on.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fs::{self, File, OpenOptions},
    io::{self, Read, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{ioctl, thread::UnshareFlags};

use crate::{
    links::{Links, Place},
    nat::{self, Mapping},
    process::Spawner,
};

/// Largest packet on a cable.
const PACKET_BYTES_MAX: usize = 1_500;

/// Packets that are under way at once. What does not fit is dropped, as by a router that is short of memory.
const FLYING_MAX: usize = 100_000;

/// Connections to one node's API that are handed on at once. More wait to be accepted.
const HANDED_ON_MAX: usize = 64;

/// Asks the kernel for a TUN device: `TUNSETIFF` of `linux/if_tun.h`.
const TUNSETIFF: ioctl::Opcode = ioctl::opcode::write::<libc_int>(b'T', 202);

/// What the kernel's header calls the argument's type, whatever is passed.
#[expect(non_camel_case_types, reason = "it is C's")]
type libc_int = i32;

/// Packets of IP, and nothing before them: `IFF_TUN | IFF_NO_PI`.
const TUN_WITHOUT_HEADER: i16 = 0x1001;

/// `struct ifreq`, with the one member of its union that is used.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// All cables, and who carries packets between them.
#[derive(Debug, Clone)]
pub(crate) struct Fabric(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    street: Street,
    started: Instant,
    table: Mutex<Table>,
    wake: Condvar,
}

/// A packet under way. They are ordered by when they arrive, and then by when they were sent.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    arrives: Duration,
    order: u64,
    to: Place,
    packet: Vec<u8>,
}

#[derive(Debug)]
struct Table {
    links: Links,
    cables: BTreeMap<Place, Arc<File>>,
    flying: BinaryHeap<Reverse<Flying>>,
    sent: u64,
    is_over: bool,
}

impl Fabric {
    /// Starts to carry packets.
    pub(crate) fn start(links: Links, street: Street) -> io::Result<Self> {
        let table = Table {
            links,
            cables: BTreeMap::new(),
            flying: BinaryHeap::new(),
            sent: 0,
            is_over: false,
        };
        let (started, wake) = (Instant::now(), Condvar::new());
        let inner = Inner { street, started, table: Mutex::new(table), wake };
        let fabric = Self(Arc::new(inner));
        let carrier = fabric.clone();
        thread::Builder::new().name("links".to_owned()).spawn(move || carrier.deliver())?;
        Ok(fabric)
    }

    /// Does something with the links.
    pub(crate) fn links<T>(&self, act: impl FnOnce(&mut Links) -> T) -> T {
        act(&mut self.lock().links)
    }

    /// Makes a namespace with a cable, and returns who starts children there. `api` is a listener of ours whose
    /// connections are handed on to the same port there.
    pub(crate) fn space(&self, place: Place, api: Option<TcpListener>) -> io::Result<Spawner> {
        let fabric = self.clone();
        Spawner::start(move || {
            leave()?;
            fabric.lay_cable(place)?;
            api.map_or(Ok(()), serve_api)
        })
    }

    /// Does as [`Self::space`], with a router between the cable and the node, which has an address that nobody else sees:
    /// [`HOME`].
    pub(crate) fn home(
        &self,
        place: Place,
        mapping: Mapping,
        api: Option<TcpListener>,
    ) -> io::Result<Spawner> {
        let fabric = self.clone();
        Spawner::start(move || {
            leave()?;
            ip(&["link", "set", "lo", "up"])?;
            let (process, task) = (std::process::id(), rustix::thread::gettid());
            let home = format!("/proc/{process}/task/{task}/ns/net");
            // A namespace is a thread's own, and this one is at home.
            let router = thread::Builder::new().name("router".to_owned());
            let router = router.spawn(move || fabric.build_router(place, mapping, &home))?;
            router.join().map_err(|_| io::Error::other("the router's thread panicked"))??;
            ip(&["addr", "add", &format!("{HOME}/24"), "dev", "eth0"])?;
            ip(&["link", "set", "eth0", "up"])?;
            ip(&["route", "add", "default", "via", &ROUTER.to_string()])?;
            api.map_or(Ok(()), serve_api)
        })
    }

    /// Leaves for a namespace of its own that is a router between the cable and another namespace.
    fn build_router(self, place: Place, mapping: Mapping, home: &str) -> io::Result<()> {
        leave()?;
        ip(&["link", "add", "lan", "type", "veth", "peer", "name", "eth0", "netns", home])?;
        ip(&["addr", "add", &format!("{ROUTER}/24"), "dev", "lan"])?;
        ip(&["link", "set", "lan", "up"])?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        nat::masquerade(mapping).map_err(|cause| {
            io::Error::new(cause.kind(), format!("the kernel does no NAT here: {cause}"))
        })?;
        self.lay_cable(place)
    }

    /// Makes the cable of the namespace that this thread is in, and carries what comes over it.
    fn lay_cable(self, place: Place) -> io::Result<()> {
        ip(&["link", "set", "lo", "up"])?;
        let cable = Arc::new(plug()?);
        for address in self.addresses(place) {
            let bits = self.0.street.prefix_bits();
            ip(&["addr", "add", &format!("{address}/{bits}"), "dev", CABLE])?;
        }
        ip(&["link", "set", CABLE, "up"])?;
        ip(&["route", "add", "224.0.0.0/4", "dev", CABLE])?;
        self.lock().cables.insert(place, Arc::clone(&cable));
        // Threads are where their parent is.
        let reader = thread::Builder::new().name("cable".to_owned());
        reader.spawn(move || self.read(place, &cable))?;
        Ok(())
    }

    /// Returns a node's address on the street, or a stranger's first one.
    pub(crate) fn address(&self, place: Place) -> Ipv4Addr {
        self.0.street.address(place)
    }

    fn addresses(&self, place: Place) -> Vec<Ipv4Addr> {
        let count = if place == STRANGER { STRANGER_ADDRESSES } else { 1 };
        let [a, b, c, d] = self.address(place).octets();
        (0..count).map(|further| Ipv4Addr::new(a, b, c, d + further)).collect()
    }

    /// Takes in what a node sends.
    fn read(&self, place: Place, cable: &File) {
        let mut bytes = vec![0; PACKET_BYTES_MAX];
        let mut reader = cable;
        // The device goes with the namespace, and reading ends.
        while let Ok(count) = reader.read(&mut bytes) {
            let Some(packet) = bytes.get(..count) else { return };
            let now = self.0.started.elapsed();
            let mut table = self.lock();
            if table.is_over {
                return;
            }
            for to in table.receivers(place, packet) {
                if table.flying.len() >= FLYING_MAX {
                    break;
                }
                if let Some(arrives) = table.links.pass(now, place, to, packet.len()) {
                    table.sent += 1;
                    let order = table.sent;
                    let packet = packet.to_vec();
                    table.flying.push(Reverse(Flying { arrives, order, to, packet }));
                }
            }
            drop(table);
            self.0.wake.notify_one();
        }
    }

    /// Writes packets where they belong when they arrive.
    fn deliver(&self) {
        let mut table = self.lock();
        while !table.is_over {
            let now = self.0.started.elapsed();
            let next = table.flying.peek().map(|Reverse(next)| next.arrives);
            match next {
                Some(arrives) if arrives <= now => {
                    let packet = table.flying.pop();
                    let Some(Reverse(Flying { to, packet, .. })) = packet else { continue };
                    let Some(cable) = table.cables.get(&to).cloned() else { continue };
                    drop(table);
                    // A device whose queue is full drops it, as one does.
                    (&*cable).write_all(&packet).ok();
                    table = self.lock();
                }
                next => {
                    let patience = next.map_or(Duration::from_secs(1), |next| next - now);
                    let waited = self.0.wake.wait_timeout(table, patience);
                    table = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Carries nothing any more.
    pub(crate) fn end(&self) {
        let mut table = self.lock();
        table.is_over = true;
        table.cables.clear();
        table.flying.clear();
        self.0.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Whole at every moment, also after a panic elsewhere.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Returns for whom a packet is.
    fn receivers(&self, from: Place, packet: &[u8]) -> Vec<Place> {
        let [0x40..=0x4f, ..] = packet else { return Vec::new() };
        let Some(&[a, b, c, d]) = packet.get(16..20) else { return Vec::new() };
        let to = Ipv4Addr::new(a, b, c, d);
        if to.is_multicast() || to.is_broadcast() {
            return self.cables.keys().copied().filter(|place| *place != from).collect();
        }
        place_of(to).filter(|place| self.cables.contains_key(place)).into_iter().collect()
    }
}

/// Where strangers are: they have many addresses.
pub(crate) const STRANGER: Place = 200;

/// Addresses of a stranger.
pub(crate) const STRANGER_ADDRESSES: u8 = 64;

/// The address of a node that is at home, where every home has the same, and of its router on that side.
pub(crate) const HOME: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

/// The device that a cable ends in.
const CABLE: &str = "wan";

/// What addresses nodes have for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Street {
    /// Those of a private network, where everybody is reached.
    Private,
    /// Those of the internet: of a range that is for documentation, so that nobody else has them.
    Public,
}

impl Street {
    fn address(self, place: Place) -> Ipv4Addr {
        let number = u8::try_from(place).unwrap_or(u8::MAX);
        match self {
            _ if place == STRANGER => Ipv4Addr::new(10, 77, 200, 1),
            Self::Private => Ipv4Addr::new(10, 77, 0, number + 1),
            Self::Public => Ipv4Addr::new(203, 0, 113, number + 1),
        }
    }

    fn prefix_bits(self) -> u8 {
        match self {
            Self::Private => 16,
            Self::Public => 24,
        }
    }
}

fn place_of(address: Ipv4Addr) -> Option<Place> {
    match address.octets() {
        [10, 77, 200, _] => Some(STRANGER),
        [10, 77, 0, number] | [203, 0, 113, number] => number.checked_sub(1).map(Place::from),
        _ => None,
    }
}

/// Leaves the network namespace that this thread is in.
#[expect(unsafe_code, reason = "the kernel's own call has no safe form")]
fn leave() -> io::Result<()> {
    // SAFETY: tables of file descriptors stay shared; only the network of this thread changes.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)? };
    Ok(())
}

/// Makes the device [`CABLE`] in the namespace of this thread, and returns its other end.
#[expect(unsafe_code, reason = "the kernel's own call has no safe form")]
fn plug() -> io::Result<File> {
    let cable = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = Request { name: [0; 16], flags: TUN_WITHOUT_HEADER, rest: [0; 22] };
    request.name[..CABLE.len()].copy_from_slice(CABLE.as_bytes());
    // SAFETY: `TUNSETIFF` reads and writes a `struct ifreq`, which `Request` is by its layout and size, and keeps no
    // reference to it.
    unsafe {
        let ask = ioctl::Updater::<TUNSETIFF, Request>::new(&mut request);
        ioctl::ioctl(&cable, ask)?;
    }
    Ok(cable)
}

/// Hands connections to an API on from a thread of its own.
fn serve_api(listener: TcpListener) -> io::Result<()> {
    let server = thread::Builder::new().name("api".to_owned());
    server.spawn(move || hand_on(&listener))?;
    Ok(())
}

/// Hands connections on to the same port of the namespace that this thread is in.
fn hand_on(listener: &TcpListener) {
    let Ok(to) = listener.local_addr() else { return };
    let under_way = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming() {
        while under_way.load(Ordering::Relaxed) >= HANDED_ON_MAX {
            thread::sleep(crate::process::POLL);
        }
        // A node that does not run is not reached; the caller sees a closed connection.
        let (Ok(here), Ok(there)) = (connection, TcpStream::connect(to)) else { continue };
        let ends = (here.try_clone(), there.try_clone());
        let (Ok(here_too), Ok(there_too)) = ends else { continue };
        under_way.fetch_add(1, Ordering::Relaxed);
        let count = Arc::clone(&under_way);
        let back = move || {
            copy(there_too, here_too);
            count.fetch_sub(1, Ordering::Relaxed);
        };
        if thread::Builder::new().spawn(back).is_err() {
            under_way.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        // When there is no thread for one direction, the connection closes.
        thread::Builder::new().spawn(move || copy(here, there)).ok();
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    // A connection that breaks ends in both directions.
    io::copy(&mut from, &mut to).ok();
    to.shutdown(Shutdown::Write).ok();
}

fn ip(args: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(args).output()?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("`ip {}` failed: {}", args.join(" "), errors.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::Profile;

    #[test]
    fn an_address_leads_to_its_place() {
        for street in [Street::Private, Street::Public] {
            for place in [0, 1, 49, STRANGER] {
                assert_eq!(place_of(street.address(place)), Some(place));
            }
        }
        let fabric = Fabric::start(Links::new(Profile::Lan, 0), Street::Private).unwrap();
        let strangers = fabric.addresses(STRANGER);
        assert_eq!(strangers.len(), usize::from(STRANGER_ADDRESSES));
        assert!(strangers.into_iter().all(|address| place_of(address) == Some(STRANGER)));
        fabric.end();
        assert_eq!(place_of(Ipv4Addr::new(10, 78, 0, 1)), None);
    }
}
