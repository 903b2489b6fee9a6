//! `demo` and `testnet`: many peers on this machine. `bench`: what this machine can do.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Context;
use dunlin_protocols::NetworkName;
use dunlin_testnet::{
    Assault, Deed, DownOptions, FleetOptions, HostileOptions, Profile, ScenarioOptions,
    SplitOptions, UpOptions, attack, bench, demo, down, is_interrupt, liar, play, sim, split,
    supervise, tell, up,
};

use crate::{
    cli::{
        BenchArgs, BenchCommand, BenchData, DemoArgs, LinkProfile, SimArgs, TestnetCommand,
        TestnetDir, TestnetNodes,
    },
    interrupt,
};

pub(super) fn demo(args: DemoArgs, json: bool) -> anyhow::Result<ExitCode> {
    let DemoArgs { data, out, keep } = args;
    let outcome = demo::run(&demo::Options { program: program()?, data, out, keep, json })?;
    Ok(ExitCode::from(outcome.exit_code()))
}

pub(super) fn testnet(dir: &Path, command: TestnetCommand, json: bool) -> anyhow::Result<ExitCode> {
    match carry_out(dir, command, json) {
        Err(cause) if is_interrupt(&cause) => {
            eprintln!("interrupted: all processes were stopped");
            Ok(ExitCode::from(interrupt::EXIT_CODE))
        }
        done => done,
    }
}

fn carry_out(dir: &Path, command: TestnetCommand, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        TestnetCommand::Up { n, netns, profile, place: TestnetDir { dir } } => {
            let profile = match profile {
                LinkProfile::Lan => Profile::Lan,
                LinkProfile::Wan => Profile::Wan,
                LinkProfile::Edge => Profile::Edge,
            };
            up(&UpOptions { program: program()?, peers: n, netns, profile, dir, json })?;
        }
        TestnetCommand::Status(place) => tell(&at(place, json), &Deed::Status)?,
        TestnetCommand::Partition { groups, place } => {
            tell(&at(place, json), &Deed::Partition(groups))?;
        }
        TestnetCommand::Cut { from, to, place } => {
            tell(&at(place, json), &Deed::Cut { from, to })?;
        }
        TestnetCommand::Heal(place) => tell(&at(place, json), &Deed::Heal)?,
        TestnetCommand::Pause(TestnetNodes { nodes, place }) => {
            tell(&at(place, json), &Deed::Pause(nodes))?;
        }
        TestnetCommand::Resume(TestnetNodes { nodes, place }) => {
            tell(&at(place, json), &Deed::Resume(nodes))?;
        }
        TestnetCommand::Kill(TestnetNodes { nodes, place }) => {
            tell(&at(place, json), &Deed::Kill(nodes))?;
        }
        TestnetCommand::Start(TestnetNodes { nodes, place }) => {
            tell(&at(place, json), &Deed::Start(nodes))?;
        }
        TestnetCommand::Churn { every, during, place } => {
            tell(&at(place, json), &Deed::Churn { every, during })?;
        }
        TestnetCommand::Attack { attack, victim, seconds, place } => {
            tell(&at(place, json), &Deed::Attack(Assault { attack, victim, seconds }))?;
        }
        TestnetCommand::Logs { nodes, n, place } => {
            tell(&at(place, json), &Deed::Logs { nodes, lines: n })?;
        }
        TestnetCommand::Down { place: TestnetDir { dir }, purge } => {
            down(&DownOptions { dir, purge, json })?;
        }
        TestnetCommand::Run { scenario: file, old, new, n: peers, minutes, out } => {
            let this = program()?;
            let (old, new) = (old.unwrap_or_else(|| this.clone()), new.unwrap_or(this));
            let options = ScenarioOptions { old, new, file, peers, minutes, out, json };
            let holds = play(&options)?;
            return Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        TestnetCommand::Supervise(TestnetDir { dir }) => supervise(program()?, &dir)?,
        TestnetCommand::Hostile { attack: kind, target, network, from, addresses, seconds } => {
            let during = Duration::from_secs(seconds.into());
            let report =
                attack(&HostileOptions { attack: kind, target, network, from, addresses, during })?;
            println!("{}", serde_json::to_string(&report)?);
        }
        TestnetCommand::Split { n: nodes, common, segments, one_side, seconds, dir } => {
            let program = program()?;
            let options = SplitOptions {
                program,
                nodes,
                common,
                segments,
                is_one_sided: one_side,
                seconds,
                dir,
                json,
            };
            let holds = split(&options)?;
            return Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        TestnetCommand::Sim(args) => return simulate(args, json),
        TestnetCommand::Liar { network, victim, block, cid } => liar::run(liar::Options {
            data_dir: dir.into(),
            network: network.network.map_or_else(default_network, Ok)?,
            listen: network.listen,
            bootstrap: network.bootstrap,
            one_machine: network.one_machine,
            victims: victim,
            block,
            cid,
        })?,
    }
    Ok(ExitCode::SUCCESS)
}

fn at(TestnetDir { dir }: TestnetDir, json: bool) -> FleetOptions {
    FleetOptions { dir, json }
}

fn simulate(args: SimArgs, json: bool) -> anyhow::Result<ExitCode> {
    let SimArgs { seed, seeds, peers, minutes, faults, bug, trace } = args;
    let usual = sim::Options::of_seed(seed, peers);
    let minutes = minutes.unwrap_or(usual.minutes);
    let first = sim::Options { minutes, faults, bug, ..usual };
    let holds = sim::command(&sim::CommandOptions { first, seeds, trace, json })?;
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn bench(command: BenchCommand, json: bool) -> anyhow::Result<()> {
    match command {
        BenchCommand::Anomalies(BenchArgs { data }) => {
            bench::anomalies::run(&bench::anomalies::Options { data, json })
        }
        BenchCommand::Compression(BenchArgs { data }) => {
            bench::compression::run(&bench::compression::Options { data, json })
        }
        BenchCommand::Templates { data, from, set, quick, plot, seeds } => {
            let options = bench::templates::Options { data, from, set, seeds, quick, plot, json };
            bench::templates::run(&options)
        }
        BenchCommand::Discovery { data: BenchData { data }, segments } => {
            let segments = segments as usize;
            bench::discovery::run(&bench::discovery::Options { data, segments, json })
        }
        BenchCommand::Open { data: BenchData { data }, segments, dir, reopen } => {
            let program = program()?;
            let options = bench::open::Options { program, data, segments, dir, reopen, json };
            bench::open::run(&options)
        }
        BenchCommand::Bootstrap { clients, live } => {
            let options = bench::bootstrap::Options { program: program()?, clients, live, json };
            bench::bootstrap::run(&options)
        }
        BenchCommand::Ingest { data: BenchData { data }, fidelity, dir } => {
            bench::ingest::run(&bench::ingest::Options { data, fidelity, dir, json })
        }
    }
}

fn program() -> anyhow::Result<std::path::PathBuf> {
    std::env::current_exe().context("cannot find this program to start it again")
}

fn default_network() -> anyhow::Result<NetworkName> {
    Ok("dunlin".parse()?)
}
