//! `dunlin`: the daemon and its command line.
//!
//! This room is a shell: it reads the configuration, the clock and the signals, opens sockets, spawns
//! tasks, and connects the rooms below, which decide.

#![forbid(unsafe_code)]

mod api;
mod cli;
mod commands;
mod config;
mod daemon;
mod data_dir;
mod doctor;
mod gateway;
mod identity_file;
mod input;
mod interrupt;
mod key_ring;
mod output;
mod page;
mod statement;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match commands::run(cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
