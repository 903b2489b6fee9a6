//! Runs the suite of all backends over a real Kubo: `cargo run --example conformance -- http://127.0.0.1:5001`.
//!
//! `interop/backends` starts one and calls this. It leaves the node as it was, but for blocks that no pin
//! holds, and removes those as well.

#![expect(clippy::unwrap_used, reason = "it stops at the first surprise")]

#[path = "../tests/suite/mod.rs"]
mod suite;

use std::{env, time::Instant};

use dunlin_archive::{
    Object, Pin,
    backend::{Backend, Kubo, Timeouts},
};
use dunlin_wire::block::{Block, Codec};
use suite::{Subject, conforms, object};

/// Objects whose way there and back is timed.
const OBJECTS: usize = 64;

fn main() {
    let url = env::args().nth(1).expect("the address of a Kubo's RPC");
    let kubo = Kubo::new(url.parse().unwrap(), "conformance", None, Timeouts::default());
    println!("{}", kubo.describe().unwrap());
    let collect_garbage = || {
        let request = ureq::post(format!("{url}/api/v0/repo/gc")).send_empty();
        request.unwrap().body_mut().read_to_string().unwrap();
    };
    conforms(&Subject { backend: &kubo, collect_garbage: &collect_garbage });
    println!("the suite of all backends passed");
    time(&kubo);
    collect_garbage();
    // What is found out about the node itself.
    assert!(!kubo.addresses().unwrap().is_empty());
    assert!(
        kubo.connect(
            "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWL3XJ9EMCyZvmmGXL2LMiVBtrVa2BuESsJiXkSj7333Jw"
        )
        .is_err()
    );
}

fn time(kubo: &Kubo) {
    let pin = Pin::own("timed");
    let objects: Vec<Object> = (0..OBJECTS)
        .map(|n| {
            let payload = (n as u32).to_be_bytes().repeat(1024);
            object(&pin, &n.to_string(), vec![Block::new(Codec::Raw, payload)])
        })
        .collect();
    let timed = |what: &str, each: &dyn Fn(&Object)| {
        let started = Instant::now();
        objects.iter().for_each(each);
        println!("{what} {OBJECTS} objects of 4 KiB: {:?}", started.elapsed());
    };
    timed("put", &|object| kubo.put(object).unwrap());
    timed("read", &|object| assert!(kubo.block(object.root.cid()).unwrap().is_some()));
    assert_eq!(kubo.pins().unwrap()[&pin], OBJECTS as u64);
    timed("unpin", &|object| kubo.unpin(&pin, object.root.cid()).unwrap());
}
