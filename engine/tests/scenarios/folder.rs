//! Data folders: whose they are, and what is refused.

use std::fs;

use dunlin_engine::{Config, Engine, OpenError};

use crate::support::{course, entity, name, sealed, spec};

fn open(folder: &std::path::Path) -> Result<Engine, OpenError> {
    Engine::open(folder, Config::default())
}

#[test]
fn a_real_folder_keeps_what_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new").join("data");
    let engine = open(&path).unwrap();
    engine.create_collection(spec(2)).unwrap();
    engine.ingest(&name(), course("a", 0..200, 20)).unwrap();
    let before = sealed(&engine);
    assert!(!before.is_empty());
    drop(engine);
    let engine = open(&path).unwrap();
    assert_eq!(sealed(&engine), before);
    engine.close().unwrap();
    drop(engine);
    let engine = open(&path).unwrap();
    assert_eq!(sealed(&engine), before);
    assert_eq!(engine.entity(&name(), &entity("a")).unwrap().observations, 200);
}

#[test]
fn a_folder_belongs_to_one_engine_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path()).unwrap();
    assert!(matches!(open(folder.path()), Err(OpenError::InUse)));
    drop(engine);
    assert!(open(folder.path()).is_ok());
}

#[test]
fn foreign_and_newer_folders_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "chapter 1").unwrap();
    let refused = open(folder.path()).unwrap_err();
    assert!(matches!(&refused, OpenError::Foreign { name } if name == "thesis.tex"), "{refused}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the folder is as it was");

    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("VERSION"), "dunlin engine 4\n").unwrap();
    let refused = open(folder.path()).unwrap_err();
    let said =
        r#"has the format "dunlin engine 4", and this version of dunlin reads "dunlin engine 3""#;
    assert!(refused.to_string().contains(said), "{refused}");
    assert!(matches!(refused, OpenError::Version { .. }));
    fs::write(folder.path().join("VERSION"), "something else").unwrap();
    assert!(matches!(open(folder.path()), Err(OpenError::Foreign { .. })));
}

#[test]
fn a_folder_that_lost_its_version_file_is_not_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path()).unwrap();
    engine.create_collection(spec(2)).unwrap();
    engine.close().unwrap();
    drop(engine);
    fs::remove_file(folder.path().join("VERSION")).unwrap();
    assert!(matches!(open(folder.path()), Err(OpenError::VersionMissing)));
}

#[test]
fn a_store_that_is_no_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    fs::write(folder.path().join("store.redb"), "not a database at all").unwrap();
    assert!(matches!(open(folder.path()), Err(OpenError::Store(_))));
}
