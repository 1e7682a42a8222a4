//! `milena frame`: what it prints of frames in hexadecimal, files and folders, and where it points when they are malformed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails panics")]

mod common;

use std::path::Path;

use bytes::Bytes;
use common::{Ended, run, run_with_input};
use milena::protocol::records::{BatchBuilder, BatchIdentity, BatchOptions, Header};
use milena::{Compression, Offset};
use serde_json::{Value, json};

/// ApiVersions v4 of the client "foo": software "abc", version "1", and an unknown tagged field.
const API_VERSIONS: &str = "0012 0004 00000001 0003 666f6f 00 04616263 0231 01 07 02 beef";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn batch(compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
    builder.push(1_700_000_000_000, Some(b"k"), Some(b"hello"), []).unwrap();
    let headers = [Header::new("h", Some(b"\xff")), Header::new(b"\xe9", None)];
    builder.push(1_700_000_000_001, None, Some(&[b'x'; 100]), headers).unwrap();
    builder.build(BatchIdentity { base_offset: Offset(5), ..BatchIdentity::default() }).unwrap()
}

/// Produce v3 with these records for partition 0 of "t".
fn produce(correlation_id: i32, records: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, 0, 3];
    frame.extend_from_slice(&correlation_id.to_be_bytes());
    frame.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 9]);
    frame.extend_from_slice(&[0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 0]);
    frame.extend_from_slice(&(records.len() as i32).to_be_bytes());
    frame.extend_from_slice(records);
    frame
}

/// The answer to it: error 3.
fn produced(correlation_id: i32) -> Vec<u8> {
    let mut frame = correlation_id.to_be_bytes().to_vec();
    frame.extend_from_slice(&[0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 0, 0, 3]);
    frame.extend_from_slice(&[0xff; 16]);
    frame.extend_from_slice(&[0, 0, 0, 7]);
    frame
}

fn framed(frames: &[Vec<u8>]) -> Vec<u8> {
    frames.iter().flat_map(|frame| [&(frame.len() as i32).to_be_bytes(), &frame[..]].concat()).collect()
}

async fn frame(args: &[&str]) -> Ended {
    run(&[&["frame"], args].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_told_field_by_field() {
    let expected = "\
request ApiVersions v4, 25 bytes
  header
    request_api_key = 18 (ApiVersions)
    request_api_version = 4
    correlation_id = 1
    client_id = \"foo\"
  ApiVersionsRequest
    client_software_name = \"abc\"
    client_software_version = \"1\"
    tag 7 (unknown) = 2 bytes 0xbeef
";
    assert_eq!(frame(&[API_VERSIONS]).await.expect(0).text(), expected);
    // The same with its length, in pieces, with colons, from standard input.
    let words: Vec<&str> = API_VERSIONS.split(' ').collect();
    assert_eq!(frame(&words).await.expect(0).text(), expected);
    let framed = format!("00:00:00:19 0x{}\n", API_VERSIONS.replace(' ', ""));
    let ended = run_with_input(&["frame", "-"], framed.as_bytes()).await.expect(0);
    assert_eq!(ended.text(), expected);
    let offsets = "\
request ApiVersions v4, 25 bytes
       0      0    header
       0      2      request_api_key = 18 (ApiVersions)
       2      2      request_api_version = 4
       4      4      correlation_id = 1
       8      5      client_id = \"foo\"
      13      1      tagged fields: 0
      14      0    ApiVersionsRequest
      14      4      client_software_name = \"abc\"
      18      2      client_software_version = \"1\"
      20      1      tagged fields: 1
      21      4      tag 7 (unknown) = 2 bytes 0xbeef
";
    assert_eq!(frame(&[API_VERSIONS, "--offsets"]).await.expect(0).text(), offsets);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_one_object_a_frame() {
    let ended = frame(&[API_VERSIONS, "-J"]).await.expect(0);
    let expected = json!({
        "frame": 1, "source": "", "kind": "request", "api_key": 18, "api": "ApiVersions", "version": 4, "bytes": 25,
        "header": {
            "request_api_key": 18, "request_api_version": 4, "correlation_id": 1, "client_id": "foo"
        },
        "body": { "client_software_name": "abc", "client_software_version": "1", "tag_7": "beef" },
    });
    assert_eq!(ended.json(), expected);
    assert_eq!(ended.lines().len(), 1);
    let ended = frame(&[API_VERSIONS, "--format", "json", "--offsets"]).await.expect(0);
    let name = &ended.json()["body"]["value"]["client_software_name"];
    assert_eq!(name, &json!({ "at": 14, "value": "abc", "size": 4 }));
    assert_eq!(ended.json()["body"]["size"], 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn record_data_is_opened() {
    let ended = frame(&[&hex(&produce(1, &batch(Compression::None)))]).await.expect(0);
    let text = ended.text();
    let shown: Vec<&str> = text.lines().skip_while(|line| !line.contains("records =")).collect();
    let crc = shown[1].split("crc ").nth(1).unwrap().strip_suffix(" ok").unwrap();
    let x = "x".repeat(64);
    let expected = [
        "            records = 190 bytes".to_owned(),
        format!(
            "              batch at 37: offsets 5 to 6, 2 records, 190 bytes, format 2, none, crc {crc} ok"
        ),
        "                create time up to 1700000000001".to_owned(),
        "                offset 5  time 1700000000000  key \"k\"  value \"hello\"".to_owned(),
        format!(
            "                offset 6  time 1700000000001  key null  value \"{x}\"… (100 bytes)  \
             headers \"h\"=0xff, \"\u{fffd}\"=null"
        ),
    ];
    assert_eq!(shown, expected);
    let closed = frame(&["--no-records", &hex(&produce(1, &batch(Compression::None)))]).await.expect(0);
    assert!(closed.text().ends_with("records = 190 bytes\n"), "{closed:?}");

    for codec in Compression::ALL {
        let ended = frame(&["-J", &hex(&produce(1, &batch(codec)))]).await.expect(0);
        let records = &ended.json()["body"]["topic_data"][0]["partition_data"][0]["records"];
        let told = &records["batches"][0];
        assert_eq!(records["bytes"], told["size"], "{codec}");
        assert_eq!(
            (
                &told["compression"],
                &told["records"],
                &told["crc_ok"],
                &told["base_offset"],
                &told["last_offset"]
            ),
            (&json!(codec.name()), &json!(2), &json!(true), &json!(5), &json!(6))
        );
        let entries = json!([
            { "offset": 5, "ts": 1_700_000_000_000i64, "key": "k", "payload": "hello" },
            { "offset": 6, "ts": 1_700_000_000_001i64, "headers": ["h", "/w==", "6Q==", null], "key": null,
              "payload": "x".repeat(100) },
        ]);
        assert_eq!(told["entries"], entries, "{codec}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_told_behind_what_was_read_with_carets_under_its_bytes() {
    let mut wrong = produce(1, b"");
    wrong[33..37].copy_from_slice(&[0xff, 0xff, 0xff, 0xfe]);
    let ended = frame(&[&hex(&wrong)]).await.expect(1);
    let fault = "a length is negative (field topic_data[0].partition_data[0].records, byte 37)";
    let expected = format!(
        "        partition_data [1]
          [0]
            index = 0
  error: {fault}
        16  00 09 00 00 00 01 00 01 74 00 00 00 01 00 00 00  ........t.......
        32  00 ff ff ff fe                                   .....
               ^^^^^^^^^^^
"
    );
    assert!(ended.text().ends_with(&expected), "{}", ended.text());
    assert_eq!(ended.message(), format!("request Produce v3: {fault}"));
    // In JSON what was read stands there too, and the object is whole.
    let ended = frame(&["-J", &hex(&wrong)]).await.expect(1);
    let told = ended.json();
    assert_eq!(told["body"]["topic_data"][0]["partition_data"], json!([{ "index": 0 }]));
    let place = "topic_data[0].partition_data[0].records";
    assert_eq!(told["error"], json!({ "reason": "a length is negative", "field": place, "at": 37 }));
    // Wherever a frame is cut, the end is what is pointed at.
    let whole = produce(1, b"");
    for cut in [3, 9, 20, 36] {
        let text = frame(&[&hex(&whole[..cut])]).await.expect(1).text();
        assert!(text.contains("error: the frame ends too early"), "{text}");
        assert!(text.trim_end().ends_with('^'), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_record_data_fails_the_command_but_not_the_rest_of_the_frame() {
    let good = batch(Compression::None);
    let mut records = [&good[..], &good[..]].concat();
    // The checksum of the first one.
    records[17] ^= 1;
    let ended = frame(&[&hex(&produce(1, &records))]).await.expect(1);
    let text = ended.text();
    assert_eq!((text.matches(" WRONG").count(), text.matches(" ok").count()), (1, 1), "{text}");
    assert_eq!(text.matches("value \"hello\"").count(), 2, "{text}");
    assert!(ended.message().contains("is damaged: its checksum is"), "{ended:?}");
    assert!(ended.message().contains("byte 54"), "its place in the frame: {ended:?}");
    // A partial batch at the end is how brokers answer; nothing is wrong with it.
    let cut = frame(&[&hex(&produce(1, &[&good[..], &good[..99]].concat()))]).await.expect(0);
    assert!(cut.text().contains("partial batch at 227: 99 of 190 bytes"), "{cut:?}");
    let told = frame(&["-J", &hex(&produce(1, &records))]).await.expect(1).json();
    let batches = &told["body"]["topic_data"][0]["partition_data"][0]["records"]["batches"];
    assert_eq!((&batches[0]["crc_ok"], &batches[1]["crc_ok"]), (&json!(false), &json!(true)));
    assert!(batches[0]["errors"][0].as_str().unwrap().contains("checksum"), "{batches}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_needs_its_question() {
    let answer = hex(&produced(7));
    let by_name = frame(&["--api", "produce", "--version", "3", &answer]).await.expect(0).text();
    assert!(by_name.starts_with("response Produce v3, 41 bytes\n"), "{by_name}");
    assert!(by_name.contains("error_code = 3 (UNKNOWN_TOPIC_OR_PARTITION)\n"), "{by_name}");
    assert_eq!(frame(&["--api", "0", "--version", "3", &answer]).await.expect(0).text(), by_name);
    // A broker that refuses the version of ApiVersions answers in version 0.
    let refused =
        frame(&["--api", "apiversions", "--version", "4", "00000001 0023 00000000"]).await.expect(0);
    assert!(
        refused.text().starts_with("response ApiVersions v0, 10 bytes; the broker refuses"),
        "{refused:?}"
    );
}

async fn directions(requests: &Path, responses: &Path) -> Ended {
    let (requests, responses) = (requests.to_str().unwrap(), responses.to_str().unwrap());
    frame(&["-J", "--requests", requests, "--responses", responses]).await
}

/// Kind, API and correlation id of each frame that was printed.
fn told(ended: &Ended) -> Vec<(String, Value, i64)> {
    let frames = ended.lines().into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
    frames
        .map(|frame| {
            let id = frame["header"]["correlation_id"].as_i64().unwrap();
            (frame["kind"].as_str().unwrap().to_owned(), frame["api"].clone(), id)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_directions_are_paired_by_correlation_id() {
    let folder = tempfile::tempdir().unwrap();
    let (to, from) = (folder.path().join("to.bin"), folder.path().join("from.bin"));
    let requests = [produce(1, b""), produce(2, b""), produce(3, b"")];
    let responses = [produced(2), produced(1), produced(9)];
    std::fs::write(&to, framed(&requests)).unwrap();
    std::fs::write(&from, framed(&responses)).unwrap();
    let expected: Vec<(String, Value, i64)> = [
        ("request", json!("Produce"), 1),
        ("response", json!("Produce"), 1),
        ("request", json!("Produce"), 2),
        ("response", json!("Produce"), 2),
        ("request", json!("Produce"), 3),
        ("response", json!(null), 9),
    ]
    .map(|(kind, api, id)| (kind.to_owned(), api, id))
    .to_vec();
    assert_eq!(told(&directions(&to, &from).await.expect(0)), expected);

    // The same in folders of a frame a file, with and without lengths, and notes between them.
    let (to, from) = (folder.path().join("to"), folder.path().join("from"));
    for (folder, frames) in [(&to, &requests), (&from, &responses)] {
        std::fs::create_dir(folder).unwrap();
        std::fs::write(folder.join("README.md"), "not a frame").unwrap();
        for (number, frame) in frames.iter().enumerate() {
            let bytes = if number == 1 { framed(std::slice::from_ref(frame)) } else { frame.clone() };
            std::fs::write(folder.join(format!("{number:03}.bin")), bytes).unwrap();
        }
    }
    assert_eq!(told(&directions(&to, &from).await.expect(0)), expected);

    // Cut in the middle of a frame: what is there is told, and then the end.
    let cut = folder.path().join("cut.bin");
    let bytes = framed(&requests);
    std::fs::write(&cut, &bytes[..bytes.len() - 10]).unwrap();
    let ended = frame(&["--file", cut.to_str().unwrap()]).await.expect(1);
    assert_eq!(ended.text().matches("request Produce v3").count(), 3, "{ended:?}");
    assert!(ended.text().contains("the input ends after 27 of 37 bytes of a frame"), "{ended:?}");
    assert!(ended.message().starts_with("2 faults; the first: request Produce v3"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_is_shown_as_bytes_with_a_remark() {
    let newer = frame(&["0003 00ff 00000001 ffff 0102"]).await.expect(0).text();
    assert!(
        newer.starts_with("request Metadata v255, 12 bytes; this version is not known here\n"),
        "{newer}"
    );
    assert!(newer.ends_with("2 bytes that are not known here: 0x0102\n"), "{newer}");
    let token = frame(&[&hex(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")]).await.expect(0).text();
    assert!(token.contains("of an unknown API"), "{token}");
    assert!(token.contains("a raw SASL token looks like this"), "{token}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_consumers_tell_each_other_is_opened() {
    // SyncGroup v0: group "g", generation 1, member "m", one assignment: topic "t", partitions 0 and 1.
    let inner = "0000 00000001 0001 74 00000002 00000000 00000001 ffffffff";
    let sync = format!("000e 0000 00000001 ffff 0001 67 00000001 0001 6d 00000001 0001 6d 00000019 {inner}");
    let text = frame(&["--offsets", &sync]).await.expect(0).text();
    let told: Vec<(usize, &str)> = text
        .lines()
        .skip_while(|line| !line.contains("assignment ="))
        .map(|line| (line[..8].trim().parse().unwrap(), line[16..].trim()))
        .collect();
    let message = "ConsumerProtocolAssignment";
    let expected = [
        (31, "version = 0"),
        (33, message),
        (33, "assigned_partitions [1]"),
        (37, "[0]"),
        (37, "topic = \"t\""),
        (40, "partitions [2] = 0, 1"),
        (52, "user_data = null"),
    ];
    assert_eq!(told[1..], expected, "{text}");
    assert_eq!((told[0].0, told[0].1.starts_with("assignment = 25 bytes 0x0000")), (27, true), "{text}");
    // A group of another kind: its bytes stay bytes.
    let other = sync.replace("0000 00000001 0001 74", "0009 00000001 0001 74");
    assert!(!frame(&[&other]).await.expect(0).text().contains(message));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_call_is_2_and_bad_input_1() {
    let wrong: [&[&str]; 10] = [
        &[],
        &["00g0"],
        &["001"],
        &["00", "--api", "nonsense", "--version", "1"],
        &["00", "--api", "fetch"],
        &["00", "--version", "3"],
        &["00", "--api", "fetch", "--version", "99"],
        &["00", "--file", "x"],
        &["--file", "x", "--requests", "y"],
        &["--apis", "00"],
    ];
    for args in wrong {
        let ended = frame(args).await.expect(2);
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{args:?}: {ended:?}");
    }
    assert!(frame(&["--file", "/no/such/file"]).await.expect(1).message().starts_with("/no/such/file: "));
    let ended = run_with_input(&["frame", "-"], b"").await.expect(1);
    assert_eq!(ended.message(), "there is no frame in what was given");
    let apis = frame(&["--apis"]).await.expect(0).text();
    assert!(apis.lines().any(|line| line.split_whitespace().take(2).eq(["1", "Fetch"])), "{apis}");
    assert!(frame(&["--help"]).await.expect(0).text().contains("Examples:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_the_command_quietly() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("many.bin");
    let frames: Vec<Vec<u8>> = (0..20_000).map(|id| produce(id, b"")).collect();
    std::fs::write(&file, framed(&frames)).unwrap();
    let mut child = common::command(&["frame", "--file", file.to_str().unwrap()]).spawn().unwrap();
    drop(child.stdout.take());
    let ended = common::finish(child).await.expect(0);
    assert_eq!(ended.stderr, "");
}
