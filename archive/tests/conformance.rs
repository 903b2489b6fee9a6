//! One suite over all backends, and what a Kubo that misbehaves gets away with: nothing.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod doubles;
mod suite;

use std::{
    error::Error,
    sync::{Arc, Mutex},
    time::Instant,
};

use doubles::{PATIENCE, Reply, Server, impatient, kubo::Double, patient};
use dunlin_archive::{
    Archive, Config, Object, Pin,
    backend::{Backend, BackendError, Credential, Embedded, HttpError, Pinning, Requests, Service},
};
use dunlin_wire::block::{Block, Codec};
use suite::{Subject, conforms, object};

fn embedded(folder: &tempfile::TempDir) -> Embedded {
    let archive = Archive::open(&folder.path().join("blocks.redb"), Config::default()).unwrap();
    Embedded::new(Arc::new(archive))
}

fn leaf(content: &str) -> Object {
    let block = Block::new(Codec::Raw, content.as_bytes().to_vec());
    Object::leaf(Pin::public("test"), block)
}

#[test]
fn the_embedded_store_keeps_the_promises() {
    let folder = tempfile::tempdir().unwrap();
    // What no pin holds is removed at once.
    conforms(&Subject { backend: &embedded(&folder), collect_garbage: &|| {} });
}

#[test]
fn kubo_keeps_the_promises() {
    let kubo = Double::start();
    let collect_garbage = || kubo.collect_garbage();
    conforms(&Subject { backend: &kubo.client(patient()), collect_garbage: &collect_garbage });
    let calls = kubo.state(|state| std::mem::take(&mut state.calls));
    assert!(calls.iter().all(|call| call.method == "POST"));
    for call in calls.iter().filter(|call| call.path.starts_with("/api/v0/block/")) {
        let is_local = call.query("offline") == "true" || call.query("pin") == "false";
        assert!(is_local, "nothing is searched for, and nothing pinned in passing: {}", call.path);
    }
}

/// A service that cannot be reached: what is inside works all the same.
#[test]
fn a_decorated_backend_keeps_the_promises_of_the_one_inside() {
    let folder = tempfile::tempdir().unwrap();
    let requests = Requests::open(&folder.path().join("pinning.redb")).unwrap();
    let token = Credential::parse("token").unwrap();
    let service = Service::new("http://127.0.0.1:1".parse().unwrap(), "me", token, impatient());
    let decorated = Pinning::new(embedded(&folder), service, requests);
    conforms(&Subject { backend: &decorated, collect_garbage: &|| {} });

    let folder = tempfile::tempdir().unwrap();
    let requests = Requests::open(&folder.path().join("pinning.redb")).unwrap();
    let kubo = Double::start();
    let inner: Box<dyn Backend> = Box::new(kubo.client(patient()));
    let decorated = Pinning::new(inner, decorated.service().clone(), requests);
    let collect_garbage = || kubo.collect_garbage();
    conforms(&Subject { backend: &decorated, collect_garbage: &collect_garbage });
}

#[test]
fn bytes_that_do_not_hash_to_their_cid_are_never_returned() {
    let kubo = Double::start();
    let client = kubo.client(patient());
    let object = leaf("the truth");
    client.put(&object).unwrap();
    for lie in [&b"the trutk"[..], b"", b"the truth and more"] {
        kubo.misbehave("block/get", Reply::Say(200, lie.to_vec()));
        let got = client.block(object.root.cid());
        assert!(matches!(got, Err(BackendError::Wrong { .. })), "{got:?}");
    }
    // And when the disk behind it is what lies.
    kubo.state(|state| {
        state.mischief = None;
        *state.blocks.values_mut().next().unwrap() = b"damaged".to_vec();
    });
    let got = client.block(object.root.cid());
    assert!(matches!(got, Err(BackendError::Wrong { .. })), "{got:?}");
}

#[test]
fn an_upload_that_got_another_name_is_not_pinned() {
    let kubo = Double::start();
    let client = kubo.client(patient());
    let object = leaf("mine");
    let other = leaf("other").root.cid().to_string();
    for answer in [
        format!("{{\"Key\":\"{other}\",\"Size\":4}}\n"),
        String::new(),
        "{\"Key\":\"nonsense\"}".to_owned(),
        "<html>It works!</html>".to_owned(),
    ] {
        kubo.misbehave("block/put", Reply::Say(200, answer.into_bytes()));
        let put = client.put(&object);
        assert!(matches!(put, Err(BackendError::Answer { .. })), "{put:?}");
        assert!(kubo.state(|state| state.pins.is_empty()));
    }
    kubo.state(|state| state.mischief = None);
    client.put(&object).unwrap();
}

#[test]
fn a_kubo_that_says_nothing_or_dribbles_costs_a_bounded_time() {
    let kubo = Double::start();
    let object = leaf("late");
    kubo.client(patient()).put(&object).unwrap();
    let client = kubo.client(impatient());
    for reply in [Reply::Hang, Reply::Drip(vec![b' '; 10_000])] {
        for path in ["block/get", "block/stat", "block/put", "pin/ls", "id"] {
            kubo.misbehave(path, reply.clone());
            let started = Instant::now();
            let failed: BackendError = match path {
                "block/get" => client.block(object.root.cid()).map(drop).unwrap_err(),
                "block/stat" => client.has(object.root.cid()).map(drop).unwrap_err(),
                "pin/ls" => client.pins().map(drop).unwrap_err(),
                "id" => client.describe().map(drop).unwrap_err(),
                _ => client.put(&object).unwrap_err(),
            };
            assert!(matches!(failed, BackendError::Http(HttpError::Timeout { .. })), "{failed:?}");
            assert!(failed.is_general());
            assert!(started.elapsed() < PATIENCE / 2, "{path} took {:?}", started.elapsed());
        }
    }
    // It is the same for one that is not there at all.
    let url = kubo.url();
    drop(kubo);
    let gone = dunlin_archive::backend::Kubo::new(url.parse().unwrap(), "me", None, impatient());
    assert!(gone.describe().unwrap_err().is_general());
}

#[test]
fn an_answer_that_breaks_off_is_no_answer() {
    let kubo = Double::start();
    let client = kubo.client(patient());
    let object = leaf("half of it");
    client.put(&object).unwrap();
    kubo.misbehave("block/get", Reply::Truncate(b"half of it".to_vec()));
    let got = client.block(object.root.cid());
    assert!(matches!(got, Err(BackendError::Http(_))), "{got:?}");
    kubo.misbehave("pin/ls", Reply::Truncate(b"{\"Keys\":{}}".to_vec()));
    let got = client.pins();
    assert!(got.is_err(), "half a list of pins must not look like all of them: {got:?}");
    kubo.misbehave("pin/ls", Reply::Say(200, b"{\"Keys\":{\"baf".to_vec()));
    assert!(client.pins().is_err());
    kubo.misbehave("", Reply::Close);
    assert!(matches!(client.describe(), Err(BackendError::Http(HttpError::Unreachable { .. }))));
}

#[test]
fn an_endless_answer_is_cut_off() {
    let kubo = Double::start();
    let client = kubo.client(patient());
    for path in ["block/get", "block/stat"] {
        kubo.misbehave(path, Reply::Flood);
        let object = leaf("endless");
        let failed = match path {
            "block/get" => client.block(object.root.cid()).map(drop).unwrap_err(),
            _ => client.has(object.root.cid()).map(drop).unwrap_err(),
        };
        let is_cut = matches!(failed, BackendError::Http(HttpError::TooLarge { .. }));
        assert!(is_cut, "{failed:?}");
    }
}

#[test]
fn refusals_are_told_and_a_busy_kubo_is_asked_again() {
    let kubo = Double::start();
    let client = kubo.client(patient());
    let complaint = serde_json::json!({ "Message": "no space left\u{1b}[2J", "Code": 0 });
    kubo.misbehave("block/put", Reply::json(500, &complaint));
    let failed = client.put(&leaf("x")).unwrap_err();
    assert!(failed.to_string().contains("500 no space left [2J"), "{failed}");
    assert!(!failed.is_general(), "another object may fit");
    kubo.state(|state| (state.mischief, state.busy) = (None, 2));
    client.put(&leaf("x")).unwrap();
    kubo.state(|state| state.busy = 1_000);
    let failed = client.put(&leaf("x")).unwrap_err();
    assert!(failed.is_general(), "{failed}");
    let asked = 1_000 - kubo.state(|state| state.busy);
    assert!(asked <= 5, "it was asked {asked} times");
}

#[test]
fn a_credential_goes_to_the_service_alone_and_is_never_shown() {
    let kubo = Double::start();
    kubo.state(|state| state.authorization = Some("Basic bWU6czNjcmV0".to_owned()));
    let client = kubo.client_with(Some("basic:me:s3cret"), patient());
    client.put(&leaf("x")).unwrap();
    assert!(!format!("{client:?}").contains("s3cret"));
    assert!(!format!("{client:?}").contains("bWU6czNjcmV0"));
    let failed = kubo.client_with(Some("wrong-token"), patient()).describe().unwrap_err();
    assert!(matches!(failed, BackendError::Refused { status: 403, .. }), "{failed}");
    let mut told = format!("{failed:?} {failed}");
    let mut cause: Option<&dyn Error> = failed.source();
    while let Some(source) = cause {
        told += &source.to_string();
        cause = source.source();
    }
    assert!(!told.contains("wrong-token"), "{told}");
}

/// Another address would get the credential, and may be one that only this machine reaches.
#[test]
fn redirects_are_not_followed() {
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let elsewhere = Server::start(move |_| {
        *count.lock().unwrap() += 1;
        Reply::Say(200, Vec::new())
    });
    let kubo = Double::start();
    let client = kubo.client_with(Some("s3cret"), patient());
    for status in [301, 307] {
        kubo.misbehave("", Reply::SayWith(status, format!("Location: {}/", elsewhere.url())));
        let failed = client.describe().unwrap_err();
        let is_refused =
            matches!(&failed, BackendError::Refused { status: said, .. } if *said == status);
        assert!(is_refused, "{failed:?}");
    }
    assert_eq!(*asked.lock().unwrap(), 0);
}

#[test]
fn pins_of_others_stay_as_they_are() {
    let kubo = Double::start();
    let client = kubo.client(patient());
    let object = object(&Pin::public("test"), "ours and theirs", vec![leaf("shared").root]);
    client.put(&object).unwrap();
    let theirs = ("recursive".to_owned(), "website".to_owned());
    let root = *object.root.cid();
    kubo.state(|state| state.pins.insert(root, theirs.clone()));
    // It is kept by that pin, whose name is not ours to change, nor is the pin to remove.
    client.put(&object).unwrap();
    client.unpin(&object.pin, &root).unwrap();
    assert_eq!(kubo.state(|state| state.pins.get(&root).cloned()), Some(theirs));
    assert!(client.pins().unwrap().is_empty());
}

#[test]
fn nodes_that_share_a_kubo_do_not_touch_each_others_pins() {
    let kubo = Double::start();
    let url = || kubo.url().parse().unwrap();
    let one = dunlin_archive::backend::Kubo::new(url(), "one", None, patient());
    let two = dunlin_archive::backend::Kubo::new(url(), "two", None, patient());
    let object = leaf("both have it");
    one.put(&object).unwrap();
    two.put(&object).unwrap();
    two.unpin(&object.pin, object.root.cid()).unwrap();
    assert!(one.is_pinned(&object.pin, object.root.cid()).unwrap());
    assert!(two.pins().unwrap().is_empty());
}
