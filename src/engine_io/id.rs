//! Ids: the secret one of a session, and the public one of a socket.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The id of an Engine.IO session, 128 random bits.
///
/// The id is a bearer secret: anyone with it can read and write the session over polling. `Debug`
/// does not print it. Other clients see a [`SocketId`] instead.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(Box<str>);

impl SessionId {
    /// Creates an id from random bytes, which must come from a cryptographically secure source.
    #[must_use]
    pub fn new(random: [u8; 16]) -> Self {
        Self(URL_SAFE_NO_PAD.encode(random).into())
    }

    /// Creates an id that begins with a public id; the rest of it, from `random`, is the secret.
    ///
    /// Socket.IO 2 clients derive their socket's id from the session's. Without `random` the id is
    /// not a secret. This is safe only for a session that begins with WebSocket: no other request
    /// can use it.
    #[must_use]
    pub(crate) fn with_public_part(public: SocketId, random: Option<[u8; 16]>) -> Self {
        let secret = random.map(|random| URL_SAFE_NO_PAD.encode(random));
        Self((public.as_str().to_owned() + secret.as_deref().unwrap_or_default()).into())
    }

    /// Returns the public id that the id begins with.
    ///
    /// Call this only for an id from [`SessionId::with_public_part`]: of any other id it returns the
    /// first characters of the secret.
    pub(crate) fn public_part(&self) -> Option<SocketId> {
        SocketId::parse(self.0.get(..SocketId::LEN)?)
    }

    /// Returns the secret text of the id. Send it to no one but the session's own client.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for SessionId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(..)")
    }
}

/// The public id of a socket, 20 characters. It is also the name of the socket's own room.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId([u8; Self::LEN]);

impl SocketId {
    /// The length of an id, in characters.
    const LEN: usize = 20;

    /// Creates an id from random bytes.
    #[must_use]
    pub fn new(random: [u8; 15]) -> Self {
        let mut text = [b'A'; Self::LEN];
        // 15 bytes always encode to 20 characters, so this cannot fail.
        let _ = URL_SAFE_NO_PAD.encode_slice(random, &mut text);
        Self(text)
    }

    /// Parses an id. Returns `None` unless the text has 20 characters of URL-safe base64.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id = text.as_bytes().try_into().ok()?;
        let is_url_safe = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        text.bytes()
            .all(|byte| is_url_safe(&byte))
            .then_some(Self(id))
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Base64 is ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl AsRef<str> for SocketId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl From<SocketId> for String {
    fn from(id: SocketId) -> Self {
        id.as_str().to_owned()
    }
}

impl serde::Serialize for SocketId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for SocketId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let error = || serde::de::Error::custom("this is not the id of a socket");
        Self::parse(&text).ok_or_else(error)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for SocketId {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SocketId".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<str>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_a_session_id() {
        let id = SessionId::new([7; 16]);
        assert_eq!(format!("{id:?}"), "SessionId(..)");
        assert_eq!(id.expose().len(), 22);
    }

    #[test]
    fn a_session_id_may_begin_with_a_public_id() {
        let public = SocketId::new([7; 15]);
        let id = SessionId::with_public_part(public, Some([8; 16]));
        assert_eq!(id.public_part(), Some(public));
        assert_eq!(id.expose().len(), 20 + 22);
        let open = SessionId::with_public_part(public, None);
        assert_eq!(open.expose(), public.as_str());
    }

    #[test]
    fn a_socket_id_has_twenty_url_safe_characters() {
        let id = SocketId::new([0xff; 15]);
        assert_eq!(id.as_str(), "____________________");
    }

    #[test]
    fn the_id_of_a_socket_is_read_from_text() {
        let id = SocketId::new([7; 15]);
        let json = serde_json::to_string(&id).expect("JSON");
        assert_eq!(serde_json::from_str::<SocketId>(&json).ok(), Some(id));
        for wrong in [r#""short""#, r#""/////////////////////""#, "1"] {
            assert!(serde_json::from_str::<SocketId>(wrong).is_err(), "{wrong}");
        }
    }
}
