//! A home router with UPnP: it says where it is, what its public address is, and forwards the ports that it is asked to.
//!
//! The part of it that answers is a program in its namespace, as in a real one: discovery (SSDP), a description, and
//! SOAP, as far as `WANIPConnection:1` of the UPnP Forum has what nodes ask. Only TCP is really forwarded.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::town::{Resident, init, ip, remove_namespaces};

/// The router on the street. libp2p takes no address that is kept for documentation.
pub(crate) const PUBLIC: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 1);
const INNER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// Where whoever looks for devices asks.
const DISCOVERY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
/// Where the router describes itself.
const WEB_PORT: u16 = 5000;

/// What the router was asked to forward: a protocol, a port of its own, and to whom.
pub(crate) type Forward = (String, u16, SocketAddrV4);

/// A house, its router, and a guest on the street. Nothing but the router's forwards connects them.
pub(crate) struct Lane {
    router: String,
    home: String,
    street: String,
    forwards: Arc<Mutex<BTreeSet<Forward>>>,
}

impl Lane {
    /// Builds it, or says why it cannot be built here: only root may.
    pub(crate) fn build() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may make network namespaces");
            return None;
        }
        let space = |what: &str| format!("dn{}-upnp-{what}", std::process::id());
        let lane = Self {
            router: space("router"),
            home: space("home"),
            street: space("street"),
            forwards: Arc::default(),
        };
        for space in lane.spaces() {
            ip(&["netns", "add", space]);
            ip(&["-n", space, "link", "set", "lo", "up"]);
        }
        lane.lay("lan", INNER, &lane.home, "192.168.1.2/24");
        lane.lay("wan", PUBLIC, &lane.street, "11.0.0.2/24");
        ip(&["-n", &lane.home, "route", "add", "default", "via", "192.168.1.1"]);
        lane.serve();
        Some(lane)
    }

    fn spaces(&self) -> [&String; 3] {
        [&self.router, &self.home, &self.street]
    }

    /// Lays a cable from the router to a namespace.
    fn lay(&self, plug: &str, here: Ipv4Addr, to: &str, there: &str) {
        let router = &self.router;
        let cable = ["type", "veth", "peer", "name", "eth0", "netns", to];
        ip(&[&["-n", router, "link", "add", plug][..], &cable].concat());
        ip(&["-n", router, "address", "add", &format!("{here}/24"), "dev", plug]);
        ip(&["-n", router, "link", "set", plug, "up"]);
        ip(&["-n", to, "address", "add", there, "dev", "eth0"]);
        ip(&["-n", to, "link", "set", "eth0", "up"]);
    }

    /// Has the router answer. What listens is there when this returns; it ends with the test.
    fn serve(&self) {
        let space = File::open(format!("/run/netns/{}", self.router)).unwrap();
        let forwards = Arc::clone(&self.forwards);
        // A namespace is a thread's own, and of the threads that it starts.
        let begin = move || {
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let asked = UdpSocket::bind(("0.0.0.0", DISCOVERY.port())).unwrap();
            asked.join_multicast_v4(DISCOVERY.ip(), &INNER).unwrap();
            let web = TcpListener::bind((INNER, WEB_PORT)).unwrap();
            thread::spawn(move || be_found(&asked));
            thread::spawn(move || {
                for stream in web.incoming().flatten() {
                    // Who asks badly gets nothing.
                    answer(stream, &forwards).ok();
                }
            });
        };
        thread::spawn(begin).join().unwrap();
    }

    /// Returns what the router was asked to forward so far.
    pub(crate) fn forwards(&self) -> BTreeSet<Forward> {
        self.forwards.lock().unwrap().clone()
    }

    /// Starts a node in the house.
    pub(crate) fn start_home(&self, dir: &Path) -> Resident {
        init(dir, "");
        Resident::started(&self.home, dir)
    }

    /// Starts a node on the street that knows one address.
    pub(crate) fn start_guest(&self, dir: &Path, known: &str) -> Resident {
        init(dir, known);
        Resident::started(&self.street, dir)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        remove_namespaces(self.spaces());
    }
}

/// Answers whoever looks for a router.
fn be_found(socket: &UdpSocket) {
    let mut asked = [0; 1500];
    while let Ok((count, from)) = socket.recv_from(&mut asked) {
        let kind = "urn:schemas-upnp-org:device:InternetGatewayDevice:1";
        if String::from_utf8_lossy(&asked[..count]).contains(kind) {
            let answer = format!(
                "HTTP/1.1 200 OK\r\nST: {kind}\r\nLOCATION: http://{INNER}:{WEB_PORT}/root.xml\r\n\r\n"
            );
            socket.send_to(answer.as_bytes(), from).ok();
        }
    }
}

/// Answers one request of HTTP.
fn answer(stream: TcpStream, forwards: &Mutex<BTreeSet<Forward>>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line)? > 2 {
        head.push_str(&line);
        line.clear();
    }
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let mut asked = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    reader.read_exact(&mut asked)?;
    let asked = String::from_utf8_lossy(&asked);
    let answer = if head.starts_with("get /root.xml ") {
        DESCRIPTION.to_owned()
    } else if head.starts_with("get /actions.xml ") {
        ACTIONS.to_owned()
    } else if head.contains("#getexternalipaddress") {
        let address = format!("<NewExternalIPAddress>{PUBLIC}</NewExternalIPAddress>");
        done("GetExternalIPAddress", &address)
    } else if head.contains("#addportmapping") {
        let forward = (
            field(&asked, "NewProtocol").to_owned(),
            field(&asked, "NewExternalPort").parse().unwrap(),
            SocketAddrV4::new(
                field(&asked, "NewInternalClient").parse().unwrap(),
                field(&asked, "NewInternalPort").parse().unwrap(),
            ),
        );
        if forwards.lock().unwrap().insert(forward.clone()) && forward.0 == "TCP" {
            begin_forwarding(forward.1, forward.2)?;
        }
        done("AddPortMapping", "")
    } else {
        String::new()
    };
    let length = answer.len();
    let mut writer = stream;
    write!(
        writer,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}"
    )
}

/// Returns what stands in an element of what was asked.
fn field<'a>(asked: &'a str, name: &str) -> &'a str {
    let begun = asked.split_once(&format!("<{name}>")).unwrap().1;
    begun.split_once('<').unwrap().0
}

/// Returns the answer to something that was done.
fn done(action: &str, what: &str) -> String {
    format!(
        r#"<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><u:{action}Response xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1">{what}</u:{action}Response></s:Body></s:Envelope>"#
    )
}

/// Carries connections from the street into the house.
fn begin_forwarding(port: u16, to: SocketAddrV4) -> io::Result<()> {
    let street = TcpListener::bind((PUBLIC, port))?;
    thread::spawn(move || {
        for outside in street.incoming().flatten() {
            let Ok(inside) = TcpStream::connect(to) else { continue };
            for (mut from, mut to) in
                [(outside.try_clone().unwrap(), inside.try_clone().unwrap()), (inside, outside)]
            {
                thread::spawn(move || io::copy(&mut from, &mut to));
            }
        }
    });
    Ok(())
}

const DESCRIPTION: &str = r#"<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>
<SCPDURL>/actions.xml</SCPDURL><controlURL>/control</controlURL></service></serviceList></device></root>"#;

const ACTIONS: &str = r#"<?xml version="1.0"?><scpd xmlns="urn:schemas-upnp-org:service-1-0"><actionList><action>
<name>AddPortMapping</name><argumentList>
<argument><name>NewRemoteHost</name><direction>in</direction></argument>
<argument><name>NewExternalPort</name><direction>in</direction></argument>
<argument><name>NewProtocol</name><direction>in</direction></argument>
<argument><name>NewInternalPort</name><direction>in</direction></argument>
<argument><name>NewInternalClient</name><direction>in</direction></argument>
<argument><name>NewEnabled</name><direction>in</direction></argument>
<argument><name>NewPortMappingDescription</name><direction>in</direction></argument>
<argument><name>NewLeaseDuration</name><direction>in</direction></argument>
</argumentList></action></actionList></scpd>"#;
