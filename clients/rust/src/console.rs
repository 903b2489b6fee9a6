//! How a browser gets to the console, as JSON.

use serde::{Deserialize, Serialize};

use crate::{Client, ClientError};

/// An address of the console that lets in whoever opens it first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsolePass {
    /// To be opened in a browser, once.
    pub url: String,
    /// For how long, in seconds.
    pub expires_s: u64,
}

/// A page asks to be let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleTicketRequest {
    /// The peer id under which it will dial.
    pub peer: String,
}

/// What lets one peer id in, once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleTicket {
    /// 32 bytes as hexadecimal digits, which go into the first message of `/dunlin/console/1`.
    pub ticket: String,
    /// Where to dial the node over WebSocket, the best first.
    pub addresses: Vec<String>,
    /// For how long, in seconds.
    pub expires_s: u64,
}

impl std::fmt::Debug for ConsoleTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsoleTicket").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Client {
    /// Returns an address of the console that lets in whoever opens it first.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn console_pass(&self) -> Result<ConsolePass, ClientError> {
        self.post("/v1/console/passes", &())
    }

    /// Returns a ticket for the console, for one peer id.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; `no_websocket` when the node does not listen for browsers.
    pub fn console_ticket(
        &self,
        request: &ConsoleTicketRequest,
    ) -> Result<ConsoleTicket, ClientError> {
        self.post("/v1/console/tickets", request)
    }
}
