//! A rust-ipfs node that is told what to do: one JSON object a line comes in, one goes out for each.
//!
//! `{"id": 1, "verb": "get", "args": ["<cid>"]}` is answered by `{"id": 1, "value": "<base64>"}` or
//! `{"id": 1, "error": "<why>"}`. Its key and its blocks are in the folder that the first argument names, the
//! second is its TCP port, and what follows are trustless gateways that it may fetch from. The node is built
//! as the library's own examples build it.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::StreamExt;
use ipld_core::cid::Cid;
use rust_ipfs::{
    Block, DhtMode, Ipfs, Keypair, Multiaddr, PeerId, Protocol, builder::DefaultIpfsBuilder,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

/// The longest that anything may take.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Request {
    id: u64,
    verb: String,
    args: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().context("no folder")?;
    let port = arguments.next().context("no port")?;
    let ipfs = start(Path::new(&folder), &port, arguments.collect()).await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let request: Request = serde_json::from_str(&line)?;
        let ipfs = ipfs.clone();
        tokio::spawn(async move {
            let done = timeout(LIMIT, perform(&ipfs, &request.verb, &request.args)).await;
            let answer = match done.unwrap_or_else(|_| Err(anyhow::anyhow!("not within 60 s"))) {
                Ok(value) => json!({"id": request.id, "value": value}),
                Err(cause) => json!({"id": request.id, "error": format!("{cause:#}")}),
            };
            println!("{answer}");
        });
    }
    ipfs.exit_daemon().await;
    Ok(())
}

async fn start(folder: &Path, port: &str, gateways: Vec<String>) -> anyhow::Result<Ipfs> {
    let builder = DefaultIpfsBuilder::with_keypair(&key(folder).await?)?
        .with_default()
        .enable_tcp()
        .set_path(folder.join("repo"))
        .add_listening_addr(format!("/ip4/127.0.0.1/tcp/{port}").parse()?);
    // Without any it would ask those of the public network.
    let builder =
        if gateways.is_empty() { builder } else { builder.enable_gateway_retrieval(gateways) };
    let ipfs = builder.start().await?;
    // Its own tests do so, too: nothing on loopback tells it that it can be reached.
    ipfs.dht_mode(DhtMode::Server).await?;
    Ok(ipfs)
}

async fn key(folder: &Path) -> anyhow::Result<Keypair> {
    let file = folder.join("key");
    if let Ok(bytes) = tokio::fs::read(&file).await {
        return Ok(Keypair::from_protobuf_encoding(&bytes)?);
    }
    let key = Keypair::generate_ed25519();
    tokio::fs::write(&file, key.to_protobuf_encoding()?).await?;
    Ok(key)
}

async fn perform(ipfs: &Ipfs, verb: &str, args: &[String]) -> anyhow::Result<Value> {
    let argument = |index: usize| args.get(index).context("an argument is missing");
    match verb {
        "address" => {
            let peer = ipfs.keypair().public().to_peer_id();
            let mut address = ipfs.listening_addresses().await?;
            let address = address.pop().context("it does not listen yet")?;
            Ok(json!(address.with_p2p(peer).map_err(|_| anyhow::anyhow!("another peer"))?))
        }
        "connect" => {
            let address: Multiaddr = argument(0)?.parse()?;
            let peer = peer_of(&address)?;
            // Its DHT learns of peers from this alone.
            ipfs.add_peer((peer, address.clone())).await?;
            if !ipfs.is_connected(peer).await? {
                ipfs.connect(address).await?;
            }
            Ok(Value::Null)
        }
        "put" => {
            let cid: Cid = argument(0)?.parse()?;
            let block = Block::new(cid, STANDARD.decode(argument(1)?)?)?;
            Ok(json!(ipfs.put_block(&block).await?.to_string()))
        }
        "get" => {
            let cid: Cid = argument(0)?.parse()?;
            Ok(json!(STANDARD.encode(ipfs.get_block(cid).await?.data())))
        }
        "provide" => {
            let cid: Cid = argument(0)?.parse()?;
            ipfs.provide(cid).await?;
            Ok(Value::Null)
        }
        "find" => {
            let cid: Cid = argument(0)?.parse()?;
            let mut found = Vec::new();
            let mut providers = ipfs.dht_get_providers(cid.hash().to_bytes()).await?;
            while let Some(peers) = providers.next().await {
                found.extend(peers?.into_iter().map(|peer| peer.to_string()));
            }
            Ok(json!(found))
        }
        _ => bail!("no verb {verb}"),
    }
}

fn peer_of(address: &Multiaddr) -> anyhow::Result<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Ok(peer),
        _ => bail!("no peer id in {address}"),
    }
}
