//! Checkpoints as documents, and states of Flink jobs that a job goes on from.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails panics")]

mod common;

use common::{broker, lines, run, run_with_input, values};

/// Flink's split of in-0: next offset 4, no stop, behind its version and its length.
const SPLIT: &str = "00000000 00000018 0002696e 00000000 0000000000000004 8000000000000000";

// scenario: 5.4.18, 5.2.20
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_where_a_flink_job_stood() {
    let (_broker, b) = broker(&[("in", 2), ("out", 2)]).await;
    run_with_input(&["produce", "-b", &b, "-t", "in", "-p", "0"], &lines(0..10)).await.expect(0);
    run_with_input(&["produce", "-b", &b, "-t", "in", "-p", "1"], &lines(10..12)).await.expect(0);
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (dir, split, document) = (at("ckpt"), at("split.hex"), at("state.json"));
    std::fs::write(&split, SPLIT).unwrap();
    let import = ["state", "import", "--dir", &dir, "--job", "copy to out", "--flink-split", &split, "--hex"];
    let shown = run(&[&import[..], &["--dry-run"]].concat()).await.expect(0);
    assert!(shown.text().contains("waiting"), "{shown:?}");
    assert!(!std::path::Path::new(&dir).exists(), "a dry run writes nothing");
    run(&import).await.expect(0);
    let again = run(&import).await.expect(2);
    assert!(again.message().contains("--force"), "{again:?}");

    // The document of that checkpoint says the same.
    run(&["state", "export", &dir, "-o", &document]).await.expect(0);
    let text = std::fs::read_to_string(&document).unwrap();
    assert!(text.contains("\"offset\": 4"), "{text}");
    let other = at("other");
    let from_json = ["state", "import", "--dir", &other, "--job", "copy to out", "--json", &document];
    let shown = run(&[&from_json[..], &["--format", "json"]].concat()).await.expect(0).json();
    assert_eq!((shown["splits"][0]["offset"].as_i64(), shown["checkpoint"].as_i64()), (Some(4), Some(1)));

    // Partition 0 from offset 4, partition 1, which the state does not know, from its start.
    let copy = ["copy", "-b", &b, "--from", "in", "--to", "out", "--checkpoint-dir", &other, "--until-end"];
    run(&copy).await.expect(0);
    let mut copied = values(&b, "out").await;
    copied.sort();
    assert_eq!(copied, ["10", "11", "4", "5", "6", "7", "8", "9"]);
    let shown = run(&["state", "show", &other]).await.expect(0);
    assert!(shown.lines().iter().any(|line| line.starts_with("in     0          10")), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn states_that_cannot_be_read_are_refused_with_their_place() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let dir = home.path().join("ckpt").to_str().unwrap().to_owned();
    let latest = at("latest", "00000000 00000018 0002696e 00000000 ffffffffffffffff 8000000000000000");
    let cut = at("cut", "00000000 00000018 0002696e");
    let none = at("none", "zz");
    let json = at("json", "{\"splits\": [{\"topic\": \"t\", \"partition\": 0}]}");
    let base = ["state", "import", "--dir", &dir, "--hex"];
    for (options, code, part) in [
        (&["--flink-split", &latest][..], 1, "at the end"),
        (&["--flink-split", &cut], 1, "24 bytes expected"),
        (&["--flink-classic-source", &none], 1, "hexadecimal"),
        (&["--json", &json], 1, "either an offset or a start"),
        (&[], 2, "--json"),
    ] {
        let ended = run(&[&base[..], options].concat()).await.expect(code);
        assert!(ended.message().contains(part), "{part}: {ended:?}");
    }
    run(&[&base[..], &["--flink-split", &latest, "--latest", "earliest"]].concat()).await.expect(0);
    let ended = run(&["state", "show", home.path().to_str().unwrap()]).await.expect(1);
    assert!(ended.message().contains("no checkpoint"), "{ended:?}");
}
