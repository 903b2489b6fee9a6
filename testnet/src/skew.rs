//! Clocks that jump: a few lines of C between a node and its C library shift the wall clock, and nothing else.
//!
//! The kernel has one wall clock for all. So a node of a network with skewed clocks is started with a library before its C
//! library, built here with the C compiler, which adds what a file says. No program is changed for it.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

/// What is built.
const SOURCE: &str = include_str!("skew.c");

/// A library that shifts clocks, and where it reads by how much.
#[derive(Debug)]
pub(crate) struct Skew {
    dir: PathBuf,
    library: PathBuf,
}

impl Skew {
    /// Builds the library in a folder.
    ///
    /// # Errors
    ///
    /// Fails without a C compiler, and where programs are not linked with their C library at run time.
    pub(crate) fn build(dir: &Path) -> anyhow::Result<Self> {
        let library = dir.join("skew.so");
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-O2", "-x", "c", "-", "-o"]).arg(&library);
        let mut child = command
            .stdin(std::process::Stdio::piped())
            .spawn()
            .context("clocks that jump take a C compiler: `cc` cannot be run")?;
        let mut input = child.stdin.take().context("`cc` takes no input")?;
        input.write_all(SOURCE.as_bytes())?;
        drop(input);
        ensure!(child.wait()?.success(), "`cc` cannot build what shifts clocks");
        Ok(Self { dir: dir.to_owned(), library })
    }

    /// Prepares a command whose clock can be set, and is right to begin with.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    pub(crate) fn prepare(&self, command: &mut Command, name: &str) -> anyhow::Result<()> {
        let file = self.file(name);
        if !file.exists() {
            self.set(name, 0)?;
        }
        command.env("LD_PRELOAD", &self.library).env("SKEW_FILE", file);
        Ok(())
    }

    /// Sets a node's clock off by so many seconds, also while it runs.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    pub(crate) fn set(&self, name: &str, by_s: i64) -> anyhow::Result<()> {
        // In place: running processes look at this very file.
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.file(name))?;
        Ok(file.write_all_at(&by_s.to_ne_bytes(), 0)?)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.clock"))
    }
}
