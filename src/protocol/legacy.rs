//! Revision 4 of the Socket.IO protocol, which Socket.IO 2 clients speak, where it differs from
//! revision 5.
//!
//! | | revision 4 | revision 5 |
//! |---|---|---|
//! | `/` is joined | by the server, at once | by the client's CONNECT |
//! | CONNECT of a client | `0/admin?token=123` | `0/admin,{"token":"123"}` |
//! | CONNECT of the server | `0` | `0{"sid":"…"}` |
//! | CONNECT_ERROR | `4"not authorized"`, or data alone | `4{"message":"not authorized"}` |

use std::collections::BTreeMap;

use super::{Kind, Packet, Payload};

/// Moves the query from a CONNECT's namespace to the payload, where revision 5 has it. If a name
/// occurs twice, the last value counts.
pub(crate) fn move_query_to_auth(packet: &mut Packet) {
    if packet.kind != Kind::Connect {
        return;
    }
    let name = packet.namespace.clone();
    let (path, query) = name.split_once('?').unwrap_or((&name, ""));
    packet.namespace = path.into();
    let auth: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes()).collect();
    // Texts can always be written as JSON, and a CONNECT carries an object.
    let json = serde_json::to_vec(&auth).unwrap_or_default();
    packet.payload = Payload::from_json(Kind::Connect, json.into(), Vec::new()).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::{decode, json};

    fn read(text: &str) -> (String, String) {
        let mut packet = decode(text, &[]).expect("a packet");
        move_query_to_auth(&mut packet);
        (
            packet.namespace.to_string(),
            json(&packet.payload).to_owned(),
        )
    }

    fn pair(name: &str, payload: &str) -> (String, String) {
        (name.to_owned(), payload.to_owned())
    }

    #[test]
    fn the_query_of_a_connect_is_its_payload() {
        assert_eq!(read("0/adm?k=v"), pair("/adm", r#"{"k":"v"}"#));
        assert_eq!(read("0/adm?k=v,"), pair("/adm", r#"{"k":"v"}"#));
        assert_eq!(
            read("0/adm?a=1&b=%2C%22+%C3%A9&a=2&c"),
            pair("/adm", r#"{"a":"2","b":",\" é","c":""}"#)
        );
        assert_eq!(read("0/adm"), pair("/adm", "{}"));
        assert_eq!(read("0/adm?"), pair("/adm", "{}"));
        assert_eq!(read("0"), pair("/", "{}"));
    }

    #[test]
    fn other_packets_are_left_as_they_are() {
        assert_eq!(read(r#"2/a?b,["c"]"#), pair("/a?b", r#"["c"]"#));
    }

    #[test]
    fn the_query_of_a_connect_has_a_limit() {
        let token = "x".repeat(8000);
        assert_eq!(read(&format!("0/adm?t={token}")).0, "/adm");
        let book = "x".repeat(10_000);
        assert!(decode(&format!("0/adm?t={book}"), &[]).is_err());
        let name = "x".repeat(300);
        assert!(decode(&format!("0/{name}?t=1"), &[]).is_err());
    }
}
