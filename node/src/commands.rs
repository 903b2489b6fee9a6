//! One function for each command: ask the running node, print its answer.

mod archive;
mod behaviours;
mod bundle;
mod doctor;
mod identity;
mod ingest;
mod keys;
mod local;
mod network;
mod query;
mod review;
mod segments;
mod sharing;
mod testnet;
mod trust;
mod watch;

use std::process::ExitCode;

use clap::CommandFactory;
use dunlin_client::Client;

use crate::{
    cli::{Cli, Command, StatusArgs},
    daemon,
    output::Output,
};

/// Carries out what the command line says.
///
/// # Errors
///
/// Returns whatever stopped the command, as one chain of causes to print.
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let dir = cli.data_dir;
    let out = Output::new(cli.json);
    let client = || Client::for_data_dir(&dir);
    match cli.command {
        Command::Init(args) => local::init(&dir, &args, out)?,
        Command::Run(args) => return daemon::run(&dir, args),
        Command::Bootstrap(args) => return daemon::bootstrap(&dir, args),
        Command::Ingest(args) => return ingest::ingest(&dir, &args, out),
        Command::Status(StatusArgs { watch: Some(pause), .. }) => {
            watch::watch(&client()?, *pause, cli.json)?;
        }
        Command::Status(args) => local::status(&client()?, &args, out)?,
        Command::Doctor => return doctor::doctor(&dir, out),
        Command::Peers => local::peers(&client()?, out)?,
        Command::Console => local::console(&client()?, out)?,
        Command::Collections(command) => local::collections(&client()?, command, out)?,
        Command::Segments(command) => return segments::segments(&client()?, command, out),
        Command::Archive(command) => archive::archive(&dir, client, &command, out)?,
        Command::Identity(command) => identity::identity(&dir, &command, out)?,
        Command::Keys(command) => keys::keys(&dir, &command, out)?,
        Command::Bundle(command) => return bundle::bundle(client, &command, out),
        Command::Network(command) => network::network(&dir, client, &command, out)?,
        Command::Trust(command) => trust::trust(&client()?, &command, out)?,
        Command::Review(command) => review::review(&client()?, &command, out)?,
        Command::Knn(args) => query::knn(&client()?, args, out)?,
        Command::Anomalies(args) => query::anomalies(&client()?, args, out)?,
        Command::Scores(args) => query::scores(&client()?, args, out)?,
        Command::Behaviours(args) => behaviours::behaviours(&client()?, &args, out)?,
        Command::History(args) => query::history(&client()?, args, out)?,
        Command::Changes(args) => query::changes(&client()?, args, out)?,
        Command::Trajectory(args) => query::trajectory(&client()?, args, out)?,
        Command::Templates(command) => sharing::templates(&client()?, command, out)?,
        Command::Privacy(command) => sharing::privacy(&client()?, &command, out)?,
        Command::Demo(args) => return testnet::demo(args, cli.json),
        Command::Testnet(command) => return testnet::testnet(&dir, command, cli.json),
        Command::Bench(command) => testnet::bench(command, cli.json)?,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "dunlin", &mut std::io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}
