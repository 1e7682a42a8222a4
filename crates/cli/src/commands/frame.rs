//! `milena frame`.

use std::collections::{HashMap, VecDeque};
use std::io::{BufWriter, Read as _, Write as _};

use anyhow::Context as _;
use milena::protocol::dump::Dump;
use milena::protocol::guard::{request_message, response_message};
use milena::protocol::versions::api_name;

use crate::args::{Format, Frame, Global};
use crate::dump::input::{Frames, Side, hexadecimal};
use crate::dump::{Found, Style, json, text};
use crate::output::{self, Table, Usage, stdout_error};

/// The name of standard input.
const STDIN: &str = "-";

/// Runs the command.
pub(crate) fn run(global: &Global, args: &Frame) -> anyhow::Result<()> {
    let as_json = args.json || global.format == Format::Json;
    if args.apis {
        return apis(as_json);
    }
    let style = Style { max_bytes: args.max_bytes, offsets: args.offsets, records: !args.no_records };
    let asked = args.api.zip(args.version);
    if let Some((api, version)) = asked
        && response_message(api).is_none_or(|message| message.version(version).is_none())
    {
        let text = format!("{} ({api}) has no version {version}; --apis lists what there is", api_name(api));
        return Err(Usage(text).into());
    }
    let (requests, responses) = frames(args)?;
    let out = BufWriter::with_capacity(64 * 1024, std::io::stdout());
    let mut printer = Printer { out, style, as_json, printed: 0, malformed: 0, first: None };
    let outcome = printer.all(requests, responses, asked);
    printer.out.flush().map_err(stdout_error)?;
    outcome?;
    match printer.first {
        None => Ok(()),
        Some(first) if printer.malformed == 1 => Err(anyhow::anyhow!("{first}")),
        Some(first) => Err(anyhow::anyhow!("{} faults; the first: {first}", printer.malformed)),
    }
}

/// What was given, by side.
fn frames(args: &Frame) -> anyhow::Result<(Option<Frames>, Option<Frames>)> {
    let open = |path: &Option<std::path::PathBuf>, side| {
        path.as_deref().map(|path| Frames::open(path, side)).transpose()
    };
    if args.requests.is_some() || args.responses.is_some() {
        return Ok((open(&args.requests, Side::Requests)?, open(&args.responses, Side::Responses)?));
    }
    let side = if args.api.is_some() { Side::Responses } else { Side::Requests };
    let frames = match &args.file {
        Some(path) => Frames::open(path, side)?,
        None => Frames::of_bytes(typed(&args.hex)?, side),
    };
    Ok(if side == Side::Requests { (Some(frames), None) } else { (None, Some(frames)) })
}

/// The bytes that were given in hexadecimal.
fn typed(words: &[String]) -> anyhow::Result<Vec<u8>> {
    if words.is_empty() {
        let text = "give a frame in hexadecimal, - for standard input, --file, or --requests and --responses";
        return Err(Usage(text.into()).into());
    }
    let mut text = String::new();
    for word in words {
        if word == STDIN {
            std::io::stdin().read_to_string(&mut text).context("standard input")?;
        } else {
            text.push_str(word);
        }
        text.push(' ');
    }
    Ok(hexadecimal(&text)?)
}

/// What a response answers.
type Question = (i16, i16);

struct Printer<W: std::io::Write> {
    out: BufWriter<W>,
    style: Style,
    as_json: bool,
    printed: u64,
    malformed: u64,
    first: Option<String>,
}

impl<W: std::io::Write> Printer<W> {
    /// Each request with its response behind it, then the responses to none.
    fn all(
        &mut self,
        requests: Option<Frames>,
        responses: Option<Frames>,
        asked: Option<Question>,
    ) -> anyhow::Result<()> {
        let mut responses = responses;
        let mut waiting: HashMap<i32, VecDeque<usize>> = HashMap::new();
        if let (Some(_), Some(responses)) = (&requests, &mut responses) {
            for index in 0..responses.len() {
                let head = responses.read_up_to(index, 4)?;
                let id = head.first_chunk().map_or(0, |id| i32::from_be_bytes(*id));
                waiting.entry(id).or_default().push_back(index);
            }
        }
        let mut answered = vec![false; responses.as_ref().map_or(0, Frames::len)];
        if let Some(mut requests) = requests {
            for index in 0..requests.len() {
                let frame = requests.read(index)?;
                let question = self.request(&frame, &requests.source(index))?;
                let Some((question, id)) = question else { continue };
                let Some(responses) = &mut responses else { continue };
                let Some(index) = waiting.get_mut(&id).and_then(VecDeque::pop_front) else { continue };
                if let Some(answered) = answered.get_mut(index) {
                    *answered = true;
                }
                let source = responses.source(index);
                self.response(&responses.read(index)?, &source, Some(question))?;
            }
            self.broken(&requests)?;
        }
        if let Some(mut responses) = responses {
            let left = answered.iter().enumerate().filter(|(_, answered)| !**answered);
            for index in left.map(|(index, _)| index).collect::<Vec<_>>() {
                let source = responses.source(index);
                self.response(&responses.read(index)?, &source, asked)?;
            }
            self.broken(&responses)?;
        }
        if self.printed == 0 && self.malformed == 0 {
            anyhow::bail!("there is no frame in what was given");
        }
        Ok(())
    }

    /// Prints a request; its API, version and correlation id if it has them.
    fn request(&mut self, frame: &[u8], source: &str) -> anyhow::Result<Option<(Question, i32)>> {
        let dump = Dump::request(frame);
        let known = dump.api_key().is_some_and(|key| request_message(key).is_some());
        let dump = if known || frame.len() < 4 { dump } else { Dump::opaque(frame) };
        let remark = match (dump.message(), known) {
            (Some(_), _) => None,
            (None, true) => Some("this version is not known here"),
            (None, false) if frame.len() < 4 => None,
            (None, false) => Some("no API has this key: a raw SASL token looks like this"),
        };
        let question = dump.api_key().zip(dump.version()).filter(|_| known);
        let id = frame.get(4..8).and_then(<[u8]>::first_chunk).map(|id| i32::from_be_bytes(*id));
        self.print("request", source, dump, remark)?;
        Ok(question.zip(id))
    }

    fn response(&mut self, frame: &[u8], source: &str, question: Option<Question>) -> anyhow::Result<()> {
        let (dump, remark) = match question {
            Some((api, version)) => {
                let dump = Dump::response(api, version, frame);
                let remark = match dump.message() {
                    None => Some("this version is not known here"),
                    Some(_) if dump.version() != Some(version) => {
                        Some("the broker refuses the version that was asked")
                    }
                    Some(_) => None,
                };
                (dump, remark)
            }
            None if frame.len() < 4 => (Dump::opaque(frame), Some("what it answers is not known")),
            None => (Dump::response_to_unknown(frame), Some("what it answers is not known")),
        };
        self.print("response", source, dump, remark)
    }

    fn print(
        &mut self,
        kind: &'static str,
        source: &str,
        dump: Dump<'_>,
        remark: Option<&str>,
    ) -> anyhow::Result<()> {
        self.printed += 1;
        let (api_key, version) = (dump.api_key(), dump.version());
        let api = api_key.map(api_name);
        let bytes = dump.frame().len();
        let name = match (api, version) {
            (Some("Unknown"), _) | (None, _) | (_, None) => "of an unknown API".to_owned(),
            (Some(api), Some(version)) => format!("{api} v{version}"),
        };
        let place = if source.is_empty() { String::new() } else { format!(" ({source})") };
        let found = if self.as_json {
            let api = api.filter(|_| dump.message().is_some() || name != "of an unknown API");
            let head = json::Head { frame: self.printed, source, kind, api_key, api, version, bytes, remark };
            json::print(&mut self.out, &head, dump, self.style)
        } else {
            let remark = remark.map(|remark| format!("; {remark}")).unwrap_or_default();
            writeln!(self.out, "{kind} {name}, {bytes} bytes{place}{remark}")
                .and_then(|()| text::print(&mut self.out, dump, self.style))
        };
        let Found { fault, tally } = found.map_err(stdout_error)?;
        let about = || format!("{kind} {name}{place}");
        self.malformed += tally.faults + u64::from(fault.is_some());
        if self.first.is_none() {
            // Records stand before the fault that ends the frame.
            let first = tally.first.or_else(|| fault.map(|fault| fault.to_string()));
            self.first = first.map(|first| format!("{}: {first}", about()));
        }
        Ok(())
    }

    /// Tells what ended the input before its end.
    fn broken(&mut self, frames: &Frames) -> anyhow::Result<()> {
        let Some(broken) = &frames.broken else { return Ok(()) };
        if self.as_json {
            let line = serde_json::json!({ "broken": broken });
            writeln!(self.out, "{line}").map_err(stdout_error)?;
        } else {
            writeln!(self.out, "error: {broken}").map_err(stdout_error)?;
        }
        self.malformed += 1;
        if self.first.is_none() {
            self.first = Some(broken.clone());
        }
        Ok(())
    }
}

/// Lists what can be told field by field.
fn apis(as_json: bool) -> anyhow::Result<()> {
    let known = (0..=i16::MAX).filter_map(|key| Some((key, request_message(key)?, response_message(key)?)));
    if as_json {
        let apis: Vec<_> = known
            .map(|(key, request, _)| {
                let (min, max) = request.versions();
                serde_json::json!({ "key": key, "name": api_name(key), "min": min, "max": max })
            })
            .collect();
        return output::json(&apis);
    }
    let mut table = Table::new(&["KEY", "API", "VERSIONS", "FLEXIBLE FROM"]);
    for (key, request, _) in known {
        let (min, max) = request.versions();
        let flexible = (min..=max)
            .find(|version| request.version(*version).is_some_and(|version| request.is_flexible(version)));
        let flexible = flexible.map_or_else(|| "never".to_owned(), |version| version.to_string());
        table.row([key.to_string(), api_name(key).to_owned(), format!("{min} to {max}"), flexible]);
    }
    table.print()
}
