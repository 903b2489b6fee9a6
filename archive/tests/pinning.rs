//! What may leave is pinned at a service: durably tracked, asked again, taken back, and never anything else.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod doubles;

use std::sync::Arc;

use doubles::{
    Reply, impatient, patient,
    service::{Double, TOKEN},
};
use dunlin_archive::{
    Archive, Config, Object, Pin,
    backend::{Backend, Counts, Embedded, Pinning, Requests, Round, ServiceError},
    dag,
};
use dunlin_wire::{
    Cid,
    block::{Block, Codec},
};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// A decorated store, and the service behind it.
struct Fixture {
    folder: tempfile::TempDir,
    service: Double,
    backend: Pinning<Embedded>,
    now_ms: u64,
}

impl Fixture {
    fn new() -> Self {
        let (folder, service) = (tempfile::tempdir().unwrap(), Double::start());
        let backend = open(&folder, &service, TOKEN);
        Self { folder, service, backend, now_ms: 1_000_000 }
    }

    /// Ends the process and starts it again.
    fn restart(self) -> Self {
        let Self { folder, service, backend, now_ms } = self;
        drop(backend);
        let backend = open(&folder, &service, TOKEN);
        Self { folder, service, backend, now_ms }
    }

    fn put(&self, object: &Object) {
        self.backend.put(object).unwrap();
    }

    /// A round, now.
    fn advance(&self) -> Round {
        self.backend.advance(self.now_ms, &["/ip4/127.0.0.1/tcp/4601".to_owned()]).unwrap()
    }

    /// A round, when the next one has something to do.
    fn advance_later(&mut self) -> Round {
        self.now_ms = self.advance().next_ms.unwrap().max(self.now_ms);
        self.advance()
    }

    #[track_caller]
    fn assert_counts(&self, counts: Counts) {
        assert_eq!(self.backend.counts().unwrap(), counts);
    }
}

fn open(folder: &tempfile::TempDir, service: &Double, token: &str) -> Pinning<Embedded> {
    let archive = Archive::open(&folder.path().join("blocks.redb"), Config::default()).unwrap();
    let requests = Requests::open(&folder.path().join("pinning.redb")).unwrap();
    let client = service.client(token, patient());
    Pinning::new(Embedded::new(Arc::new(archive)), client, requests)
}

fn leaf(pin: Pin, content: &str) -> Object {
    Object::leaf(pin, Block::new(Codec::Raw, content.as_bytes().to_vec()))
}

#[test]
fn what_may_leave_is_pinned_and_its_status_survives_a_restart() {
    let fixture = Fixture::new();
    let object = leaf(Pin::public("x"), "for everybody");
    fixture.put(&object);
    assert!(fixture.service.pins().is_empty(), "putting waits for nobody");
    fixture.assert_counts(Counts { waiting: 1, ..Counts::default() });
    let round = fixture.advance();
    assert_eq!(round.delegates, ["/ip4/203.0.113.7/tcp/4001/p2p/12D3KooWFetcher"]);
    let [pin] = &fixture.service.pins()[..] else { panic!("{:?}", fixture.service.pins()) };
    assert_eq!(pin.cid, object.root.cid().to_string());
    assert_eq!(pin.name, "dunlin/me");
    assert_eq!(pin.origins, ["/ip4/127.0.0.1/tcp/4601"]);
    fixture.assert_counts(Counts { queued: 1, ..Counts::default() });
    let mut fixture = fixture.restart();
    fixture.assert_counts(Counts { queued: 1, ..Counts::default() });
    fixture.service.bring_all_to("pinning");
    fixture.advance_later();
    fixture.assert_counts(Counts { pinning: 1, ..Counts::default() });
    fixture.service.bring_all_to("pinned");
    let round = fixture.advance_later();
    assert!(round.delegates.is_empty(), "nobody fetches any more");
    assert_eq!(round.next_ms, Some(fixture.now_ms + DAY_MS));
    fixture.assert_counts(Counts { pinned: 1, ..Counts::default() });
    assert_eq!(fixture.service.pins().len(), 1);
    // Putting it again asks for nothing.
    fixture.put(&object);
    fixture.advance_later();
    assert_eq!(fixture.service.pins().len(), 1);
}

#[test]
fn private_roots_are_never_named_to_the_service() {
    let fixture = Fixture::new();
    for pin in [Pin::own("servers"), Pin::fetched("servers"), Pin::imported("x")] {
        fixture.put(&leaf(pin.clone(), pin.as_str()));
    }
    fixture.advance();
    assert!(fixture.service.state(|state| state.calls.is_empty()));
    fixture.assert_counts(Counts::default());
    // One that was public and is private now is taken back.
    let content = "it was for everybody";
    fixture.put(&leaf(Pin::public("x"), content));
    fixture.advance();
    fixture.put(&leaf(Pin::own("servers"), content));
    fixture.advance();
    assert!(fixture.service.pins().is_empty());
    fixture.assert_counts(Counts::default());
}

#[test]
fn what_is_unpinned_leaves_the_service_too() {
    let fixture = Fixture::new();
    let (one, other) = (leaf(Pin::public("x"), "one"), leaf(Pin::public("x"), "other"));
    fixture.put(&one);
    fixture.put(&other);
    fixture.advance();
    fixture.service.bring_all_to("pinned");
    fixture.backend.unpin(&one.pin, one.root.cid()).unwrap();
    fixture.assert_counts(Counts { queued: 1, leaving: 1, ..Counts::default() });
    fixture.advance();
    let left: Vec<_> = fixture.service.pins().into_iter().map(|pin| pin.cid).collect();
    assert_eq!(left, [other.root.cid().to_string()]);
    fixture.assert_counts(Counts { queued: 1, ..Counts::default() });
    // Unpinned and put again before the service heard of either: it stays.
    fixture.backend.unpin(&other.pin, other.root.cid()).unwrap();
    fixture.put(&other);
    fixture.advance();
    assert_eq!(fixture.service.pins().len(), 1);
    fixture.assert_counts(Counts { pinned: 1, ..Counts::default() });
}

#[test]
fn a_request_whose_answer_got_lost_is_not_made_twice() {
    let fixture = Fixture::new();
    let object = leaf(Pin::public("x"), "for everybody");
    fixture.put(&object);
    fixture.service.state(|state| state.loses_answers = true);
    for _ in 0..3 {
        fixture.advance();
    }
    fixture.service.state(|state| state.loses_answers = false);
    let fixture = fixture.restart();
    fixture.advance();
    assert_eq!(fixture.service.pins().len(), 1, "{:?}", fixture.service.pins());
    fixture.assert_counts(Counts { queued: 1, ..Counts::default() });
    // And when it is unpinned instead, the request that nobody knew of is taken back as well.
    let other = leaf(Pin::public("x"), "another");
    fixture.put(&other);
    fixture.service.state(|state| state.loses_answers = true);
    fixture.advance();
    fixture.service.state(|state| state.loses_answers = false);
    fixture.backend.unpin(&other.pin, other.root.cid()).unwrap();
    fixture.advance();
    assert_eq!(fixture.service.pins().len(), 1);
}

#[test]
fn what_failed_is_told_and_asked_for_again() {
    let mut fixture = Fixture::new();
    fixture.put(&leaf(Pin::public("x"), "for everybody"));
    fixture.advance();
    let mut pauses = Vec::new();
    for _ in 0..4 {
        fixture.service.bring_all_to("failed");
        let round = fixture.advance_later();
        fixture.assert_counts(Counts { failed: 1, ..Counts::default() });
        let problem = fixture.backend.problems(10).unwrap().remove(0).problem;
        assert_eq!(problem, "no provider was found");
        pauses.push(round.next_ms.unwrap() - fixture.now_ms);
        // The old request goes before there is a new one.
        fixture.advance_later();
        assert_eq!(fixture.service.pins().len(), 1);
        fixture.assert_counts(Counts { queued: 1, ..Counts::default() });
    }
    assert!(pauses.windows(2).all(|pair| pair[1] == 2 * pair[0]), "{pauses:?}");
    fixture.service.bring_all_to("pinned");
    fixture.advance_later();
    fixture.assert_counts(Counts { pinned: 1, ..Counts::default() });
    // A service that forgets what it had promised is found out the next day.
    fixture.service.state(|state| state.pins.clear());
    fixture.advance_later();
    fixture.assert_counts(Counts { waiting: 1, ..Counts::default() });
    fixture.advance();
    assert_eq!(fixture.service.pins().len(), 1);
}

#[test]
fn a_service_that_is_down_or_refuses_loses_nothing() {
    let fixture = Fixture::new();
    for n in 0..5 {
        fixture.put(&leaf(Pin::public("x"), &n.to_string()));
    }
    let failing = [
        Reply::Close,
        Reply::Say(500, b"<html>oops</html>".to_vec()),
        Reply::Say(200, b"<html>welcome</html>".to_vec()),
        Reply::Truncate(b"{\"count\":0,\"results\":[]}".to_vec()),
        Reply::Flood,
    ];
    for reply in failing {
        fixture.service.state(|state| {
            state.mischief = Some(reply.clone());
            state.calls.clear();
        });
        let round = fixture.advance();
        assert!(round.stopped.is_some(), "{reply:?}");
        let calls = fixture.service.state(|state| state.calls.len());
        assert!(calls <= 3, "one root was tried, not five: {calls} calls");
        fixture.assert_counts(Counts { waiting: 5, ..Counts::default() });
    }
    fixture.service.state(|state| state.mischief = None);
    assert!(fixture.advance().stopped.is_none());
    fixture.assert_counts(Counts { queued: 5, ..Counts::default() });
}

#[test]
fn a_service_that_hangs_costs_a_bounded_time() {
    let (folder, service) = (tempfile::tempdir().unwrap(), Double::start());
    let requests = Requests::open(&folder.path().join("pinning.redb")).unwrap();
    let archive = Archive::open(&folder.path().join("blocks.redb"), Config::default()).unwrap();
    let inner = Embedded::new(Arc::new(archive));
    let backend = Pinning::new(inner, service.client(TOKEN, impatient()), requests);
    backend.put(&leaf(Pin::public("x"), "for everybody")).unwrap();
    service.state(|state| state.mischief = Some(Reply::Hang));
    let stopped = backend.advance(0, &[]).unwrap().stopped.unwrap();
    assert!(matches!(stopped, ServiceError::Http(_)), "{stopped}");
}

#[test]
fn a_wrong_token_is_told_and_not_shown() {
    let (folder, service) = (tempfile::tempdir().unwrap(), Double::start());
    let backend = open(&folder, &service, "wrong-token");
    backend.put(&leaf(Pin::public("x"), "for everybody")).unwrap();
    let stopped = backend.advance(0, &[]).unwrap().stopped.unwrap();
    assert!(matches!(stopped, ServiceError::Refused { status: 401, .. }), "{stopped}");
    assert!(stopped.to_string().contains("UNAUTHORIZED: the token is not known"), "{stopped}");
    assert!(!format!("{stopped:?} {backend:?}").contains("wrong-token"));
}

/// A service keeps all that is behind a CID; the blocks of a file are pinned here one by one.
#[test]
fn of_a_file_the_root_alone_is_asked_for_under_its_own_name() {
    let fixture = Fixture::new();
    let block = Block::new(Codec::Raw, b"a directory of dag-pb".to_vec());
    let named = Cid::new_v1(dag::DAG_PB, *block.cid().hash());
    let pin = Pin::public(&named.to_string());
    let root = Object::leaf(pin.clone(), block);
    fixture.put(&root);
    for n in 0..5 {
        fixture.put(&leaf(pin.clone(), &format!("file {n}")));
    }
    fixture.advance();
    let asked: Vec<_> = fixture.service.pins().into_iter().map(|pin| pin.cid).collect();
    assert_eq!(asked, [named.to_string()]);
    fixture.backend.unpin(&pin, root.root.cid()).unwrap();
    fixture.advance();
    assert!(fixture.service.pins().is_empty());
}

#[test]
fn requests_of_others_for_the_same_root_are_left_alone() {
    let fixture = Fixture::new();
    let object = leaf(Pin::public("x"), "popular");
    let stranger = fixture.folder.path().join("stranger");
    std::fs::create_dir(&stranger).unwrap();
    let theirs = {
        let url = fixture.service.client(TOKEN, patient()).to_string().parse().unwrap();
        let token = dunlin_archive::backend::Credential::parse(TOKEN).unwrap();
        let client = dunlin_archive::backend::Service::new(url, "them", token, patient());
        let archive = Archive::open(&stranger.join("blocks.redb"), Config::default()).unwrap();
        let requests = Requests::open(&stranger.join("pinning.redb")).unwrap();
        Pinning::new(Embedded::new(Arc::new(archive)), client, requests)
    };
    theirs.put(&object).unwrap();
    theirs.advance(0, &[]).unwrap();
    fixture.put(&object);
    fixture.advance();
    assert_eq!(fixture.service.pins().len(), 2);
    fixture.backend.unpin(&object.pin, object.root.cid()).unwrap();
    fixture.advance();
    let left: Vec<_> = fixture.service.pins().into_iter().map(|pin| pin.name).collect();
    assert_eq!(left, ["dunlin/them"]);
}
