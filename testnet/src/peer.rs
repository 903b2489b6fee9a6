//! Dunlin processes as their operator sees them: commands, a data folder, and the HTTP API.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use dunlin_client::Client;
use serde::Deserialize;

/// File in the data folder with one full multiaddr per line, there once the process listens.
pub(crate) const NETWORK_ADDRESS_FILE: &str = "network.address";

/// Those of the demo listen on loopback, on whatever port is free.
pub(crate) const LISTEN: &str = "/ip4/127.0.0.1/tcp/0";

/// The `dunlin` binary, and the network that its processes join.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The binary.
    pub(crate) path: PathBuf,
    /// The network's name: no other network's nodes are met by accident.
    pub(crate) network: String,
}

impl Program {
    /// Makes a data folder; prints an [`Identity`].
    pub(crate) fn init(&self, home: &Home) -> Command {
        let mut command = self.command(&["init"], home);
        command.arg("--json");
        command
    }

    /// Runs a bootstrap node that listens at these addresses.
    pub(crate) fn bootstrap(&self, home: &Home, listen: &[String]) -> Command {
        let mut command = self.command(&["bootstrap"], home);
        listen.iter().for_each(|address| {
            command.args(["--listen", address]);
        });
        command
    }

    /// Runs a peer, with its API at `api`, whose segments are for `own_peers` alone.
    pub(crate) fn run<'a>(
        &self,
        home: &Home,
        listen: &[String],
        api: &str,
        bootstrap: &str,
        own_peers: impl IntoIterator<Item = &'a str>,
    ) -> Command {
        let mut command = self.command(&["run"], home);
        listen.iter().for_each(|address| {
            command.args(["--listen", address]);
        });
        command.args(["--api", api, "--bootstrap", bootstrap]);
        for peer in own_peers {
            command.args(["--own-peer", peer]);
        }
        command
    }

    /// Runs a stranger that serves one block to `victim`, with a flipped byte.
    pub(crate) fn liar(
        &self,
        home: &Home,
        bootstrap: &str,
        victim: &str,
        block: &Path,
        cid: &str,
    ) -> Command {
        let mut command = self.command(&["testnet", "liar"], home);
        command.args(["--listen", LISTEN, "--one-machine", "--bootstrap", bootstrap]);
        command.args(["--victim", victim]).arg("--block").arg(block).args(["--cid", cid]);
        command
    }

    fn command(&self, name: &[&str], home: &Home) -> Command {
        let mut command = Command::new(&self.path);
        // A setting meant for the user's own node has no say here.
        let foreign = std::env::vars_os().map(|(name, _)| name);
        for variable in foreign.filter(|name| name.to_string_lossy().starts_with("DUNLIN_")) {
            command.env_remove(variable);
        }
        command.args(name).arg("--data-dir").arg(&home.data_dir).args(["--network", &self.network]);
        command
    }
}

/// What `dunlin init --json` prints; it may print more.
#[derive(Debug, Deserialize)]
pub(crate) struct Identity {
    /// The new peer id.
    pub(crate) peer: String,
}

/// Where a process keeps its data and its log.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    /// Its data folder.
    pub(crate) data_dir: PathBuf,
    /// Its output.
    pub(crate) log: PathBuf,
}

impl Home {
    /// Returns the home of `name` in `folder`. Nothing is made yet.
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        Self { data_dir: folder.join(name), log: folder.join(format!("{name}.log")) }
    }

    /// Changes a line of the configuration that `init` wrote.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be read or written, or has no such line.
    pub(crate) fn set(&self, from: &str, to: &str) -> io::Result<()> {
        let path = self.data_dir.join("config.toml");
        let text = fs::read_to_string(&path)?;
        if !text.contains(from) {
            return Err(io::Error::other(format!("{} has no {from}", path.display())));
        }
        fs::write(path, text.replace(from, to))
    }

    /// Does as [`Self::set`], unless there is no such line.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be read or written.
    pub(crate) fn set_if_any(&self, from: &str, to: &str) -> io::Result<()> {
        let path = self.data_dir.join("config.toml");
        let text = fs::read_to_string(&path)?;
        if text.contains(from) {
            fs::write(path, text.replace(from, to))?;
        }
        Ok(())
    }

    /// Returns where the process listens, once it does.
    pub(crate) fn network_address(&self) -> Option<String> {
        self.network_address_with("/p2p/")
    }

    /// Returns the first address with a part at which the process listens, once it does.
    pub(crate) fn network_address_with(&self, part: &str) -> Option<String> {
        let text = fs::read_to_string(self.network_address_file()).ok()?;
        // A line that is being written ends without a newline.
        let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let mut full = whole.map(str::trim).filter(|line| line.contains("/p2p/"));
        full.find(|line| line.contains(part)).map(str::to_owned)
    }

    /// Returns the file that the address is read from.
    pub(crate) fn network_address_file(&self) -> PathBuf {
        self.data_dir.join(NETWORK_ADDRESS_FILE)
    }

    /// Returns a client for the process `pid` once its API answers.
    ///
    /// A process that was killed leaves its address behind, so the answer has to come from `pid`.
    pub(crate) fn client(&self, pid: u32) -> Option<Client> {
        let client = Client::for_data_dir(&self.data_dir).ok()?;
        (client.status().ok()?.pid == pid).then_some(client)
    }
}

/// Returns the peer id at the end of a full multiaddr.
pub(crate) fn peer_of(address: &str) -> Option<&str> {
    address.rsplit_once("/p2p/").map(|(_, peer)| peer).filter(|peer| !peer.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path(), "a");
        assert_eq!(home.network_address(), None);
        fs::create_dir(&home.data_dir).unwrap();
        let file = home.data_dir.join(NETWORK_ADDRESS_FILE);
        fs::write(&file, "/ip4/127.0.0.1/tcp/1/p2p/12D3").unwrap();
        assert_eq!(home.network_address(), None);
        fs::write(&file, "/ip4/127.0.0.1/tcp/1/p2p/12D3KooA\n").unwrap();
        let address = home.network_address().unwrap();
        assert_eq!(peer_of(&address), Some("12D3KooA"));
    }
}
