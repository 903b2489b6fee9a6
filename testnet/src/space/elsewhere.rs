//! Systems without network namespaces: nodes share this machine's loopback, and links cannot be broken.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
};

use crate::{
    links::{Links, Place},
    process::Spawner,
};

/// Where strangers would be.
pub(crate) const STRANGER: Place = 200;

/// Addresses of a stranger.
pub(crate) const STRANGER_ADDRESSES: u8 = 1;

/// Cables, of which there are none.
#[derive(Debug)]
pub(crate) enum Fabric {}

impl Fabric {
    /// Fails.
    pub(crate) fn start(_: Links) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "network namespaces take Linux"))
    }

    pub(crate) fn links<T>(&self, _: impl FnOnce(&mut Links) -> T) -> T {
        match *self {}
    }

    pub(crate) fn space(&self, _: Place, _: Option<TcpListener>) -> io::Result<Spawner> {
        match *self {}
    }

    pub(crate) fn end(&self) {
        match *self {}
    }
}

/// Returns loopback.
pub(crate) fn address(_: Place) -> Ipv4Addr {
    Ipv4Addr::LOCALHOST
}
