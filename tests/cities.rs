//! Real documents: the 171,075 places of `../shared/data/cities.jsonl.gz`, loaded from rows and
//! read back. Skipped, with a printed reason, where that file is not there.

mod support;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::read::GzDecoder;
use serde_json::Value;
use support::Cluster;

#[test]
fn real_documents_are_loaded_from_rows_and_read_back_equal() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/cities.jsonl.gz");
    let Ok(file) = File::open(&path) else {
        println!("skipped: {} is not there", path.display());
        return;
    };
    let mut rows = String::new();
    let mut expected = HashMap::new();
    for line in BufReader::new(GzDecoder::new(file)).lines() {
        let line = line.expect("the file is whole");
        let mut place: Value = serde_json::from_str(&line).expect("a JSON object a line");
        let key = place["key"].as_str().expect("a key").to_owned();
        let record = place["record"].take();
        rows.push_str(&format!("{key}|{record}\n"));
        assert!(expected.insert(key, record).is_none(), "keys are unique");
    }
    assert_eq!(expected.len(), 171_075);

    let cluster = Cluster::start_with(["--port", "0", "--shards", "3"]);
    let summary = cluster.feed(["write", "cities", "--force"], &rows).expect(0);
    assert_eq!(summary, "171075 written, 0 existing, 0 failed\n");
    let again = cluster.feed(["write", "cities"], &rows).expect(0);
    assert_eq!(again, "0 written, 171075 existing, 0 failed\n");

    // Once more from the disk: everything must come through a restart as well.
    let address = cluster.address.to_string();
    let data = cluster.stop().expect("the data are kept");
    let cluster = Cluster::start_on(&data.path().join("data"), []);
    assert_eq!(cluster.address.to_string(), address, "the ports are remembered");
    let mut position = -1.0;
    for line in cluster.run(["cat", "cities"]).expect(0).lines() {
        let (key, document) = line.split_once('|').expect("a row");
        let document: Value = serde_json::from_str(document).expect("JSON");
        assert_eq!(expected.remove(key).as_ref(), Some(&document["record"]), "{key}");
        let hash = document["hash_"].as_f64().expect("a position");
        assert!(hash >= position, "{key} is out of ring order");
        position = hash;
    }
    assert!(expected.is_empty(), "{} documents are missing", expected.len());
}
