//! `bundle export`, `verify`, `import` and `ls`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, IsTerminal, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use dunlin_archive::bundle::{Kind, Reader};
use dunlin_client::{
    Bundle, BundleImported, BundleMade, BundleRequest, Bundles, Client, ClientError,
};
use dunlin_engine::Segment;
use dunlin_privacy::TemplateSet;
use dunlin_wire::envelope;
use indicatif::{ProgressBar, ProgressStyle};
use libp2p_identity::PeerId;

use crate::{
    api::bundle_json,
    cli::{BundleCommand, ExportArgs, Since},
    interrupt::{self, Interrupt},
    output::{Output, Table, size, time},
};

/// Bytes that are read from a file or the node at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// Stands for standard input and output.
const STANDARD: &str = "-";

pub(super) fn bundle(
    client: impl Fn() -> Result<Client, ClientError>,
    command: &BundleCommand,
    out: Output,
) -> anyhow::Result<ExitCode> {
    match command {
        BundleCommand::Export(args) => return export(&client()?, args, out),
        BundleCommand::Verify { file, from } => verify(file, from, out)?,
        BundleCommand::Import { file, from, accept_gap } => {
            return import(&client()?, file, from, *accept_gap, out);
        }
        BundleCommand::Ls => out.show(&client()?.bundles()?, list)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn export(client: &Client, args: &ExportArgs, out: Output) -> anyhow::Result<ExitCode> {
    let is_standard = args.output == Path::new(STANDARD);
    anyhow::ensure!(
        !(is_standard && io::stdout().is_terminal()),
        "a bundle is no text; send it to a file or a program"
    );
    let interrupt = Interrupt::listen()?;
    // Before a number is taken: what cannot be written to must not cost one.
    let mut target = if is_standard { Target::Standard } else { Target::file(&args.output)? };
    let made = match args.again {
        Some(sequence) => {
            BundleMade { bundle: Bundle { sequence, ..Bundle::default() }, ..BundleMade::default() }
        }
        None => {
            let since_us = match args.since {
                Since::Last => None,
                Since::Time(time) => Some(time),
            };
            let collections = args.collections.clone();
            client.make_bundle(&BundleRequest { since_us, collections })?
        }
    };
    let sequence = made.bundle.sequence;
    let written = copy(client, made.bundle.bytes, sequence, &mut target, &interrupt);
    let written = written.and_then(|bundle| target.finish().map(|()| bundle));
    let bundle = written.with_context(|| {
        format!(
            "bundle {sequence} is made, but not written; \
             `dunlin bundle export --again {sequence} -o FILE` writes it"
        )
    });
    let bundle = match bundle {
        Err(cause) if interrupt.is_raised() => {
            eprintln!("interrupted: {cause:#}");
            return Ok(ExitCode::from(interrupt::EXIT_CODE));
        }
        bundle => bundle?,
    };
    let made = BundleMade { bundle, ..made };
    if is_standard {
        // The bundle has standard output for itself.
        eprintln!("{}", exported(&made));
    } else {
        out.show(&made, exported)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Copies a bundle from the node, and checks it on its way as whoever imports it does.
fn copy(
    client: &Client,
    bytes: u64,
    sequence: u64,
    target: &mut Target,
    interrupt: &Interrupt,
) -> anyhow::Result<Bundle> {
    let progress = progress_bar((bytes > 0).then_some(bytes), "written");
    let input = client.read_bundle(sequence)?;
    let input = Watched { input: progress.wrap_read(input), interrupt };
    let tee = Tee { input, output: target };
    let checked = check(BufReader::with_capacity(BUFFER_BYTES, tee), &[]);
    progress.finish_and_clear();
    checked
}

fn verify(file: &Path, from: &[PeerId], out: Output) -> anyhow::Result<()> {
    let (input, length) = open(file)?;
    let progress = progress_bar(length, "checked");
    let input = BufReader::with_capacity(BUFFER_BYTES, progress.wrap_read(input));
    let checked = check(input, from);
    progress.finish_and_clear();
    let bundle = checked.with_context(|| file.display().to_string())?;
    out.show(&bundle, |bundle| {
        format!("{}\n\nwhole: signature, index and every block are right", details(bundle))
    })
}

/// Reads a bundle to its end, and checks all that can be checked without a node.
fn check(input: impl Read, from: &[PeerId]) -> anyhow::Result<Bundle> {
    let mut reader = Reader::open(input)?;
    let signed = reader.signed().clone();
    anyhow::ensure!(
        from.is_empty() || from.contains(&signed.signer),
        "it is signed by {}, whom you did not name",
        signed.signer
    );
    while let Some(entry) = reader.next_entry()? {
        let (cid, bytes) = (entry.block.cid(), entry.block.bytes());
        let is_right = match &entry.kind {
            Kind::Part | Kind::Payload => true,
            Kind::Segment { collection } => Segment::decode(bytes)
                .is_ok_and(|segment| segment.collection().as_str() == collection),
            Kind::Template => envelope::open::<TemplateSet>(bytes).is_ok(),
        };
        anyhow::ensure!(is_right, "block {cid} is not what the index says");
    }
    Ok(bundle_json(&signed, &reader.link().bundle))
}

fn import(
    client: &Client,
    file: &Path,
    from: &[PeerId],
    accept_gap: bool,
    out: Output,
) -> anyhow::Result<ExitCode> {
    let (input, length) = open(file)?;
    let interrupt = Interrupt::listen()?;
    let progress = progress_bar(length, "sent");
    let mut input = Watched { input: progress.wrap_read(input), interrupt: &interrupt };
    let from: Vec<_> = from.iter().map(ToString::to_string).collect();
    let imported = client.import_bundle(&mut input, &from, accept_gap);
    progress.finish_and_clear();
    if interrupt.is_raised() && imported.is_err() {
        eprintln!("interrupted; nothing of the bundle is visible, and run again it goes on here");
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    }
    out.show(&imported.with_context(|| file.display().to_string())?, imported_text)?;
    Ok(ExitCode::SUCCESS)
}

/// Opens a file or standard input; returns its length when it has one.
fn open(path: &Path) -> anyhow::Result<(Box<dyn Read>, Option<u64>)> {
    if path == Path::new(STANDARD) {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot)?;
    let metadata = file.metadata().with_context(cannot)?;
    Ok((Box::new(file), metadata.is_file().then_some(metadata.len())))
}

/// Where a bundle goes. A file gets its name when it is whole.
enum Target {
    Standard,
    /// A device or a pipe, which has its name already.
    Special(File),
    File {
        file: File,
        unfinished: PathBuf,
        path: PathBuf,
        is_finished: bool,
    },
}

impl Target {
    /// Begins a file, which only its owner may read: it holds private segments.
    fn file(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot write {}", path.display());
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            let file = OpenOptions::new().write(true).open(path).with_context(cannot)?;
            return Ok(Self::Special(file));
        }
        let name = path.file_name().context("name a file to write to")?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".unfinished");
        let unfinished = path.with_file_name(hidden);
        let mut options = OpenOptions::new();
        // One that a killed export left behind is written over.
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&unfinished);
        let file = file.with_context(cannot)?;
        Ok(Self::File { file, unfinished, path: path.into(), is_finished: false })
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        let Self::File { file, unfinished, path, is_finished } = self else {
            return self.flush().context("cannot write all of it");
        };
        let rename = || -> io::Result<()> {
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        rename().with_context(|| format!("cannot write {}", path.display()))?;
        *is_finished = true;
        Ok(())
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Standard => io::stdout().write(bytes),
            Self::Special(file) | Self::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Standard => io::stdout().flush(),
            Self::Special(file) | Self::File { file, .. } => file.flush(),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Self::File { unfinished, is_finished: false, .. } = self {
            // Gone already is fine, too.
            fs::remove_file(unfinished).ok();
        }
    }
}

/// Writes down what is read.
struct Tee<'a, R> {
    input: R,
    output: &'a mut Target,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.output.write_all(&buffer[..count])?;
        Ok(count)
    }
}

/// Ends with an error when the user wants the command to end.
struct Watched<'a, R> {
    input: R,
    interrupt: &'a Interrupt,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.interrupt.is_raised() {
            return Err(io::Error::other("interrupted"));
        }
        self.input.read(buffer)
    }
}

fn progress_bar(length: Option<u64>, verb: &str) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => (
            ProgressBar::new(length),
            format!("{{bar:30}} {{bytes}}/{{total_bytes}} {verb} ({{eta}} left)"),
        ),
        None => (ProgressBar::new_spinner(), format!("{{spinner}} {{bytes}} {verb}")),
    };
    bar.with_style(ProgressStyle::with_template(&template).expect("a valid template"))
}

fn exported(BundleMade { bundle, more, due }: &BundleMade) -> String {
    let mut text =
        format!("{}\n\nplain private segments: give it to your own peers alone", details(bundle));
    if *more {
        text.push_str("\nthere is more than a bundle holds: export again for the next one");
    }
    if *due > 0 {
        text.push_str(&format!("\n{due} segments are not archived yet and go with the next one"));
    }
    text
}

fn imported_text(imported: &BundleImported) -> String {
    let BundleImported { bundle, resumed, templates_kept } = imported;
    format!(
        "{}\n\nall of it is here ({resumed} blocks from an interrupted run); {templates_kept} \
         template sets go before the gate",
        details(bundle)
    )
}

fn details(bundle: &Bundle) -> String {
    let micros = |ms: u64| i64::try_from(ms.saturating_mul(1_000)).unwrap_or(i64::MAX);
    let previous = bundle.previous.as_deref().unwrap_or("none, it is the first");
    let covers = match (bundle.from_us, bundle.to_us) {
        (Some(from), Some(to)) => format!("{} to {}", time(from), time(to)),
        _ => "no time".to_owned(),
    };
    let since = bundle.since_us.map_or_else(|| "what was not carried before".to_owned(), time);
    let collections = match bundle.collections.as_slice() {
        [] => "all".to_owned(),
        names => names.join(", "),
    };
    format!(
        "bundle       {} of {}\nknown as     {}\nbefore it    {previous}\nmade         {}\ncollections  {collections}\nsince        {since}\ncovers       {covers}\nform         {}\nholds        {} segments, {} template sets; {} blocks of {}",
        bundle.sequence,
        bundle.peer,
        bundle.bundle,
        time(micros(bundle.created_ms)),
        bundle.form,
        bundle.segments,
        bundle.templates,
        bundle.blocks,
        size(bundle.bytes),
    )
}

fn list(bundles: &Bundles) -> String {
    let mut table = Table::new(["bundle", "of", "known as"]);
    if let Some(sent) = &bundles.sent {
        table.row([sent.sequence.to_string(), "this node".to_owned(), sent.bundle.clone()]);
    }
    for link in &bundles.received {
        table.row([link.sequence.to_string(), link.peer.clone(), link.bundle.clone()]);
    }
    let mut text = table.to_string();
    for part in &bundles.unfinished {
        text.push_str(&format!(
            "\n{} has not arrived as a whole: {} blocks wait; import it again to go on\n",
            part.bundle, part.blocks
        ));
    }
    text
}
