//! `doctor`: what was found, the worst of it last, where the eye is.

use std::{path::Path, process::ExitCode};

use crate::{
    doctor::{Finding, State, examine},
    output::Output,
};

pub(super) fn doctor(dir: &Path, out: Output) -> anyhow::Result<ExitCode> {
    let findings = examine(dir);
    out.show(&findings, |findings| text(findings))?;
    let is_broken = findings.iter().any(|finding| finding.state == State::Broken);
    Ok(if is_broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn text(findings: &[Finding]) -> String {
    let mut findings: Vec<_> = findings.iter().collect();
    findings.sort_by_key(|finding| finding.state);
    let mut text = String::new();
    for finding in findings {
        let (state, check) = (finding.state.as_str(), finding.check);
        // Mistakes of a configuration have a line each.
        let found = finding.found.replace('\n', "\n                     ");
        text.push_str(&format!("{state:<9} {check:<10} {found}\n"));
        if let Some(advice) = &finding.advice {
            text.push_str(&format!("{:<20} -> {advice}\n", ""));
        }
    }
    text
}
