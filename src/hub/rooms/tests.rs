use super::*;
use crate::hub::selection::ManySockets;
use crate::shrink::is_shrunk;

fn id(n: u8) -> SocketId {
    SocketId::new([n; 15])
}

fn rooms() -> Rooms<u8> {
    let mut rooms = Rooms::default();
    for n in 0..4 {
        rooms.insert(id(n), n);
    }
    for n in 0..2 {
        rooms.join(id(n), "low", 100, None);
    }
    for n in 1..3 {
        rooms.join(id(n), "middle", 100, None);
    }
    rooms
}

fn select(rooms: &mut Rooms<u8>, to: &[&str], except: &[&str]) -> Vec<u8> {
    let target = Target {
        rooms: to.iter().map(|name| Arc::from(*name)).collect(),
        except: except.iter().map(|name| Arc::from(*name)).collect(),
    };
    let mut selected: Vec<_> = rooms.select(&target).iter().copied().collect();
    selected.sort_unstable();
    selected
}

#[test]
fn a_union_holds_each_socket_once() {
    let mut rooms = rooms();
    assert_eq!(select(&mut rooms, &["low", "middle"], &[]), [0, 1, 2]);
    assert_eq!(select(&mut rooms, &[], &[]), [0, 1, 2, 3]);
    assert_eq!(select(&mut rooms, &["low"], &[]), [0, 1]);
    assert_eq!(select(&mut rooms, &["nobody"], &[]), [0; 0]);
}

#[test]
fn exceptions_may_be_rooms_or_sockets() {
    let mut rooms = rooms();
    let own = id(0);
    let own = own.as_str();
    assert_eq!(select(&mut rooms, &[], &[own]), [1, 2, 3]);
    assert_eq!(select(&mut rooms, &["low"], &[own]), [1]);
    assert_eq!(select(&mut rooms, &["middle"], &[own]), [1, 2]);
    assert_eq!(select(&mut rooms, &["low"], &["middle"]), [0]);
    assert_eq!(select(&mut rooms, &[], &["middle", own]), [3]);
}

#[test]
fn each_socket_has_a_room_of_its_id() {
    let mut rooms = rooms();
    let own = id(3);
    assert_eq!(select(&mut rooms, &[own.as_str()], &[]), [3]);
    assert_eq!(select(&mut rooms, &[own.as_str(), "low"], &[]), [0, 1, 3]);
    assert_eq!(select(&mut rooms, &[own.as_str()], &[own.as_str()]), [0; 0]);
}

#[test]
fn a_selection_has_the_recipients_of_its_target() {
    let mut rooms = rooms();
    for n in 0..4 {
        rooms.join(id(n), "all", 100, None);
    }
    // Another socket's own room, as a protocol extension may use it.
    rooms.join(id(1), id(3).as_str(), 100, None);
    let names = ["low", "middle", "all", "nobody"].map(Arc::from);
    let names: Vec<Arc<str>> = [id(0), id(3)]
        .iter()
        .map(|id| Arc::from(id.as_str()))
        .chain(names)
        .collect();
    let subset = |bits: usize| {
        let is_in = |(at, name): (usize, &Arc<str>)| (bits >> at & 1 == 1).then(|| name.clone());
        names.iter().enumerate().filter_map(is_in).collect()
    };
    for bits in 0..1 << (2 * names.len()) {
        let target = Target {
            rooms: subset(bits),
            except: subset(bits >> names.len()),
        };
        let mut selected: Vec<_> = rooms.select(&target).iter().copied().collect();
        selected.sort_unstable();
        let recipients = (0..4).filter(|n| rooms.is_recipient(&id(*n), &target));
        assert!(
            recipients.eq(selected.iter().copied()),
            "{target:?}: {selected:?}"
        );
    }
}

/// Creates `count` sockets that are in no room.
fn crowd(count: u32) -> Rooms<u32> {
    let mut rooms = Rooms::default();
    for n in 0..count {
        rooms.insert(number(n), n);
    }
    rooms
}

fn number(n: u32) -> SocketId {
    let mut bytes = [0; 15];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    SocketId::new(bytes)
}

fn everybody(rooms: &mut Rooms<u32>) -> Chunks<u32> {
    match rooms.select(&Target::default()) {
        Selection::Shared(chunks, None) => chunks,
        other => panic!("{other:?}"),
    }
}

#[test]
fn lists_follow_every_change() {
    let mut rooms = crowd(0);
    let mut here = Vec::new();
    let mut chance = crate::protocol::tests::Chance::new(7);
    for n in 0..2_000 {
        if chance.below(5) < 3 {
            rooms.insert(number(n), n);
            here.push(n);
        } else if !here.is_empty() {
            let gone = here.swap_remove(chance.below(here.len()));
            rooms.leave(&number(gone), None);
        }
        let chunks = everybody(&mut rooms);
        let (last, full) = chunks
            .split_last()
            .map_or((0, &[][..]), |(l, f)| (l.len(), f));
        assert!(
            full.iter().all(|chunk| chunk.len() == CHUNK) && (1..=CHUNK).contains(&last)
                || here.is_empty()
        );
        assert!(chunks.iter().flat_map(|chunk| chunk.iter()).eq(&here));
    }
}

#[test]
fn a_change_leaves_other_lists_as_they_are() {
    let mut rooms = crowd(5 * CHUNK as u32);
    let before = everybody(&mut rooms);
    rooms.leave(&number(CHUNK as u32), None);
    let after = everybody(&mut rooms);
    let same: Vec<_> = before
        .iter()
        .zip(after.iter())
        .map(|(a, b)| Arc::ptr_eq(a, b))
        .collect();
    assert_eq!(same, [true, false, true, true, false]);
    rooms.insert(number(1_000_000), 0);
    let again = everybody(&mut rooms);
    let same: Vec<_> = after
        .iter()
        .zip(again.iter())
        .map(|(a, b)| Arc::ptr_eq(a, b))
        .collect();
    assert_eq!(same, [true, true, true, true, false]);
    assert!(Arc::ptr_eq(&again, &everybody(&mut rooms)));
}

#[test]
fn large_selections_become_chunks_and_small_ones_do_not() {
    for count in [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
        let all: Vec<_> = (0..count as u32).collect();
        let mut shared = crowd(count as u32);
        let own = [Arc::from(number(0).as_str())];
        let but_one = Target {
            rooms: Vec::new(),
            except: own.to_vec(),
        };
        for (selection, expected) in [
            (Selection::Owned(all.clone(), None), &all[..]),
            (shared.select(&Target::default()), &all[..]),
            (shared.select(&but_one), all.get(1..).unwrap_or_default()),
        ] {
            assert!(selection.iter().eq(expected));
            match selection.into_chunks() {
                Err(few) => assert!(count <= CHUNK && few.iter().eq(expected)),
                Ok(ManySockets { chunks, skip, .. }) => {
                    assert!(
                        count > CHUNK
                            && chunks[..chunks.len() - 1]
                                .iter()
                                .all(|chunk| chunk.len() == CHUNK)
                    );
                    assert_eq!(skip.is_some(), expected.len() < count);
                    let again = Selection::Shared(chunks, skip);
                    assert!(again.iter().eq(expected));
                }
            }
        }
    }
}

#[test]
fn a_socket_that_left_is_in_no_room() {
    let mut rooms = rooms();
    select(&mut rooms, &["low"], &[]);
    assert_eq!(rooms.leave(&id(1), None).len(), 2);
    assert_eq!(select(&mut rooms, &["low", "middle"], &[]), [0, 2]);
    assert!(!rooms.join(id(1), "low", 100, None));
    for n in [0, 2, 3] {
        rooms.leave(&id(n), None);
    }
    assert_eq!(
        (rooms.len(), rooms.room_count(), rooms.rooms_by_socket.len()),
        (0, 0, 0)
    );
}

#[test]
fn rooms_of_one_socket_are_limited() {
    let mut rooms = rooms();
    assert!(rooms.join(id(3), "a", 1, None));
    assert!(!rooms.join(id(3), "b", 1, None));
    assert!(rooms.leave_room(&id(3), "a", None));
    assert!(!rooms.leave_room(&id(3), "a", None));
    assert!(rooms.join(id(3), "b", 1, None));
}

#[test]
fn only_actual_changes_are_logged_and_in_order() {
    use RoomChange::{Create, Delete, Join, Leave};
    let mut rooms = Rooms::default();
    rooms.insert(id(0), 0);
    rooms.insert(id(1), 1);
    let mut log = Vec::new();
    for (n, room) in [(0, "a"), (0, "a"), (1, "a"), (0, "b"), (0, "c")] {
        rooms.join(id(n), room, 100, Some(&mut log));
    }
    rooms.leave_room(&id(0), "a", Some(&mut log));
    rooms.leave_room(&id(0), "a", Some(&mut log));
    rooms.leave(&id(0), Some(&mut log));
    let expected = [
        ("a", Create),
        ("a", Join(id(0))),
        ("a", Join(id(1))),
        ("b", Create),
        ("b", Join(id(0))),
        ("c", Create),
        ("c", Join(id(0))),
        ("a", Leave(id(0))),
        ("b", Leave(id(0))),
        ("b", Delete),
        ("c", Leave(id(0))),
        ("c", Delete),
    ];
    assert!(
        log.iter()
            .map(|(name, change)| (&**name, *change))
            .eq(expected)
    );
}

#[test]
fn sockets_and_rooms_that_have_gone_return_their_memory() {
    const MANY: u32 = 20_000;

    let id = |n: u32| {
        let mut bytes = [0; 15];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        SocketId::new(bytes)
    };
    let full = || {
        let mut rooms = Rooms::default();
        for n in 0..MANY {
            rooms.insert(id(n), n);
            assert!(rooms.join(id(n), "all", 100, None));
            assert!(rooms.join(id(n), &format!("of {n}"), 100, None));
        }
        rooms
    };
    let are_shrunk = |rooms: &Rooms<u32>| {
        let all = &rooms.rooms["all"];
        is_shrunk(&rooms.rooms_by_socket)
            && is_shrunk(&rooms.rooms)
            && is_shrunk(&all.map)
            && is_shrunk(&all.chunks)
    };

    let mut rooms = full();
    for n in 10..MANY {
        rooms.leave_room(&id(n), "all", None);
        rooms.leave_room(&id(n), &format!("of {n}"), None);
    }
    assert!(are_shrunk(&rooms));
    assert_eq!(rooms.len(), MANY as usize);

    let mut rooms = full();
    for n in 10..MANY {
        rooms.leave(&id(n), None);
    }
    assert!(are_shrunk(&rooms));
    assert!(is_shrunk(&rooms.sockets.map) && is_shrunk(&rooms.sockets.chunks));
    assert_eq!((rooms.len(), rooms.room_count()), (10, 11));
}
