use redis::parse_redis_value;

use super::*;

/// The replies of Redis 7.0.15 in RESP3: three masters and a replica of the last one.
const SHARDS: &str = include_str!("tests/shards.txt");
/// The same after the last master was killed.
const SHARDS_FAILED: &str = include_str!("tests/shards-failed.txt");
/// The same after its replica has taken over.
const SHARDS_FAILED_OVER: &str = include_str!("tests/shards-failed-over.txt");
/// The reply to `CLUSTER SLOTS` in RESP2, from the same nodes at the beginning.
const SLOTS_REPLY: &str = include_str!("tests/slots.txt");

/// Reads a captured reply. Its lines are those of Redis without their `\r`.
fn reply(captured: &str) -> Value {
    let bytes = captured.replace('\n', "\r\n");
    parse_redis_value(bytes.as_bytes()).expect("a reply of Redis")
}

fn sender() -> Address {
    Address::new("127.0.0.1", 7301)
}

fn owner(topology: &Topology, slot: u16) -> Option<u16> {
    topology.owner(slot).map(|owner| owner.port)
}

#[test]
fn names_have_the_slots_that_redis_says() {
    // By `CLUSTER KEYSLOT`.
    let slots: [(&[u8], u16); 10] = [
        (b"", 0),
        (b"123456789", 12_739),
        (b"socket.io", 9972),
        (b"socket.io#/#", 13_868),
        (b"socket.io#/#room1#", 9640),
        (b"{chat}#/#", 14_028),
        (b"{chat}#/#red#", 14_028),
        (b"{}#/#", 6085),
        (b"a{b}{c}d", 3300),
        (b"{open", 7674),
    ];
    for (name, expected) in slots {
        let name_as_text = String::from_utf8_lossy(name);
        assert_eq!(slot(name), expected, "{name_as_text}");
    }
}

#[test]
fn the_masters_are_read_from_both_replies() {
    let shards = Topology::from_shards(&reply(SHARDS), &sender()).expect("shards");
    let slots = Topology::from_slots(&reply(SLOTS_REPLY), &sender()).expect("slots");
    for topology in [&shards, &slots] {
        assert!(topology.is_complete());
        let borders = [0, 5460, 5461, 10_922, 10_923, 16_383];
        let owners = borders.map(|slot| owner(topology, slot).expect("an owner"));
        assert_eq!(owners, [7301, 7301, 7302, 7302, 7303, 7303]);
        let mut masters: Vec<_> = topology.masters().map(|node| node.port).collect();
        masters.sort_unstable();
        assert_eq!(masters, [7301, 7302, 7303]);
        assert_eq!(topology.nodes().len(), 4);
    }
}

#[test]
fn the_slots_of_a_master_that_has_failed_have_none_until_a_replica_has_them() {
    let failed = Topology::from_shards(&reply(SHARDS_FAILED), &sender()).expect("shards");
    assert_eq!(
        (owner(&failed, 0), owner(&failed, 16_383)),
        (Some(7301), None)
    );
    assert!(!failed.is_complete());
    let promoted = Topology::from_shards(&reply(SHARDS_FAILED_OVER), &sender()).expect("shards");
    assert_eq!(owner(&promoted, 16_383), Some(7304));
    assert!(promoted.is_complete());
    let mut completed = failed;
    completed.complete(&promoted);
    assert_eq!(
        (owner(&completed, 0), owner(&completed, 16_383)),
        (Some(7301), Some(7304))
    );
}

#[test]
fn a_node_without_an_address_is_that_of_the_sender() {
    let node = |host: Value| {
        let node = Value::Array(vec![
            host,
            Value::Int(7),
            Value::SimpleString("id".to_owned()),
        ]);
        Value::Array(vec![Value::Array(vec![
            Value::Int(0),
            Value::Int(99),
            node,
        ])])
    };
    for host in [
        Value::Nil,
        Value::BulkString(Vec::new()),
        Value::BulkString(b"?".to_vec()),
    ] {
        let topology = Topology::from_slots(&node(host), &sender()).expect("slots");
        assert_eq!(topology.owner(0), Some(&Address::new("127.0.0.1", 7)));
        assert_eq!(topology.owner(100), None);
    }
    let host = Value::BulkString(b"a.example".to_vec());
    let topology = Topology::from_slots(&node(host), &sender()).expect("slots");
    assert_eq!(topology.owner(99), Some(&Address::new("a.example", 7)));
}

#[test]
fn replies_of_another_form_are_no_topology() {
    for text in [
        "+OK\n",
        "*1\n+OK\n",
        "*1\n*1\n:1\n",
        "*1\n*3\n:1\n:2\n*0\n",
        "_\n",
    ] {
        assert_eq!(
            Topology::from_shards(&reply(text), &sender()),
            None,
            "{text}"
        );
        assert_eq!(
            Topology::from_slots(&reply(text), &sender()),
            None,
            "{text}"
        );
    }
    // Slots that are none.
    let range = "*1\n*3\n:16383\n:99999999\n*2\n+a\n:7\n";
    let topology = Topology::from_slots(&reply(range), &sender()).expect("slots");
    assert!(topology.masters().next().is_none());
}

#[test]
fn errors_say_where_a_slot_is() {
    let redirect = |text: &str| match reply(text) {
        Value::ServerError(error) => Redirect::of(&error, &sender()),
        other => panic!("{other:?}"),
    };
    let there = |host, port| Address::new(host, port);
    assert_eq!(
        redirect("-MOVED 9640 10.0.0.2:6379\n"),
        Some(Redirect::Moved(9640, there("10.0.0.2", 6379)))
    );
    assert_eq!(
        redirect("-MOVED 9640 :6379\n"),
        Some(Redirect::Moved(9640, there("127.0.0.1", 6379)))
    );
    assert_eq!(
        redirect("-ASK 9640 fd00::2:6379\n"),
        Some(Redirect::Ask(there("fd00::2", 6379)))
    );
    assert_eq!(redirect("-MOVED what\n"), Some(Redirect::Later));
    assert_eq!(
        redirect("-CLUSTERDOWN Hash slot not served\n"),
        Some(Redirect::Later)
    );
    assert_eq!(redirect("-TRYAGAIN Multiple keys\n"), Some(Redirect::Later));
    assert_eq!(redirect("-OOM command not allowed\n"), None);
    assert_eq!(redirect("-ERR unknown command\n"), None);
}

#[test]
fn commands_go_to_the_slots_of_their_keys_and_channels() {
    let of = |words: &str| {
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().expect("a name"));
        for word in words {
            command.arg(word);
        }
        Command::of(&command)
    };
    let to = |words: &str| of(words).expect("a command of its own").to;
    let chat = Destination::Slot(slot(b"chat"));
    for words in [
        "SPUBLISH chat x",
        "PUBSUB SHARDNUMSUB chat",
        "XADD chat * a b",
        "XINFO STREAM chat",
        "XRANGE chat - +",
        "XREAD COUNT 1 BLOCK 2 STREAMS chat 0-0",
        "SET chat x PX 1",
        "GETDEL chat",
    ] {
        assert_eq!(to(words), chat, "{words}");
    }
    assert_eq!(to("PUBLISH chat x"), Destination::Any);
    assert_eq!(to("PUBSUB NUMSUB chat"), Destination::All);
    assert_eq!(of("MULTI"), None);
    assert_eq!(of("EXEC"), None);
    assert!(
        of("PUBSUB SHARDNUMSUB chat")
            .expect("a command")
            .is_shard_count
    );
    assert!(of("SPUBLISH chat x").expect("a command").is_pub_sub);
    assert!(!of("XADD chat * a b").expect("a command").is_pub_sub);
    assert!(of("GETDEL chat").expect("a command").is_saved);
}
