//! What each action comes to, by example, and what is refused.
//!
//! Ranges are written in buckets, of which the ring has 1024: `a:0-512` is its lower half.

use sherd_protocol::range_map::MapFault;
use sherd_protocol::{
    HashMethod, OwnedRange, PlannedMove, Policy, RING_BUCKETS, ShardBytes, WireError, bucket_of,
    bucket_start,
};

use super::*;

const GB: u64 = 1_000_000_000;

pub(super) fn shard(name: &str, size: u64) -> ShardInfo {
    // Each of the names here has a port of its own.
    let port = name.bytes().map(u16::from).sum();
    ShardInfo { name: name.to_owned(), host: "h".to_owned(), port, size, policy: Policy::Reject }
}

/// A map of shards that have these sizes and these ranges.
fn map(shards: &[(&str, u64)], ranges: &str) -> RangeMap {
    let range = |text: &str| {
        let (shard, range) = text.split_once(':').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|bucket| bucket_start(bucket.parse().unwrap()));
        OwnedRange { start, end, shard: shard.to_owned() }
    };
    RangeMap {
        cluster: "c0ffee".to_owned(),
        epoch: 7,
        hash_method: HashMethod::Xxh3,
        shards: shards.iter().map(|&(name, size)| shard(name, size)).collect(),
        ranges: ranges.split_whitespace().map(range).collect(),
    }
}

/// Two shards of 1 GB with half of the ring each.
fn halves() -> RangeMap {
    map(&[("a", GB), ("b", GB)], "a:0-512 b:512-1024")
}

/// Documents of 100 bytes, so many in each bucket.
fn fill(documents: impl Fn(usize) -> u64) -> Fill {
    let amount = |bucket| Amount { documents: documents(bucket), bytes: 100 * documents(bucket) };
    Fill::new(&std::array::from_fn(amount))
}

/// 1,000 bytes in each bucket.
fn even() -> Fill {
    fill(|_| 10)
}

fn empty() -> Fill {
    fill(|_| 0)
}

fn range(start: usize, end: usize) -> Range {
    Range { start: bucket_start(start), end: bucket_start(end) }
}

fn shown(range: Range) -> String {
    let end = |position| {
        let bucket = bucket_of(position);
        let inside = if bucket_start(bucket) == position { "" } else { "+" };
        format!("{bucket}{inside}")
    };
    format!("{}-{}", end(range.start), end(range.end))
}

fn after(plan: &Plan) -> String {
    let ranges = plan.after.iter().map(|owned| format!("{}:{}", owned.shard, shown(owned.range())));
    ranges.collect::<Vec<_>>().join(" ")
}

fn moves(plan: &Plan) -> String {
    let moves = plan.moves.iter().map(|planned| {
        let PlannedMove { range, from, to, .. } = planned;
        format!("{from}>{to}:{}", shown(*range))
    });
    moves.collect::<Vec<_>>().join(" ")
}

/// The bytes of a shard before, at most, and after.
fn bytes(plan: &Plan, shard: &str) -> (u64, u64, u64) {
    let found = plan.bytes.iter().find(|bytes| bytes.shard == shard);
    let ShardBytes { before, peak, after, .. } = *found.unwrap();
    (before, peak, after)
}

fn add(name: &str) -> Action {
    Action::Add { shard: shard(name, GB) }
}

fn remove(name: &str) -> Action {
    Action::Remove { shard: name.to_owned() }
}

fn split(name: &str, at: Option<u32>) -> Action {
    Action::Split { shard: name.to_owned(), at }
}

fn merge(into: &str, from: &str) -> Action {
    Action::Merge { into: into.to_owned(), from: from.to_owned() }
}

fn give(range: Range, to: &str) -> Action {
    Action::Move { range, to: to.to_owned() }
}

fn refused(map: &RangeMap, fill: &Fill, actions: &[Action]) -> String {
    plan(map, fill, actions).unwrap_err().to_string()
}

#[test]
fn a_plan_says_what_it_is_of() {
    let actions = [add("c"), remove("b")];
    let plan = plan(&halves(), &even(), &actions).unwrap();
    assert_eq!((&*plan.cluster, plan.epoch, &*plan.actions), ("c0ffee", 7, &actions[..]));
    assert_eq!(plan.before, halves().ranges);
    assert_eq!(plan.shards_after, [shard("a", GB), shard("c", GB)]);
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    assert!(json.contains(r#""actions":[{"add":{"shard":{"name":"c","#), "{json}");
}

#[test]
fn no_action_is_no_move() {
    let plan = plan(&halves(), &even(), &[]).unwrap();
    assert_eq!((moves(&plan), plan.after), (String::new(), halves().ranges));
}

#[test]
fn a_new_shard_gets_its_share_from_the_ends_of_all() {
    let plan = plan(&halves(), &even(), &[add("c")]).unwrap();
    assert_eq!(after(&plan), "a:0-341 c:341-682 b:682-1024");
    assert_eq!(moves(&plan), "a>c:341-512 b>c:512-682");
    let amounts: Vec<_> = plan.moves.iter().map(|one| (one.documents, one.bytes)).collect();
    assert_eq!(amounts, [(1_710, 171_000), (1_700, 170_000)]);
    assert_eq!(bytes(&plan, "a"), (512_000, 512_000, 341_000));
    assert_eq!(bytes(&plan, "c"), (0, 341_000, 341_000));
    assert_eq!(plan.shards_after.last(), Some(&shard("c", GB)));
}

#[test]
fn pieces_of_neighbours_meet() {
    let shards = [("a", GB), ("b", GB), ("c", GB), ("d", GB)];
    let map = map(&shards, "a:0-256 b:256-512 c:512-768 d:768-1024");
    let plan = plan(&map, &even(), &[add("e")]).unwrap();
    assert_eq!(after(&plan), "a:0-205 e:205-307 b:307-512 c:512-716 e:716-819 d:819-1024");
}

#[test]
fn a_share_is_by_size() {
    let large = Action::Add { shard: shard("c", 2 * GB) };
    let plan = plan(&halves(), &even(), &[large]).unwrap();
    assert_eq!(after(&plan), "a:0-256 c:256-768 b:768-1024");
}

#[test]
fn where_nothing_is_stored_the_width_counts() {
    let first = plan(&halves(), &empty(), &[add("c")]).unwrap();
    assert_eq!(after(&first), "a:0-341 c:341-682 b:682-1024");
    // One document says little more, wherever it lies.
    let one = fill(|bucket| u64::from(bucket == 1));
    let second = plan(&halves(), &one, &[add("c")]).unwrap();
    assert_eq!(after(&second), "a:0-273 c:273-648 b:648-1024");
}

#[test]
fn those_with_most_give_to_a_new_shard() {
    let shards = [("a", GB), ("b", GB), ("c", GB)];
    // b has far too much, a and c a little more than a quarter.
    let map = map(&shards, "a:0-260 b:260-760 c:760-1024");
    let plan = plan(&map, &even(), &[add("d")]).unwrap();
    assert_eq!(after(&plan), "a:0-260 b:260-516 d:516-768 c:768-1024");
}

#[test]
fn a_small_shard_gets_its_small_share() {
    let map = map(&[("a", 100 * GB), ("b", 100 * GB)], "b:0-1 a:1-513 b:513-1024");
    let plan = plan(&map, &even(), &[add("c")]).unwrap();
    assert_eq!(after(&plan), "b:0-1 a:1-511 c:511-516 b:516-1024");
}

#[test]
fn a_heavy_bucket_is_shared() {
    let heavy = fill(|bucket| if bucket == 100 { 1_000_000 } else { 1 });
    let plan = plan(&halves(), &heavy, &[add("c")]).unwrap();
    assert_eq!(after(&plan), "a:0-100+ c:100+-512 b:512-1024");
    let (_, _, bytes) = bytes(&plan, "c");
    assert!(bytes.abs_diff(100_102_300 / 3) < 20_000, "{bytes}");
}

#[test]
fn a_new_shard_is_new_and_can_be_reached() {
    let with = |change: &dyn Fn(&mut ShardInfo)| {
        let mut info = shard("c", GB);
        change(&mut info);
        refused(&halves(), &even(), &[Action::Add { shard: info }])
    };
    let taken = shard("b", GB).port;
    let cases = [
        (
            with(&|info| info.name = "a".to_owned()),
            r#"shard "a": name: another shard has it; choose one that is new"#.to_owned(),
        ),
        (
            with(&|info| info.port = taken),
            format!(
                "shard \"c\": port: shard \"b\" has h:{taken} already; start the new one at another \
                 address"
            ),
        ),
        (
            with(&|info| info.name = String::new()),
            "a shard's name has 1 to 64 of the characters A-Z a-z 0-9 _ . -: \"\" is not one"
                .to_owned(),
        ),
        (with(&|info| info.host = String::new()), r#"shard "c": host: missing"#.to_owned()),
        (with(&|info| info.port = 0), r#"shard "c": port: 0 is not a port, 1 to 65535"#.to_owned()),
        (
            with(&|info| info.size = 0),
            r#"shard "c": size: a shard needs at least 1 byte"#.to_owned(),
        ),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
    // The process of one that is removed is still there while it gives its documents away.
    let again = refused(&halves(), &even(), &[remove("b"), add("b")]);
    assert!(again.starts_with(r#"shard "b": name: another shard has it"#), "{again}");
}

#[test]
fn a_shard_that_leaves_is_shared_out() {
    let map = map(&[("a", GB), ("b", GB), ("c", GB)], "a:0-300 b:300-640 c:640-1024");
    let plan = plan(&map, &even(), &[remove("b")]).unwrap();
    assert_eq!(after(&plan), "a:0-512 c:512-1024");
    assert_eq!(moves(&plan), "b>a:300-512 b>c:512-640");
    assert_eq!(plan.shards_after, [shard("a", GB), shard("c", GB)]);
    assert_eq!(bytes(&plan, "b"), (340_000, 340_000, 0));
}

#[test]
fn a_shard_that_leaves_gives_to_the_emptiest() {
    let shards = [("a", GB), ("b", GB), ("c", GB), ("d", GB)];
    let map = map(&shards, "a:0-340 b:340-600 c:600-940 d:940-1024");
    let plan = plan(&map, &even(), &[remove("b")]).unwrap();
    assert_eq!(after(&plan), "a:0-340 d:340-600 c:600-940 d:940-1024");
}

#[test]
fn a_shard_without_ranges_just_leaves() {
    let map = map(&[("a", GB), ("b", GB)], "a:0-1024");
    let plan = plan(&map, &even(), &[remove("b")]).unwrap();
    assert_eq!((moves(&plan), plan.shards_after), (String::new(), vec![shard("a", GB)]));
}

#[test]
fn the_last_shard_stays() {
    let last = refused(&halves(), &even(), &[remove("a"), remove("b")]);
    assert_eq!(last, r#"shard "b" is the last one and cannot be removed; add another one first"#);
}

#[test]
fn a_split_gives_the_upper_half_of_the_bytes_to_the_neediest() {
    let shards = [("a", GB), ("b", GB), ("c", 2 * GB)];
    let map = map(&shards, "a:0-512 b:512-768 c:768-1024");
    let low = fill(|bucket| if bucket < 200 { 30 } else { 10 });
    let first = plan(&map, &low, &[split("a", None)]).unwrap();
    assert_eq!(moves(&first), "a>c:152-512");
    let by_width = plan(&map, &empty(), &[split("a", None)]).unwrap();
    assert_eq!(moves(&by_width), "a>c:256-512");
    let there = plan(&map, &low, &[split("a", Some(123))]).unwrap();
    assert_eq!(there.moves[0].range, Range { start: 123, end: bucket_start(512) });
}

#[test]
fn of_several_ranges_the_fullest_is_split() {
    let map = map(&[("a", GB), ("b", GB)], "a:0-100 b:100-400 a:400-800 b:800-1024");
    let fullest = plan(&map, &even(), &[split("a", None)]).unwrap();
    assert_eq!(moves(&fullest), "a>b:600-800");
    let that = plan(&map, &even(), &[split("a", Some(bucket_start(50)))]).unwrap();
    assert_eq!(moves(&that), "a>b:50-100");
}

#[test]
fn a_split_needs_a_range_and_somebody_else() {
    let map = map(&[("a", GB), ("b", GB)], "a:0-1024");
    let at = |at| refused(&halves(), &even(), &[split("b", Some(at))]);
    let start = bucket_start(512);
    let not_inside = |at| {
        // As it was said: a fraction of the ring.
        let at = f64::from(at) / f64::from(RING_SIZE);
        format!(
            "{at} is not inside a range of shard \"b\", after the range's start; `sherd map` \
             shows its ranges"
        )
    };
    assert_eq!((at(0), at(start)), (not_inside(0), not_inside(start)));
    assert_eq!(at(RING_SIZE), not_inside(RING_SIZE));
    assert_eq!(
        refused(&map, &even(), &[split("b", None)]),
        r#"shard "b" has no range that could be split; move one to it first"#
    );
    assert_eq!(
        refused(&map, &even(), &[remove("b"), split("a", None)]),
        r#"there is no shard beside "a" that could take a part; add one first"#
    );
    let one = Range { start: 5, end: 6 };
    assert_eq!(
        refused(&map, &even(), &[give(one, "b"), split("b", None)]),
        r#"the range of shard "b" has only one position and cannot be split"#
    );
}

#[test]
fn a_merge_leaves_a_shard_without_ranges() {
    let map = map(&[("a", GB), ("b", GB)], "b:0-100 a:100-512 b:512-1024");
    let plan = plan(&map, &even(), &[merge("a", "b")]).unwrap();
    assert_eq!(after(&plan), "a:0-1024");
    assert_eq!(moves(&plan), "b>a:0-100 b>a:512-1024");
    assert_eq!(plan.shards_after, map.shards);
    assert_eq!(
        refused(&map, &even(), &[merge("a", "a")]),
        r#"shard "a" cannot be merged into itself; name two shards"#
    );
}

#[test]
fn a_range_moves_from_all_who_own_a_part() {
    let map = map(&[("a", GB), ("b", GB), ("c", GB)], "a:0-400 b:400-600 c:600-1024");
    let plan = plan(&map, &even(), &[give(range(300, 700), "b")]).unwrap();
    assert_eq!(after(&plan), "a:0-300 b:300-700 c:700-1024");
    assert_eq!(moves(&plan), "a>b:300-400 c>b:600-700");
    for (start, end) in [(5, 5), (6, 5), (0, RING_SIZE + 1)] {
        let range = Range { start, end };
        let error = refused(&map, &even(), &[give(range, "b")]);
        let expected = format!("{range} is no range: it ends after its start and at most at 1");
        assert_eq!(error, expected);
    }
}

#[test]
fn a_rebalance_evens_out_by_bytes_and_sizes() {
    let skewed = fill(|bucket| if bucket < 256 { 30 } else { 10 });
    let first = plan(&halves(), &skewed, &[Action::Rebalance]).unwrap();
    assert_eq!(after(&first), "a:0-256 b:256-1024");
    let sizes = map(&[("a", GB), ("b", 3 * GB)], "a:0-512 b:512-1024");
    let by_size = plan(&sizes, &even(), &[Action::Rebalance]).unwrap();
    assert_eq!(after(&by_size), "a:0-256 b:256-1024");
}

#[test]
fn a_rebalance_leaves_what_is_even_enough() {
    let even_enough = map(&[("a", GB), ("b", GB)], "a:0-532 b:532-1024");
    let rebalance = |map| after(&plan(map, &even(), &[Action::Rebalance]).unwrap());
    assert_eq!(rebalance(&even_enough), "a:0-532 b:532-1024");
    let uneven = map(&[("a", GB), ("b", GB)], "a:0-534 b:534-1024");
    assert_eq!(rebalance(&uneven), "a:0-512 b:512-1024");
}

#[test]
fn a_rebalance_moves_to_neighbours_first() {
    let shards = [("a", GB), ("b", GB), ("c", GB), ("d", GB)];
    let map = map(&shards, "a:0-190 b:190-508 c:508-832 d:832-1024");
    let plan = plan(&map, &even(), &[Action::Rebalance]).unwrap();
    assert_eq!(after(&plan), "a:0-252 b:252-508 c:508-768 d:768-1024");
}

#[test]
fn what_comes_back_does_not_move() {
    let there_and_back = [give(range(0, 100), "b"), give(range(0, 100), "a")];
    let plan = plan(&halves(), &even(), &there_and_back).unwrap();
    assert_eq!((moves(&plan), after(&plan)), (String::new(), "a:0-512 b:512-1024".to_owned()));
}

#[test]
fn what_goes_on_moves_once() {
    let map = map(&[("a", GB), ("b", GB), ("c", GB)], "a:0-500 b:500-700 c:700-1024");
    let plan = plan(&map, &even(), &[merge("b", "a"), merge("c", "b")]).unwrap();
    assert_eq!(moves(&plan), "a>c:0-500 b>c:500-700");
    assert_eq!(bytes(&plan, "b"), (200_000, 200_000, 0));
    assert_eq!(bytes(&plan, "c"), (324_000, 1_024_000, 1_024_000));
}

#[test]
fn strangers_and_those_who_left_are_named() {
    for action in [remove("x"), split("x", None), merge("x", "a"), merge("a", "x")] {
        let error = refused(&halves(), &even(), &[action]);
        assert_eq!(error, r#"there is no shard "x"; `sherd map` names them"#);
    }
    let gone = refused(&halves(), &even(), &[remove("b"), give(range(0, 1), "b")]);
    assert_eq!(gone, r#"shard "b" is gone by then: an action before this one removes it"#);
    let wire = WireError::from(plan(&halves(), &even(), &[remove("x")]).unwrap_err());
    let expected = r#"bad request: actions: there is no shard "x"; `sherd map` names them"#;
    assert_eq!(wire.to_string(), expected);
}

#[test]
fn a_damaged_map_is_not_planned_on() {
    let damaged = map(&[("a", GB)], "a:0-512");
    let end = bucket_start(512);
    let error = plan(&damaged, &even(), &[]).unwrap_err();
    assert_eq!(error, PlanError::Map(MapFault::NotCovering { end }));
}

#[test]
fn nobody_gets_more_than_its_size() {
    let map = map(&[("a", GB), ("b", 800_000)], "a:0-512 b:512-1024");
    assert_eq!(
        refused(&map, &even(), &[merge("b", "a")]),
        "shard \"b\" would hold 1024000 bytes, more than its size, 800000; raise it with `sherd shard \
         set`, or add a shard"
    );
    let removed = refused(&map, &even(), &[remove("a")]);
    assert!(removed.starts_with(r#"shard "b" would hold 1024000 bytes"#), "{removed}");
    // Giving is always allowed, and so is getting what is empty.
    let full = self::map(&[("a", GB), ("b", 1)], "a:0-512 b:512-1024");
    assert_eq!(moves(&plan(&full, &even(), &[merge("a", "b")]).unwrap()), "b>a:512-1024");
    let upper = fill(|bucket| if bucket < 512 { 0 } else { 10 });
    assert_eq!(moves(&plan(&full, &upper, &[merge("b", "a")]).unwrap()), "a>b:0-512");
}

#[test]
fn pieces_are_cut_to_the_room_there_is() {
    // The nearest to their shares would be 512 buckets for each: a has no room for them, and then b
    // has none for 513.
    let shards = [("a", 511_600), ("b", 512_500), ("c", GB)];
    let map = map(&shards, "a:0-341 c:341-682 b:682-1024");
    let plan = plan(&map, &even(), &[remove("c")]).unwrap();
    assert_eq!(after(&plan), "a:0-511+ b:511+-1024");
}

#[test]
fn moves_wait_for_room() {
    // a's lower half goes to b, which is full until it has given its own to c.
    let shards = [("a", GB), ("b", 512_000), ("c", GB)];
    let map = map(&shards, "a:0-512 b:512-1024");
    let actions = [give(range(0, 256), "b"), give(range(512, 1024), "c")];
    let first = plan(&map, &even(), &actions).unwrap();
    assert_eq!(moves(&first), "b>c:512-1024 a>b:0-256");
    assert_eq!(bytes(&first, "b"), (512_000, 512_000, 256_000));
    // Two that are full cannot exchange anything.
    let full = self::map(&[("a", 512_000), ("b", 512_000)], "a:0-512 b:512-1024");
    let exchange = [give(range(0, 256), "b"), give(range(768, 1024), "a")];
    assert_eq!(
        refused(&full, &even(), &exchange),
        "shard \"b\" would hold 768000 bytes before it has given its own away, more than its size, \
         512000; raise it until the moves are done, or plan fewer actions at once"
    );
}

#[test]
fn sizes_without_a_limit_are_shared_by() {
    let shards = [("a", u64::MAX), ("b", u64::MAX), ("c", u64::MAX)];
    let full =
        Fill::new(&[Amount { documents: u64::MAX / 2000, bytes: u64::MAX / 1100 }; RING_BUCKETS]);
    let plan = plan(&map(&shards, "a:0-1024"), &full, &[Action::Rebalance]).unwrap();
    assert_eq!(after(&plan).split(' ').count(), 3);
}
