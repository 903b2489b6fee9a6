//! Runs the suite of all backends over a real Kubo: `cargo run --example conformance -- http://127.0.0.1:5001`.
//!
//! `interop/backends` starts one and calls this. It leaves the node as it was, but for blocks that no pin
//! holds, and removes those as well.

#[expect(clippy::unwrap_used, reason = "it is the suite of the tests, which fail by panicking")]
#[path = "../tests/suite/mod.rs"]
mod suite;

use std::{env, error::Error, time::Instant};

use dunlin_archive::{
    Object, Pin,
    backend::{Backend, Kubo, Timeouts},
};
use dunlin_wire::block::{Block, Codec};
use suite::{Subject, conforms, object};

/// Objects whose way there and back is timed.
const OBJECTS: usize = 64;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let url = env::args().nth(1).ok_or("name the address of a Kubo's RPC")?;
    let kubo = Kubo::new(url.parse()?, "conformance", None, Timeouts::default());
    println!("{}", kubo.describe()?);
    let collect = || -> Outcome {
        let answer = ureq::post(format!("{url}/api/v0/repo/gc")).send_empty();
        answer?.body_mut().read_to_string()?;
        Ok(())
    };
    let collect_garbage = || collect().expect("the suite cannot go on without the collection");
    conforms(&Subject { backend: &kubo, collect_garbage: &collect_garbage });
    println!("the suite of all backends passed");
    time(&kubo)?;
    collect()?;
    // What is found out about the node itself.
    ensure(!kubo.addresses()?.is_empty(), "it has no addresses")?;
    let nobody = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWL3XJ9EMCyZvmmGXL2LMiVBtrVa2BuESsJiXkSj7333Jw";
    ensure(kubo.connect(nobody).is_err(), "it says that it connected to nobody")
}

fn ensure(holds: bool, otherwise: &str) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

fn time(kubo: &Kubo) -> Outcome {
    let pin = Pin::own("timed");
    let objects: Vec<Object> = (0..OBJECTS)
        .map(|n| {
            let payload = (n as u32).to_be_bytes().repeat(1024);
            object(&pin, &n.to_string(), vec![Block::new(Codec::Raw, payload)])
        })
        .collect();
    let timed = |what: &str, each: &dyn Fn(&Object) -> Outcome| {
        let started = Instant::now();
        objects.iter().try_for_each(each)?;
        println!("{what} {OBJECTS} objects of 4 KiB: {:?}", started.elapsed());
        Outcome::Ok(())
    };
    timed("put", &|object| Ok(kubo.put(object)?))?;
    timed("read", &|object| {
        ensure(kubo.block(object.root.cid())?.is_some(), "a block that was put is missing")
    })?;
    let pinned = kubo.pins()?.get(&pin).copied();
    ensure(pinned == Some(OBJECTS as u64), "it has another number of pins than were set")?;
    timed("unpin", &|object| kubo.unpin(&pin, object.root.cid()).map(drop).map_err(Into::into))
}
