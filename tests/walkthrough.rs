//! The walk-through of the README, which is Pyshard's, against a real cluster.

mod support;

use std::process::Command;

use support::{Cluster, run};

const ROWS: &str = "1|test\n2|{\"test\": \"test\"}\n3|42\n4|0.9\n";

const CAT: &str = r#"4|{"hash_": 0.0900864, "record": 0.9}
3|{"hash_": 0.7360256, "record": 42}
2|{"hash_": 0.7673856, "record": {"test": "test"}}
1|{"hash_": 0.8541952, "record": "test"}
"#;

#[test]
fn rows_written_with_force_are_printed_in_ring_order() {
    let cluster = Cluster::start();
    // printf '1|test\n…' > test_write.txt; cat test_write.txt | sherd write test_index --force
    cluster.feed(["write", "test_index"], ROWS).expect(3);
    let summary = cluster.feed(["write", "test_index", "--force"], ROWS).expect(0);
    assert_eq!(summary, "4 written, 0 existing, 0 failed\n");
    assert_eq!(cluster.run(["cat", "test_index"]).expect(0), CAT);
    assert_eq!(cluster.run(["keys", "test_index"]).expect(0), "4\n3\n2\n1\n");

    // Again, and nothing changes: existing keys are left as they are, and counted.
    let again = cluster.feed(["write", "test_index", "--force"], ROWS.replace("42", "43"));
    assert_eq!(again.expect(0), "0 written, 4 existing, 0 failed\n");
    assert_eq!(cluster.run(["cat", "test_index"]).expect(0), CAT);

    // After a restart of everything it is all there.
    let data = cluster.data().to_owned();
    let _keep = cluster.stop();
    let cluster = Cluster::start_on(&data, []);
    assert_eq!(cluster.run(["cat", "test_index"]).expect(0), CAT);
}

#[test]
fn hello_world_is_read_back_and_what_was_popped_is_gone() {
    let cluster = Cluster::start();
    cluster.run(["index", "create", "test_index"]).expect(0);
    cluster.run(["write", "test_index", "test", "hello world"]).expect(0);
    let hello = "{\"hash_\": 0.1671936, \"record\": \"hello world\"}\n";
    assert_eq!(cluster.run(["read", "test_index", "test"]).expect(0), hello);

    cluster.run(["write", "test_index", "test1", r#"{"hello": "world"}"#]).expect(0);
    let world = "{\"hash_\": 0.8204544, \"record\": {\"hello\": \"world\"}}\n";
    assert_eq!(cluster.run(["read", "test_index", "test1"]).expect(0), world);
    assert_eq!(cluster.run(["pop", "test_index", "test1"]).expect(0), world);

    let gone = cluster.run(["read", "test_index", "test1"]);
    assert!(gone.stderr.contains("\"test1\""), "{gone:?}");
    assert_eq!(gone.expect(3), "");
    cluster.run(["pop", "test_index", "test1"]).expect(3);
    assert_eq!(cluster.run(["read", "test_index", "test"]).expect(0), hello);
}

/// The commands of the README's walk through and what it says they print, as one text.
fn readme() -> String {
    let readme = include_str!("../README.md");
    let blocks = readme.split("```console\n").skip(1);
    blocks.filter_map(|block| block.split("```").next()).collect()
}

/// What differs from run to run, made the same: process ids, ports, and the widths of columns.
fn normalized(text: &str) -> Vec<String> {
    let word = |word: &str| match word.rsplit_once(':') {
        Some(("127.0.0.1", _)) => "ADDRESS".to_owned(),
        _ if word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_digit()) => "PID".to_owned(),
        _ => word.to_owned(),
    };
    let line = |line: &str| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect()
}

#[test]
fn the_readme_says_what_its_commands_print() {
    let readme = readme();
    let cluster = Cluster::start();
    let mut script = String::from("status=0\n");
    for command in readme.lines().filter_map(|line| line.strip_prefix("$ ")) {
        let quoted = command.replace('\'', r"'\''");
        // Each command sees the status of the one before, for `echo $?`.
        script += &format!("printf '$ %s\\n' '{quoted}'; (exit $status)\n{command}\nstatus=$?\n");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut path =
        std::path::Path::new(env!("CARGO_BIN_EXE_sherd")).parent().unwrap().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec 2>&1\n{script}")]).current_dir(dir.path());
    shell.env("PATH", path).env("SHERD_BOOTSTRAP", cluster.address.to_string());
    shell.env_remove("SHERD_TOKEN").env_remove("SHERD_LOG");
    assert_eq!(normalized(&run(&mut shell, "").stdout), normalized(&readme));
}
