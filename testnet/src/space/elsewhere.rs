//! Systems without network namespaces: nodes share this machine's loopback, and links cannot be broken.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
};

use crate::{
    links::{Links, Place},
    nat::Mapping,
    process::Spawner,
};

/// Where strangers would be.
pub(crate) const STRANGER: Place = 200;

/// Addresses of a stranger.
pub(crate) const STRANGER_ADDRESSES: u8 = 1;

/// The address of a node that would be at home.
pub(crate) const HOME: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// What addresses nodes would have for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Street {
    /// Those of a private network.
    Private,
    /// Those of the internet.
    Public,
}

/// Cables, of which there are none.
#[derive(Debug)]
pub(crate) enum Fabric {}

impl Fabric {
    /// Fails.
    pub(crate) fn start(_: Links, _: Street) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "network namespaces take Linux"))
    }

    pub(crate) fn links<T>(&self, _: impl FnOnce(&mut Links) -> T) -> T {
        match *self {}
    }

    pub(crate) fn space(&self, _: Place, _: Option<TcpListener>) -> io::Result<Spawner> {
        match *self {}
    }

    pub(crate) fn home(&self, _: Place, _: Mapping, _: Option<TcpListener>) -> io::Result<Spawner> {
        match *self {}
    }

    pub(crate) fn address(&self, _: Place) -> Ipv4Addr {
        match *self {}
    }

    pub(crate) fn end(&self) {
        match *self {}
    }
}
