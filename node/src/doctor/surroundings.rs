//! The machine: clock, disk, and how many files may be open.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use rustix::process::Resource;

use super::{Finding, folder::Folder};
use crate::{config::Config, data_dir::IDENTITY_FILE, output::size};

/// Files in the data folder may be newer than now by so much: disks of others have their own clocks.
const SLACK: Duration = Duration::from_secs(60);

/// Free space below which the engine may soon be unable to write its log.
const FREE_BYTES_MIN: u64 = 256 << 20;

/// Open files that a node with all its connections needs.
const FILES_MIN: u64 = 1_024;

/// Compares the clock with the newest file that the node wrote, and with the program's own: a clock that went
/// back makes observations late, and one that is years behind makes every license and lease invalid.
pub(super) fn clock(folder: &Folder) -> Finding {
    let now = SystemTime::now();
    let stamp =
        |path: std::path::PathBuf| fs::metadata(path).and_then(|found| found.modified()).ok();
    let parts = ["trust.cbor", "engine/log", "engine", "archive/blocks.redb", IDENTITY_FILE];
    let written = parts.iter().filter_map(|part| stamp(folder.path().join(part))).max();
    let program = std::env::current_exe().ok().and_then(stamp);
    let ahead = |then: Option<SystemTime>| {
        then.and_then(|then| then.duration_since(now).ok()).filter(|ahead| *ahead > SLACK)
    };
    let shown = humantime::format_rfc3339_seconds(now);
    let advice = "set the clock, and let NTP keep it";
    match (ahead(written), ahead(program)) {
        (Some(ahead), _) => {
            let ahead = humantime::format_duration(Duration::from_secs(ahead.as_secs()));
            Finding::broken(
                "clock",
                format!("{shown}, which is {ahead} before the node last wrote"),
                advice,
            )
        }
        (None, Some(_)) => Finding::broken(
            "clock",
            format!("{shown}, which is before this program was made"),
            advice,
        ),
        (None, None) => Finding::fine("clock", shown.to_string()),
    }
}

/// Compares what is free with what the archive may yet take.
pub(super) fn disk(folder: &Folder, config: &Config) -> Finding {
    // The folder may not be there yet: then the one that it will be in.
    let place = folder.path().ancestors().find(|place| place.is_dir());
    let Some(place) = place else {
        return Finding::broken(
            "disk",
            "no part of the folder's path exists",
            "name another --data-dir",
        );
    };
    let free = match rustix::fs::statvfs(place) {
        Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize),
        Err(cause) => {
            return Finding::broken("disk", cause.to_string(), "see that the disk is mounted");
        }
    };
    let stored = dunlin_archive::disk_bytes(&folder.path().join("archive/blocks.redb"));
    let may_grow = config.archive.bytes_max.saturating_sub(stored);
    let found = format!("{} free where the data is", size(free));
    if free < FREE_BYTES_MIN {
        let advice =
            "make room: a full disk refuses observations, and loses none that were acknowledged";
        Finding::broken("disk", found, advice)
    } else if free < may_grow {
        let advice = format!(
            "the archive may grow by {} (`archive.mib_max`): lower it, or make room",
            size(may_grow)
        );
        Finding::doubtful("disk", found, advice)
    } else {
        Finding::fine("disk", found)
    }
}

/// Looks how many files and sockets the process may have open.
pub(super) fn files() -> Finding {
    match rustix::process::getrlimit(Resource::Nofile).current {
        Some(most) if most < FILES_MIN => Finding::doubtful(
            "files",
            format!("at most {most} files and sockets may be open"),
            format!("allow {FILES_MIN} or more (`ulimit -n`, or LimitNOFILE in the unit file)"),
        ),
        Some(most) => Finding::fine("files", format!("{most} files and sockets may be open")),
        None => Finding::fine("files", "any number of files and sockets may be open"),
    }
}
