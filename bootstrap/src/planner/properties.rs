//! What holds of every plan, on random maps, fills and actions.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use sherd_protocol::{HashMethod, OwnedRange, RING_BUCKETS, bucket_start};
use twox_hash::XxHash3_64;

use super::tests::shard;
use super::*;

/// Sizes are multiples of this: room enough for all that is stored here, unless a test wants less.
const ROOMY: u64 = 1 << 56;

/// Up to eight shards with random sizes, each with any number of ranges, or none.
fn any_map() -> impl Strategy<Value = RangeMap> {
    map_of(1)
}

/// The same, with so many shards at least.
fn map_of(at_least: usize) -> impl Strategy<Value = RangeMap> {
    let cut = prop_oneof![
        (1..RING_BUCKETS).prop_map(bucket_start),
        1..RING_SIZE,
        // Narrow ranges.
        5_000_000..5_000_010u32,
    ];
    (vec(1..=8u64, at_least..=8), btree_set(cut, 0..20), vec(any::<prop::sample::Index>(), 20))
        .prop_map(|(sizes, cuts, owners)| {
            let sizes: Vec<_> = sizes.into_iter().map(|size| size * ROOMY).collect();
            let ends: Vec<_> = cuts.into_iter().chain([RING_SIZE]).collect();
            let owners: Vec<_> = owners.iter().map(|owner| owner.index(sizes.len())).collect();
            map(&sizes, &ends, &owners)
        })
}

/// As many shards of one size, each with as much of the ring.
fn even_map(shards: usize) -> RangeMap {
    let ends: Vec<_> = (1..=shards).map(|i| (RING_SIZE as usize * i / shards) as u32).collect();
    map(&vec![ROOMY; shards], &ends, &(0..shards).collect::<Vec<_>>())
}

/// Shards of these sizes, and ranges with these ends and owners.
fn map(sizes: &[u64], ends: &[u32], owners: &[usize]) -> RangeMap {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let ranges = starts.zip(ends).zip(owners);
    RangeMap {
        cluster: "c0ffee".to_owned(),
        epoch: 1,
        hash_method: HashMethod::Xxh3,
        shards: sizes.iter().enumerate().map(|(i, &size)| shard(&name(i), size)).collect(),
        ranges: ranges
            .map(|((start, &end), &owner)| OwnedRange { start, end, shard: name(owner) })
            .collect(),
    }
}

fn name(shard: usize) -> String {
    format!("s{shard}")
}

/// How the ring is filled.
#[derive(Clone, Debug)]
enum Filling {
    Empty,
    /// A few documents: their buckets and bytes.
    Few(Vec<(usize, u64)>),
    /// As a good hash does it with many documents.
    Even {
        seed: u64,
    },
    /// More and more around the ring.
    Growing {
        power: u32,
        bytes: u64,
    },
    /// All in one bucket.
    Heap {
        bucket: usize,
        bytes: u64,
    },
}

impl Filling {
    fn bytes(&self, bucket: usize) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Few(documents) => {
                let here = documents.iter().filter(|(place, _)| *place == bucket);
                here.map(|(_, bytes)| bytes).sum()
            }
            Self::Even { seed } => {
                let drawn = XxHash3_64::oneshot_with_seed(*seed, &bucket.to_le_bytes());
                100 * (500 + drawn % 100)
            }
            Self::Growing { power, bytes } => bytes * (bucket as u64).pow(*power),
            Self::Heap { bucket: place, bytes } => bytes * u64::from(*place == bucket),
        }
    }

    fn fill(&self) -> Fill {
        let amount = |bytes: u64| Amount { documents: bytes / 100, bytes };
        Fill::new(&std::array::from_fn(|bucket| amount(self.bytes(bucket))))
    }
}

fn any_filling() -> impl Strategy<Value = Filling> {
    prop_oneof![
        Just(Filling::Empty),
        vec((0..RING_BUCKETS, 1..100u64), 1..20).prop_map(Filling::Few),
        evenly(),
        (1..5u32, 1..100u64).prop_map(|(power, bytes)| Filling::Growing { power, bytes }),
        (0..RING_BUCKETS, 1..1u64 << 38)
            .prop_map(|(bucket, bytes)| Filling::Heap { bucket, bytes }),
    ]
}

fn evenly() -> impl Strategy<Value = Filling> {
    any::<u64>().prop_map(|seed| Filling::Even { seed })
}

/// One action for shards `s0`, `s1`, …; some name one that is not there.
fn any_action() -> impl Strategy<Value = Action> {
    let range = (0..RING_SIZE, 0..=RING_SIZE)
        .prop_map(|(one, other)| Range { start: one.min(other), end: one.max(other) });
    prop_oneof![
        5 => any_action_but_a_move(),
        1 => (range, any_name()).prop_map(|(range, to)| Action::Move { range, to }),
    ]
}

fn any_action_but_a_move() -> impl Strategy<Value = Action> {
    prop_oneof![
        new_shard().prop_map(|shard| Action::Add { shard }),
        any_name().prop_map(|shard| Action::Remove { shard }),
        (any_name(), prop::option::of(0..RING_SIZE))
            .prop_map(|(shard, at)| Action::Split { shard, at }),
        (any_name(), any_name()).prop_map(|(into, from)| Action::Merge { into, from }),
        Just(Action::Rebalance),
    ]
}

fn any_name() -> impl Strategy<Value = String> {
    (0..8usize).prop_map(name)
}

fn new_shard() -> impl Strategy<Value = ShardInfo> {
    (8..12usize, 1..=8u64).prop_map(|(shard, size)| self::shard(&name(shard), size * ROOMY))
}

/// The actions of these that can be done, one after the other, and the plan of them.
fn plan_what_can_be(map: &RangeMap, fill: &Fill, actions: &[Action]) -> Plan {
    let mut done = Vec::new();
    for action in actions {
        done.push(action.clone());
        if plan(map, fill, &done).is_err() {
            done.pop();
        }
    }
    plan(map, fill, &done).unwrap()
}

/// The map after a plan.
fn next_map(map: &RangeMap, plan: &Plan) -> RangeMap {
    let (shards, ranges) = (plan.shards_after.clone(), plan.after.clone());
    RangeMap { epoch: plan.epoch + 1, shards, ranges, ..map.clone() }
}

fn one(map: &RangeMap, fill: &Fill, action: Action) -> Plan {
    plan(map, fill, &[action]).unwrap()
}

/// Carries out the moves one after the other, on runs of positions with one owner.
fn carried_out(plan: &Plan) -> Vec<OwnedRange> {
    let mut owned = plan.before.clone();
    for planned in &plan.moves {
        let Range { start, end } = planned.range;
        let mut next = Vec::new();
        for old in owned {
            let part = |start: u32, end: u32, shard: &String| {
                (start < end).then(|| OwnedRange { start, end, shard: shard.clone() })
            };
            let (low, high) = (old.start.max(start), old.end.min(end));
            assert!(low >= high || old.shard == planned.from, "{planned:?} of {old:?}");
            next.extend(part(old.start, old.end.min(start), &old.shard));
            next.extend(part(low, high, &planned.to));
            next.extend(part(old.start.max(end), old.end, &old.shard));
        }
        owned = next;
    }
    joined(owned)
}

/// Ranges of one owner that meet as one.
fn joined(owned: Vec<OwnedRange>) -> Vec<OwnedRange> {
    let mut joined: Vec<OwnedRange> = Vec::new();
    for next in owned {
        match joined.last_mut() {
            Some(last) if last.shard == next.shard => last.end = next.end,
            _ => joined.push(next),
        }
    }
    joined
}

/// By how much of everything each shard is off its share, and the bytes moved as such a part: with
/// floating point, and so not as the planner reckons.
fn off_shares(map: &RangeMap, fill: &Fill) -> Vec<f64> {
    let weight = |range: Range| fill.weight(range) as f64;
    let total = weight(Range::FULL);
    let sizes: f64 = map.shards.iter().map(|shard| shard.size as f64).sum();
    let off = |shard: &ShardInfo| {
        let held: f64 = map.ranges_of(&shard.name).into_iter().map(weight).sum();
        held / total - shard.size as f64 / sizes
    };
    map.shards.iter().map(off).collect()
}

fn moved(plan: &Plan, fill: &Fill) -> f64 {
    let weight: u128 = plan.moves.iter().map(|planned| fill.weight(planned.range)).sum();
    weight as f64 / fill.total_weight() as f64
}

proptest! {
    #[test]
    fn a_plan_does_what_it_says(
        map in any_map(),
        filling in any_filling(),
        actions in vec(any_action(), 0..5),
    ) {
        let fill = filling.fill();
        let plan = plan_what_can_be(&map, &fill, &actions);
        prop_assert_eq!(next_map(&map, &plan).check(), Ok(()));
        prop_assert_eq!(&plan.before, &map.ranges);
        prop_assert_eq!(carried_out(&plan), &plan.after[..]);
        prop_assert_eq!(joined(plan.after.clone()), &plan.after[..]);
        // No position moves twice, and none to where it is.
        let mut ranges: Vec<_> = plan.moves.iter().map(|planned| planned.range).collect();
        ranges.sort();
        prop_assert!(ranges.iter().all(|range| range.width() > 0));
        prop_assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
        prop_assert!(plan.moves.iter().all(|planned| planned.from != planned.to));
        prop_assert_eq!(super::plan(&map, &fill, &plan.actions), Ok(plan));
    }

    #[test]
    fn what_is_said_of_bytes_adds_up(
        map in any_map(),
        filling in any_filling(),
        actions in vec(any_action(), 0..5),
    ) {
        let fill = filling.fill();
        let plan = plan_what_can_be(&map, &fill, &actions);
        let held = |ranges: &[OwnedRange], shard: &str| -> u64 {
            let own = ranges.iter().filter(|owned| owned.shard == shard);
            own.map(|owned| fill.amount(owned.range()).bytes).sum()
        };
        for bytes in &plan.bytes {
            prop_assert_eq!(bytes.before, held(&plan.before, &bytes.shard));
            prop_assert_eq!(bytes.after, held(&plan.after, &bytes.shard));
            let got = plan.moves.iter().filter(|planned| planned.to == bytes.shard);
            let got: u64 = got.map(|planned| planned.bytes).sum();
            prop_assert!(bytes.peak >= bytes.before.max(bytes.after));
            prop_assert!(bytes.peak <= bytes.before + got);
        }
    }

    #[test]
    fn nobody_is_filled_above_its_size(
        mut map in any_map(),
        filling in any_filling(),
        actions in vec(any_action(), 0..5),
        percent in vec(50..300u64, 8),
    ) {
        let fill = filling.fill();
        // Sizes around what is stored.
        let fair = fill.amount(Range::FULL).bytes / map.shards.len() as u64;
        for (shard, percent) in map.shards.iter_mut().zip(percent) {
            shard.size = (fair / 100 * percent).max(1);
        }
        let plan = plan_what_can_be(&map, &fill, &actions);
        for bytes in &plan.bytes {
            let size = map.shard(&bytes.shard).map_or(u64::MAX, |shard| shard.size);
            prop_assert!(bytes.peak <= size.max(bytes.before), "{:?} of {}", bytes, size);
        }
    }

    #[test]
    fn one_action_adds_no_more_ranges_than_moves(
        map in any_map(),
        filling in any_filling(),
        // Only a move may take the middle of a range, on demand.
        action in any_action_but_a_move(),
    ) {
        let fill = filling.fill();
        let plan = plan_what_can_be(&map, &fill, &[action]);
        prop_assert!(plan.after.len() <= joined(plan.before).len() + plan.moves.len());
    }

    #[test]
    fn a_removal_moves_only_what_the_shard_has(
        map in map_of(2),
        filling in any_filling(),
        leaving in 0..8usize,
    ) {
        let fill = filling.fill();
        let leaving = name(leaving % map.shards.len());
        let plan = one(&map, &fill, Action::Remove { shard: leaving.clone() });
        prop_assert!(plan.moves.iter().all(|planned| planned.from == leaving));
        prop_assert!(plan.after.iter().all(|owned| owned.shard != leaving));
        prop_assert!(plan.shards_after.iter().all(|shard| shard.name != leaving));
        prop_assert_eq!(plan.shards_after.len() + 1, map.shards.len());
        // Nobody is brought further above its share than it was, or than may be rounded.
        let before = RangeMap { shards: plan.shards_after.clone(), ..map.clone() };
        let before = off_shares(&before, &fill);
        let after = off_shares(&next_map(&map, &plan), &fill);
        for (before, after) in before.into_iter().zip(after) {
            prop_assert!(after <= before.max(0.021) + 1e-9, "{} after {}", after, before);
        }
    }

    #[test]
    fn a_new_shard_takes_its_share_from_those_who_have_more(
        map in any_map(),
        filling in any_filling(),
        shard in new_shard(),
    ) {
        let fill = filling.fill();
        let plan = one(&map, &fill, Action::Add { shard: shard.clone() });
        prop_assert!(plan.moves.iter().all(|planned| planned.to == shard.name));
        let after = off_shares(&next_map(&map, &plan), &fill);
        let new = after.last().unwrap();
        prop_assert!(new.abs() < 0.02, "{}", new);
        // Those who have less than their share then give nothing.
        let before = RangeMap { shards: plan.shards_after.clone(), ..map.clone() };
        for (shard, before) in before.shards.iter().zip(off_shares(&before, &fill)) {
            let gives = plan.moves.iter().any(|planned| planned.from == shard.name);
            prop_assert!(!gives || before > 0.0, "{} with {}", shard.name, before);
        }
    }

    #[test]
    fn a_shard_beside_equals_gets_one_part_of_all(
        shards in 1..=8usize,
        filling in evenly(),
    ) {
        let fill = filling.fill();
        let plan = one(&even_map(shards), &fill, Action::Add { shard: shard("new", ROOMY) });
        let moved: u64 = plan.moves.iter().map(|planned| planned.documents).sum();
        let part = moved as f64 / fill.amount(Range::FULL).documents as f64;
        let fair = 1.0 / (shards + 1) as f64;
        prop_assert!((fair - 0.02..=fair + 0.02).contains(&part), "{} of {}", part, fair);
        // A piece of each at most, two of which meet.
        prop_assert!(plan.moves.len() <= shards);
        let ranges = plan.after.iter().filter(|owned| owned.shard == "new").count();
        prop_assert!(ranges <= shards.div_ceil(2), "{} ranges", ranges);
    }

    #[test]
    fn after_a_rebalance_all_are_even(map in any_map(), filling in any_filling()) {
        let fill = filling.fill();
        let plan = one(&map, &fill, Action::Rebalance);
        let after = next_map(&map, &plan);
        for (shard, off) in after.shards.iter().zip(off_shares(&after, &fill)) {
            prop_assert!(off.abs() < 0.0201, "{} is off by {}", shard.name, off);
        }
        let again = one(&after, &fill, Action::Rebalance);
        prop_assert_eq!(again.moves, []);
        // No more than was too much, but for what the cuts are off.
        let too_much: f64 = off_shares(&map, &fill).into_iter().filter(|off| *off > 0.0).sum();
        let rounded = 0.02 * plan.moves.len() as f64;
        prop_assert!(moved(&plan, &fill) <= too_much + rounded);
    }

    #[test]
    fn an_even_map_is_left_alone(shards in 1..=8usize, filling in evenly()) {
        let fill = filling.fill();
        let plan = one(&even_map(shards), &fill, Action::Rebalance);
        prop_assert_eq!(plan.moves, []);
    }
}
