//! `network.dns`: whom to ask about names.

use std::{
    net::{AddrParseError, IpAddr, SocketAddr},
    str::FromStr,
};

use super::reader::Section;

/// The port of DNS, where none is named.
const PORT: u16 = 53;

/// A server as it is written: an address, with or without a port.
struct Server(SocketAddr);

impl FromStr for Server {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = text.parse::<IpAddr>().map(|ip| SocketAddr::from((ip, PORT)));
        plain.or_else(|_| text.parse()).map(Self)
    }
}

pub(super) fn servers(section: &mut Section<'_>) -> Vec<SocketAddr> {
    let accepted = "an address like 192.0.2.53 or 192.0.2.53:5353";
    let servers: Vec<Server> = section.parsed_list("dns", &[], accepted);
    servers.into_iter().map(|Server(at)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_address_with_or_without_a_port() {
        let at = |text: &str| text.parse::<Server>().map(|Server(at)| at.to_string()).ok();
        assert_eq!(at("192.0.2.53").as_deref(), Some("192.0.2.53:53"));
        assert_eq!(at("2001:db8::53").as_deref(), Some("[2001:db8::53]:53"));
        assert_eq!(at("[2001:db8::53]:5353").as_deref(), Some("[2001:db8::53]:5353"));
        assert_eq!(at("dns.example.org"), None);
    }
}
