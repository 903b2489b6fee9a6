//! The console: what the operator's browser asks this node, and what it is shown.
//!
//! Everything is text and integers, ready to be shown: a page decodes it with a plain CBOR library. What peers say
//! of themselves is cut to what fits; whoever shows it treats it as hostile.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

use super::{Message, MessageError, RefusalReason, at_most};

/// Largest request of a console: a ticket, with room.
pub const CONSOLE_REQUEST_BYTES_MAX: usize = 128;
/// Largest response: the most peers and segments, each with its longest texts, have some 1.5 MiB.
pub const CONSOLE_RESPONSE_BYTES_MAX: usize = 2 << 20;
/// Most peers that a console is shown at once. A node has more connections only under attack.
pub const CONSOLE_PEERS_MAX: usize = 256;
/// Most protocols of a peer that a console is shown.
pub const CONSOLE_PROTOCOLS_MAX: usize = 24;
/// Most segments that a console is shown at once.
pub const CONSOLE_SEGMENTS_MAX: usize = 32;
/// Most problems of the node that a console is shown.
pub const CONSOLE_PROBLEMS_MAX: usize = 16;
/// Longest text in what a console is shown, in bytes: an entity's name may have as many.
pub const CONSOLE_TEXT_BYTES_MAX: usize = 256;

/// What a console asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ConsoleRequest {
    /// To be let in, for a ticket that was made for its peer id.
    Enter {
        /// The ticket.
        ticket: Ticket,
    },
    /// To be shown what the node knows now.
    Look {},
}

impl Message for ConsoleRequest {
    const BYTES_MAX: usize = CONSOLE_REQUEST_BYTES_MAX;

    fn check(&self) -> Result<(), MessageError> {
        Ok(())
    }
}

/// What lets one console in, once: random bytes that nobody can guess.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ticket(ByteArray<32>);

impl Ticket {
    /// Returns the ticket of these bytes, which have to be random.
    #[must_use]
    pub fn new(random: [u8; 32]) -> Self {
        Self(ByteArray::new(random))
    }

    /// Returns its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns whether both are the same, in a time that does not depend on where they differ.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(other.0.iter());
        pairs.fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b))) == 0
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Whoever reads a log shall not be let in.
        f.write_str("Ticket")
    }
}

/// The node's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ConsoleResponse {
    /// The console is let in; the ticket is used up.
    Entered {},
    /// What the node knows now.
    Shown {
        /// All of it.
        view: ConsoleView,
    },
    /// No answer.
    Refused {
        /// Why.
        reason: RefusalReason,
    },
}

/// What a console is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleView {
    /// The node's peer id.
    pub peer: String,
    /// Its version.
    pub version: String,
    /// The name of its network.
    pub network: String,
    /// For how long it has been running, in seconds.
    pub uptime_s: u64,
    /// Whether strangers reach it: `public`, `private` or `unknown`.
    pub reachability: String,
    /// What does not work, at most [`CONSOLE_PROBLEMS_MAX`].
    pub problems: Vec<String>,
    /// Connected peers first, at most [`CONSOLE_PEERS_MAX`].
    pub peers: Vec<ConsolePeer>,
    /// How many peers there are, those included that are not in the list.
    pub peers_known: u64,
    /// The newest first, at most [`CONSOLE_SEGMENTS_MAX`].
    pub segments: Vec<ConsoleSegment>,
}

/// A peer, as a console is shown it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsolePeer {
    /// Its id.
    pub peer: String,
    /// Where it is.
    pub address: Option<String>,
    /// `quic`, `tcp` or `websocket`; none when it is not connected.
    pub transport: Option<String>,
    /// The relay that carries the connection; none when it is a direct one.
    pub relay: Option<String>,
    /// Round-trip time of the last ping, in microseconds.
    pub rtt_us: Option<u64>,
    /// `probation`, `trusted`, `quarantined` or `revoked`.
    pub standing: String,
    /// Its score, in percent.
    pub score: u8,
    /// Whether it belongs to the same operator.
    pub own: bool,
    /// Bytes that went to it while it has been connected.
    pub bytes_up: u64,
    /// Bytes that came from it while it has been connected.
    pub bytes_down: u64,
    /// What it says that it runs.
    pub agent: Option<String>,
    /// What it says to speak, at most [`CONSOLE_PROTOCOLS_MAX`].
    pub protocols: Vec<String>,
}

/// A segment, as a console is shown it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleSegment {
    /// The collection.
    pub collection: String,
    /// The entity.
    pub entity: String,
    /// Time of its first observation, in microseconds since the epoch.
    pub start_us: i64,
    /// Time of its last observation, in microseconds since the epoch.
    pub end_us: i64,
    /// How many observations it stands for.
    pub count: u64,
    /// Its CID.
    pub cid: String,
    /// Where the node's gateway shows it; none when the gateway is off or does not serve it.
    pub link: Option<String>,
}

impl Message for ConsoleResponse {
    const BYTES_MAX: usize = CONSOLE_RESPONSE_BYTES_MAX;

    fn check(&self) -> Result<(), MessageError> {
        let Self::Shown { view } = self else { return Ok(()) };
        at_most("a list of problems", view.problems.len(), CONSOLE_PROBLEMS_MAX)?;
        at_most("a list of peers", view.peers.len(), CONSOLE_PEERS_MAX)?;
        at_most("a list of segments", view.segments.len(), CONSOLE_SEGMENTS_MAX)?;
        for peer in &view.peers {
            at_most("a list of protocols", peer.protocols.len(), CONSOLE_PROTOCOLS_MAX)?;
        }
        let own = [&view.peer, &view.version, &view.network, &view.reachability];
        let mut texts = own.into_iter().chain(&view.problems);
        let mut of_peers = view.peers.iter().flat_map(ConsolePeer::texts);
        let mut of_segments = view.segments.iter().flat_map(ConsoleSegment::texts);
        let check =
            |text: &String| at_most("a text with bytes", text.len(), CONSOLE_TEXT_BYTES_MAX);
        texts.try_for_each(check)?;
        of_peers.try_for_each(check)?;
        of_segments.try_for_each(check)
    }
}

impl ConsolePeer {
    fn texts(&self) -> impl Iterator<Item = &String> {
        let optional = [&self.address, &self.transport, &self.relay, &self.agent];
        let texts = [&self.peer, &self.standing].into_iter().chain(&self.protocols);
        texts.chain(optional.into_iter().flatten())
    }
}

impl ConsoleSegment {
    fn texts(&self) -> impl Iterator<Item = &String> {
        [&self.collection, &self.entity, &self.cid].into_iter().chain(&self.link)
    }
}

/// Returns as much of a text as a console is shown.
#[must_use]
pub fn console_text(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= CONSOLE_TEXT_BYTES_MAX).then_some(c)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest() -> ConsoleView {
        let text = || "x".repeat(CONSOLE_TEXT_BYTES_MAX);
        let peer = ConsolePeer {
            peer: text(),
            address: Some(text()),
            transport: Some(text()),
            relay: Some(text()),
            rtt_us: Some(u64::MAX),
            standing: text(),
            score: u8::MAX,
            own: true,
            bytes_up: u64::MAX,
            bytes_down: u64::MAX,
            agent: Some(text()),
            // What identify reads of a peer, and so all its protocols, has at most 4 KiB.
            protocols: vec!["x".repeat(4096 / CONSOLE_PROTOCOLS_MAX); CONSOLE_PROTOCOLS_MAX],
        };
        let segment = ConsoleSegment {
            collection: text(),
            entity: text(),
            start_us: i64::MIN,
            end_us: i64::MAX,
            count: u64::MAX,
            cid: text(),
            link: Some(text()),
        };
        ConsoleView {
            problems: vec![text(); CONSOLE_PROBLEMS_MAX],
            peers: vec![peer; CONSOLE_PEERS_MAX],
            segments: vec![segment; CONSOLE_SEGMENTS_MAX],
            ..ConsoleView::default()
        }
    }

    #[test]
    fn the_longest_view_of_real_peers_fits() {
        let bytes = ConsoleResponse::Shown { view: longest() }.encode().unwrap().len();
        assert!(bytes <= CONSOLE_RESPONSE_BYTES_MAX, "{bytes}");
    }

    #[test]
    fn more_than_may_be_shown_is_no_message() {
        let too_much: [fn(&mut ConsoleView); 5] = [
            |view| view.peers.extend_from_within(..1),
            |view| view.segments.extend_from_within(..1),
            |view| view.problems.extend_from_within(..1),
            |view| view.peers[7].protocols.push(String::new()),
            |view| view.segments[7].entity.push('x'),
        ];
        for add in too_much {
            let mut view = longest();
            add(&mut view);
            let refused = ConsoleResponse::Shown { view }.encode();
            assert!(matches!(refused, Err(MessageError::TooMany { .. })), "{refused:?}");
        }
    }

    #[test]
    fn texts_are_cut_between_characters_and_lose_what_moves_a_cursor() {
        assert_eq!(console_text("a\u{1b}[2J\nb"), "a[2Jb");
        let long = "ä".repeat(CONSOLE_TEXT_BYTES_MAX);
        assert_eq!(console_text(&long).len(), CONSOLE_TEXT_BYTES_MAX);
        assert_eq!(console_text(&format!("x{long}")).len(), CONSOLE_TEXT_BYTES_MAX - 1);
    }

    #[test]
    fn a_ticket_is_itself_alone_and_is_not_printed() {
        let ticket = Ticket::new([7; 32]);
        let mut other = [7; 32];
        other[31] = 8;
        assert!(ticket.is(&Ticket::new([7; 32])) && !ticket.is(&Ticket::new(other)));
        assert_eq!(format!("{ticket:?}"), "Ticket");
    }
}
