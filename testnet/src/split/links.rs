//! Cables and bridges: the nodes' namespaces on two bridges, and the one cable whose end is the split.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, ensure};

/// The most nodes: their addresses end in a byte, and this machine runs them all.
pub(super) const MAX_NODES: usize = 32;

/// The cable between both bridges: its ends.
const JOINT: [&str; 2] = ["joint0", "joint1"];

/// A laid network. It ends with the namespaces in which this program runs.
#[derive(Debug)]
pub(super) struct Links {
    /// How many nodes have a place, half of them on each bridge.
    nodes: usize,
}

impl Links {
    /// A folder in memory that goes with the namespaces.
    pub(super) const FOLDER: &str = "/run";

    /// Makes the bridges, and a namespace with a cable for each node.
    ///
    /// # Errors
    ///
    /// Fails when `mount` or `ip` does.
    pub(super) fn lay(nodes: usize) -> anyhow::Result<Self> {
        let links = Self { nodes };
        // `ip netns` writes names there. These are ours alone, and go with our mounts.
        tool("mount", &["-t", "tmpfs", "tmpfs", Self::FOLDER])?;
        ip(&["link", "set", "lo", "up"])?;
        for side in 0..2 {
            let bridge = bridge(side);
            ip(&["link", "add", &bridge, "type", "bridge"])?;
            ip(&["link", "set", &bridge, "up"])?;
            // From here every node can be asked, whatever the other cables do.
            ip(&["addr", "add", &format!("10.77.{side}.254/24"), "dev", &bridge])?;
        }
        ip(&["link", "add", JOINT[0], "type", "veth", "peer", "name", JOINT[1]])?;
        for (side, end) in JOINT.iter().enumerate() {
            ip(&["link", "set", end, "master", &bridge(side)])?;
            ip(&["link", "set", end, "up"])?;
        }
        for index in 0..nodes {
            let (space, cable) = (namespace(index), format!("cable{index}"));
            ip(&["netns", "add", &space])?;
            ip(&["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
            ip(&["link", "set", &cable, "master", &bridge(links.side_of(index))])?;
            ip(&["link", "set", &cable, "up"])?;
            // Both sides are one network, as far as the nodes know.
            let address = format!("{}/16", links.address(index));
            ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &space, "link", "set", "eth0", "up"])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
        }
        Ok(links)
    }

    /// Returns the address of a node.
    pub(super) fn address(&self, index: usize) -> String {
        format!("10.77.{}.{}", self.side_of(index), index + 1)
    }

    fn side_of(&self, index: usize) -> usize {
        usize::from(index >= self.nodes / 2)
    }

    /// Returns a command that runs a program where a node is.
    pub(super) fn command(index: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace(index)]).arg(program);
        command
    }

    /// Cuts the network in two.
    pub(super) fn cut(&self) -> anyhow::Result<()> {
        ip(&["link", "set", JOINT[0], "down"])
    }

    /// Makes it one again.
    pub(super) fn mend(&self) -> anyhow::Result<()> {
        ip(&["link", "set", JOINT[0], "up"])
    }

    /// Returns how many bytes crossed to the first side, and to the second.
    pub(super) fn crossed_bytes(&self) -> anyhow::Result<[u64; 2]> {
        // `/sys` may show the devices of another namespace; `/proc` shows those of ours.
        let devices = fs::read_to_string("/proc/net/dev").context("cannot count bytes")?;
        let line = devices.lines().find_map(|line| line.trim().strip_prefix("joint0:"));
        let numbers: Vec<u64> = line
            .unwrap_or_default()
            .split_whitespace()
            .map_while(|number| number.parse().ok())
            .collect();
        // Bytes that came to the first side's bridge are received; eight columns later are those that left it.
        match (numbers.first(), numbers.get(8)) {
            (Some(received), Some(sent)) => Ok([*received, *sent]),
            _ => anyhow::bail!("/proc/net/dev has no counts of joint0"),
        }
    }
}

fn bridge(side: usize) -> String {
    format!("side{side}")
}

fn namespace(index: usize) -> String {
    format!("node{index}")
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    tool("ip", args)
}

fn tool(name: &str, args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(name).args(args).output();
    let output = output.with_context(|| format!("cannot run `{name}`"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{name} {}` failed: {}", args.join(" "), errors.trim());
    Ok(())
}
