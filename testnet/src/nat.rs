//! The kernel's own NAT, as a home router has it, set up in a network namespace without any tool: the messages of
//! nf_tables that `nft` would send.
//!
//! What is sent, as `nft` writes it:
//!
//! ```text
//! table ip nat {
//!     chain post { type nat hook postrouting priority 100; masquerade [fully-random]; }
//!     chain in { type filter hook input priority 0; policy drop; }
//! }
//! ```
//!
//! Without the second chain the router would answer what nobody asked for, and its memory of that would take the port
//! that the other side is about to open.

use std::io;

use rustix::net::{
    self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::{self, SocketAddrNetlink},
};
use serde::Deserialize;

/// How a router chooses the port that the world sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// The same one for all destinations: the two sides can meet in the middle.
    PerSource,
    /// Another one for each destination, by chance: nobody can tell where to meet ("symmetric").
    PerDestination,
}

const NETWORK_LAYER_IP4: u8 = 2;
/// The subsystem of nf_tables within netfilter.
const TABLES: u16 = 10;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = TABLES << 8;
const NEW_CHAIN: u16 = TABLES << 8 | 3;
const NEW_RULE: u16 = TABLES << 8 | 6;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const HOOK_INPUT: u32 = 1;
const HOOK_POSTROUTING: u32 = 4;
const POLICY_DROP: u32 = 0;
const PORT_FULLY_RANDOM: u32 = 1 << 4;

/// Makes a router of the network namespace that this thread is in, which has an inner and an outer network.
///
/// # Errors
///
/// Fails when the kernel refuses: it has no nf_tables with NAT, or the caller may not.
pub fn masquerade(mapping: Mapping) -> io::Result<()> {
    apply(&rules(mapping))
}

/// Returns the messages, and how many of them are answered.
fn rules(mapping: Mapping) -> (Vec<u8>, usize) {
    let flags = match mapping {
        Mapping::PerSource => Vec::new(),
        Mapping::PerDestination => number(1, PORT_FULLY_RANDOM),
    };
    let masquerade = [text(1, "masq"), nested(2, &flags)].concat();
    let hook = |at, priority| nested(4, &[number(1, at), number(2, priority)].concat());
    let table = text(1, "nat");
    let post = [table.clone(), text(3, "post"), hook(HOOK_POSTROUTING, 100), text(7, "nat")];
    let rule = [table.clone(), text(2, "post"), nested(4, &nested(1, &masquerade))];
    let inward = [
        table.clone(),
        text(3, "in"),
        hook(HOOK_INPUT, 0),
        number(5, POLICY_DROP),
        text(7, "filter"),
    ];
    let created = REQUEST | CREATE | ACK;
    let changes = [
        (NEW_TABLE, created, table),
        (NEW_CHAIN, created, post.concat()),
        (NEW_RULE, created | APPEND, rule.concat()),
        (NEW_CHAIN, created, inward.concat()),
    ];
    let count = changes.len();
    let mut batch = message(BATCH_BEGIN, REQUEST, TABLES, &[]);
    for (kind, flags, body) in changes {
        batch.extend(message(kind, flags, 0, &body));
    }
    batch.extend(message(BATCH_END, REQUEST, TABLES, &[]));
    (batch, count)
}

fn apply((batch, answers): &(Vec<u8>, usize)) -> io::Result<()> {
    let socket = net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    net::send(&socket, batch, SendFlags::empty())?;
    let mut seen = 0;
    while seen < *answers {
        let mut bytes = [0; 4096];
        let (length, _) = net::recv(&socket, &mut bytes[..], RecvFlags::empty())?;
        let mut rest = &bytes[..length];
        // Each answer has a header of 16 bytes, and then 0 or a negative error number.
        while let Some((length, error)) = rest.get(..4).zip(rest.get(16..20)) {
            let length = u32::from_ne_bytes(length.try_into().map_err(io::Error::other)?) as usize;
            let error = i32::from_ne_bytes(error.try_into().map_err(io::Error::other)?);
            if error != 0 {
                return Err(io::Error::from_raw_os_error(-error));
            }
            seen += 1;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Ok(())
}

/// A message: netlink's header, netfilter's, attributes.
fn message(kind: u16, flags: u16, resource: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(20 + body.len()).expect("a few hundred bytes");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and port: nobody else asks on this socket.
    bytes.extend([0; 8]);
    bytes.extend([NETWORK_LAYER_IP4, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(body);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a few hundred bytes");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, attributes: &[u8]) -> Vec<u8> {
    attribute(kind | 0x8000, attributes)
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}
