//! Whether multicast DNS gets through: a question that is sent to the group must come back to this machine,
//! as other listeners here get a copy. A firewall that blocks mDNS blocks that, too.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::Finding;

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;

/// Longest wait for the question to come back.
const PATIENCE: Duration = Duration::from_secs(1);

/// Most bytes of a multicast DNS message on Ethernet.
const MESSAGE_BYTES_MAX: usize = 9_000;

pub(super) fn finding() -> Finding {
    let alone = "peers on the local network will not find each other by themselves: open UDP port 5353, or \
                 name them in `network.bootstrap`";
    match comes_back() {
        Ok(true) => Finding::fine("mdns", "multicast gets through on this machine"),
        Ok(false) => Finding::doubtful(
            "mdns",
            "multicast is blocked: what is sent does not come back",
            alone,
        ),
        Err(cause) => Finding::doubtful("mdns", format!("multicast does not work: {cause}"), alone),
    }
}

fn comes_back() -> io::Result<bool> {
    let receiver = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    receiver.set_reuse_address(true)?;
    receiver.set_reuse_port(true)?;
    receiver.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT).into())?;
    receiver.join_multicast_v4(&GROUP, &Ipv4Addr::UNSPECIFIED)?;
    let receiver = UdpSocket::from(receiver);
    let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    sender.set_multicast_loop_v4(true)?;
    let name = format!("doctor-{:016x}", rand::random::<u64>());
    sender.send_to(&question(&name), (GROUP, PORT))?;
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    while let Some(left) =
        deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    {
        receiver.set_read_timeout(Some(left))?;
        match receiver.recv(&mut buffer) {
            Ok(bytes) => {
                if buffer[..bytes].windows(name.len()).any(|part| part == name.as_bytes()) {
                    return Ok(true);
                }
            }
            Err(cause)
                if matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(false)
}

/// A question of multicast DNS that nobody answers: the pointer records of `<name>._dunlin._udp.local`.
fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [name, "_dunlin", "_udp", "local"] {
        message.push(u8::try_from(label.len()).expect("labels here are short"));
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 12, 0, 1]);
    message
}
