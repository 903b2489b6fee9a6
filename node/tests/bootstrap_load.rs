//! A bootstrap node under load: clients come in waves, each with a key and a record of its own, and go; what it takes in
//! memory does not grow with how many ever came.
//!
//! `DUNLIN_LOAD_CLIENTS=10000 DUNLIN_LOAD_LIVE=1000 cargo test --release --test bootstrap_load -- --nocapture` is the
//! benchmark; without these, a few hundred clients check that it holds.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{PATIENCE, dunlin, eventually, peers, stdout};
use futures::{StreamExt, future::join_all};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, identify,
    identity::Keypair,
    kad::{self, GetProvidersOk, QueryResult, RecordKey, store::MemoryStore},
    multiaddr::Protocol,
    noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use tokio::time::timeout;

/// Memory that a bootstrap node may have before anybody came, in MiB. What is built without optimization takes twice as
/// much as what an operator runs, half of it code.
const IDLE_MIB_MAX: u64 = if cfg!(debug_assertions) { 64 } else { 30 };

/// Clients that connect at the same moment: more than may be half open are turned away.
const AT_ONCE: usize = 32;

/// What a client is beside its own record.
#[derive(NetworkBehaviour)]
struct Client {
    identify: identify::Behaviour,
    kad: kad::Behaviour<MemoryStore>,
    stream: libp2p_stream::Behaviour,
}

fn kad_protocol(network: &str) -> StreamProtocol {
    StreamProtocol::try_from_owned(format!("/dunlin/{network}/kad/1.0.0")).unwrap()
}

fn client(network: &str, key: &Keypair) -> Swarm<Client> {
    let protocol = kad_protocol(network);
    SwarmBuilder::with_existing_identity(key.clone())
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| {
            let me = key.public().to_peer_id();
            let about = identify::Config::new(format!("/dunlin/{network}/1"), key.public());
            let mut kad =
                kad::Behaviour::with_config(me, MemoryStore::new(me), kad::Config::new(protocol));
            kad.set_mode(Some(kad::Mode::Client));
            let identify = identify::Behaviour::new(about);
            Client { identify, kad, stream: libp2p_stream::Behaviour::new() }
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(600)))
        .build()
}

/// A client that stays: its key, its connection, and a question that it never puts, which keeps the connection open.
type Guest = (PeerId, Swarm<Client>, Stream);

/// Connects a client and leaves its record.
async fn come(network: &str, boot: &Multiaddr) -> Option<Guest> {
    let key = Keypair::generate_ed25519();
    let me = key.public().to_peer_id();
    let mut swarm = client(network, &key);
    let Some(Protocol::P2p(boot_id)) = boot.iter().last() else { panic!("{boot}") };
    swarm.behaviour_mut().kad.add_address(&boot_id, boot.clone());
    swarm.dial(boot.clone()).unwrap();
    // A record of somebody who has not said who it is is refused.
    let introduced = async {
        loop {
            let event = swarm.select_next_some().await;
            if let SwarmEvent::Behaviour(ClientEvent::Identify(identify::Event::Sent { .. })) =
                event
            {
                break;
            }
        }
    };
    timeout(PATIENCE, introduced).await.ok()?;
    let record = RecordKey::new(&me.to_bytes());
    swarm.behaviour_mut().kad.start_providing(record).unwrap();
    let told = async {
        loop {
            let event = swarm.select_next_some().await;
            let SwarmEvent::Behaviour(ClientEvent::Kad(event)) = event else { continue };
            if let kad::Event::OutboundQueryProgressed {
                result: QueryResult::StartProviding(result),
                ..
            } = event
            {
                return result.is_ok();
            }
        }
    };
    if !timeout(PATIENCE, told).await.unwrap_or(false) {
        return None;
    }
    let mut control = swarm.behaviour().stream.new_control();
    let opening = control.open_stream(boot_id, kad_protocol(network));
    let mut opening = std::pin::pin!(timeout(PATIENCE, opening));
    loop {
        tokio::select! {
            opened = &mut opening => return Some((me, swarm, opened.ok()?.ok()?)),
            _ = swarm.select_next_some() => {}
        }
    }
}

/// Returns whether the bootstrap node knows the record of a client that was here.
async fn is_known(swarm: &mut Swarm<Client>, client: PeerId) -> bool {
    swarm.behaviour_mut().kad.get_providers(RecordKey::new(&client.to_bytes()));
    let asked = async {
        loop {
            let event = swarm.select_next_some().await;
            if let SwarmEvent::Behaviour(ClientEvent::Kad(kad::Event::OutboundQueryProgressed {
                result: QueryResult::GetProviders(found),
                ..
            })) = event
            {
                match found {
                    Ok(GetProvidersOk::FoundProviders { providers, .. }) => {
                        return providers.contains(&client);
                    }
                    _ => return false,
                }
            }
        }
    };
    timeout(PATIENCE, asked).await.unwrap_or(false)
}

struct Boot {
    child: Child,
    address: Multiaddr,
}

impl Boot {
    fn start(dir: &Path, network: &str) -> Self {
        stdout(dunlin(&["init", "--network", network, "--data-dir"]).arg(dir));
        peers::set(dir, "mdns = true", "mdns = false");
        // A shell gives it the files that the unit of systemd gives.
        let program = env!("CARGO_BIN_EXE_dunlin");
        let script = "ulimit -n $(ulimit -Hn); exec \"$@\"";
        let child = Command::new("sh")
            .args(["-c", script, "sh", program, "bootstrap", "--one-machine"])
            .args(["--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir"])
            .arg(dir)
            .env_remove("RUST_LOG")
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.with_extension("log")).unwrap())
            .spawn()
            .unwrap();
        let address = eventually("it listens", || peers::address_in(dir));
        Self { child, address: address.parse().unwrap() }
    }

    fn resident_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() / 1024
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn count(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_node_takes_no_more_memory_however_many_come_and_go() {
    let (clients, live) = (count("DUNLIN_LOAD_CLIENTS", 600), count("DUNLIN_LOAD_LIVE", 200));
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit { current: files.maximum, maximum: files.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all).unwrap();
    let temp = tempfile::tempdir().unwrap();
    let network = format!("load-{}", std::process::id());
    let boot = Boot::start(&temp.path().join("boot"), &network);
    let idle = boot.resident_mib();
    eprintln!("idle: {idle} MiB");
    assert!(idle < IDLE_MIB_MAX, "{idle} MiB");

    let (started, mut came, mut sample, mut after) = (Instant::now(), 0, Vec::new(), Vec::new());
    let mut wave: Vec<Guest> = Vec::new();
    while came < clients {
        // Those of the wave before leave first.
        wave.clear();
        while wave.len() < live && came < clients {
            let group = AT_ONCE.min(live - wave.len());
            let arrived = join_all((0..group).map(|_| come(&network, &boot.address))).await;
            let arrived: Vec<_> = arrived.into_iter().flatten().collect();
            assert_eq!(arrived.len(), group, "every client is served");
            came += group;
            sample.extend(arrived.first().map(|(peer, ..)| *peer));
            wave.extend(arrived);
        }
        after.push(boot.resident_mib());
        eprintln!(
            "{came} clients came, {} are connected: {} MiB ({:.0} s)",
            wave.len(),
            boot.resident_mib(),
            started.elapsed().as_secs_f64()
        );
    }
    // They are still there: each holds a socket of the bootstrap node.
    let files = fs::read_dir(format!("/proc/{}/fd", boot.child.id())).unwrap().count();
    assert!(files >= wave.len(), "{files} files for {} connections", wave.len());
    // What they left is there.
    let (_, asker, _) = wave.last_mut().unwrap();
    for client in &sample {
        assert!(is_known(asker, *client).await, "the record of {client}");
    }
    // The first wave brings what all connections take; the others bring their records, of less than 2 KiB each.
    let (first, last) = (after[0], *after.last().unwrap());
    let records = (2 * (clients - live.min(clients)) / 1024) as u64;
    let grown = last.saturating_sub(first);
    assert!(grown <= records + 8, "{first} MiB after the first wave, {last} after the last");
}
