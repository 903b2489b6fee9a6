//! The result on a terminal: one line a peer, one line a finding.

use std::path::Path;

use super::{
    Report,
    markup::{bytes, count, decimal},
};

/// Returns the table. `out` is where the full report is.
pub(crate) fn table(report: &Report, out: &Path) -> String {
    let mut lines = aligned(&rows(report));
    lines.push(String::new());
    let findings = findings(report);
    let width = findings.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    lines.extend(findings.iter().map(|(name, found)| format!("{name:width$}  {found}")));
    lines.push(String::new());
    lines.push(format!("report: {}", out.join("report.html").display()));
    lines.join("\n")
}

/// Returns what the peers hold, cell by cell, with a header and a total.
fn rows(report: &Report) -> Vec<Vec<String>> {
    let header = [
        "",
        "entity",
        "observations",
        "segments",
        "ratio",
        "nRMSE",
        "R²",
        "windows",
        "archived",
        "epsilon",
        "memory",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for peer in &report.per_peer {
        rows.push(vec![
            peer.name.clone(),
            peer.entity.clone(),
            count(peer.observations),
            count(peer.segments),
            decimal(Some(peer.ratio), 1),
            decimal(Some(peer.nrmse), 3),
            decimal(Some(peer.r2), 2),
            decimal(peer.window_ratio, 1),
            count(peer.archived),
            decimal(Some(peer.epsilon_spent), 1),
            peer.resident_bytes.map_or("–".to_owned(), bytes),
        ]);
    }
    rows.push(vec![
        "all".to_owned(),
        String::new(),
        count(report.observations),
        count(report.segments),
        decimal(Some(report.ratio), 1),
        decimal(Some(report.nrmse), 3),
        decimal(Some(report.r2), 2),
        decimal(report.window_ratio, 1),
        count(report.archived),
        String::new(),
        String::new(),
    ]);
    rows
}

/// Returns the other figures, each with its name.
fn findings(report: &Report) -> Vec<(&'static str, String)> {
    let ap = |ap| decimal(ap, 3);
    let mut findings = vec![
        (
            "fetched by CID",
            format!("{} of {} verified and decoded", report.fetched_verified, report.fetched_asked),
        ),
        ("corrupted block", format!("{} refused", report.corrupt_refused)),
        (
            "templates",
            format!(
                "{} released in {} sets ({}), {} adopted in {} sets, at epsilon {} for each peer at most",
                report.templates_published,
                report.template_sets_published,
                bytes(report.template_bytes),
                report.templates_adopted,
                report.template_sets_adopted,
                decimal(Some(report.epsilon_spent), 1),
            ),
        ),
        (
            "average precision",
            format!(
                "{} alone, {} with templates, {} with shuffled templates, {} by chance",
                ap(report.ap_alone),
                ap(report.ap_with_templates),
                ap(report.ap_control),
                ap(Some(report.ap_random)),
            ),
        ),
        (
            "while learning on",
            format!(
                "{} alone, {} with templates",
                ap(report.ap_alone_online),
                ap(report.ap_with_templates_online)
            ),
        ),
    ];
    if let Some(knn) = &report.knn {
        let agrees = if knn.agrees_with_brute_force { "as" } else { "unlike" };
        let found =
            format!("{} of {} fetched regimes, {agrees} brute force", knn.found, knn.searched);
        findings.push(("nearest regimes", found));
    }
    if let Some(crash) = &report.crash {
        let acked = count(crash.acked);
        let (peer, restart_s) = (&crash.peer, crash.restart_s);
        findings.push((
            "killed by SIGKILL",
            format!(
                "{peer}, with {acked} acknowledged; back after {restart_s:.1} s, then finished"
            ),
        ));
    }
    findings.push((
        "acknowledged and lost",
        format!("{} of {}", count(report.acked_lost), count(report.observations)),
    ));
    findings.push(("elapsed", format!("{:.1} s", report.elapsed_s)));
    findings
}

/// Pads cells to columns: names to the left, numbers to the right.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().filter_map(|row| row.get(c)).map(|t| t.chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(c, (cell, width))| {
            if c < 2 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = table(&super::super::tests::sample(), Path::new("out"));
        let lines: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
        let at = |word: &str| {
            let header: String = lines[0].iter().collect();
            header[..header.find(word).unwrap()].chars().count() + word.chars().count() - 1
        };
        // Right-aligned: every row ends its cell under the last letter of the header.
        for (word, last) in [("segments", ['4', '4', '8']), ("nRMSE", ['0', '0', '1'])] {
            for (line, last) in lines[1..4].iter().zip(last) {
                assert_eq!(line[at(word)], last, "{word}");
            }
        }
        assert!(text.ends_with("report: out/report.html"));
        assert!(text.contains("0.145 alone, 0.510 with templates, – with shuffled templates"));
    }
}
