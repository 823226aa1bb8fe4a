//! The table of attachments, and the statements that carry messages.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};

use super::link::{Error, TIMEOUT, timeout_of, within};
use crate::cluster::wire::notification::HEADER_END;

/// The longest attachment that is read, in bytes.
const MAX_LEN: usize = 64 << 20;

/// The most attachments that are removed at once.
const MAX_CLEANED: u64 = 1_000;

/// The name of the table, as it is written in SQL.
#[derive(Clone, Debug)]
pub(super) struct Table(String);

impl Table {
    /// Checks a name: identifiers with dots between them, with quotes or without.
    pub(super) fn new(name: &str) -> Result<Self, Error> {
        if is_name(name) {
            return Ok(Self(name.to_owned()));
        }
        Err(Error::SetUp(format!(
            "`{name}` is not the name of a table in SQL"
        )))
    }

    /// Checks that the database has all characters, and that the table exists, has the columns, and may be
    /// used.
    pub(super) async fn check(&self, client: &Client) -> Result<(), Error> {
        let encoding = client.query_one("SHOW server_encoding", &[]);
        let encoding: String = within(TIMEOUT, encoding).await?.get(0);
        if !matches!(&*encoding, "UTF8" | "SQL_ASCII") {
            return Err(Error::SetUp(format!(
                "the encoding of the database is {encoding}, and names and messages have characters \
                 that it does not know: create the database with ENCODING 'UTF8'"
            )));
        }
        let columns = format!("SELECT id, created_at, payload FROM {self}");
        let columns = match within(TIMEOUT, client.prepare(&columns)).await {
            Ok(columns) => columns,
            Err(error) if is_missing(&error) => return Err(self.missing(&error)),
            Err(error) => return Err(error),
        };
        let types: Vec<_> = columns.columns().iter().map(|each| each.type_()).collect();
        let has_types = matches!(types[..], [&Type::INT8 | &Type::INT4, created_at, &Type::BYTEA]
            if matches!(*created_at, Type::TIMESTAMPTZ | Type::TIMESTAMP));
        if !has_types {
            return Err(self.missing(&"its columns have other types"));
        }
        // No row is read or written, but the permissions are checked.
        let uses = format!(
            "SELECT payload FROM {self} LIMIT 0; \
             INSERT INTO {self} (payload) SELECT NULL WHERE false; \
             DELETE FROM {self} WHERE false"
        );
        within(TIMEOUT, client.batch_execute(&uses)).await?;
        self.check_sequence(client).await
    }

    /// Checks that the sequence of the ids may be used. PostgreSQL checks it for each inserted row.
    async fn check_sequence(&self, client: &Client) -> Result<(), Error> {
        // The sequence of an identity column needs no permission.
        let statement = "SELECT s, quote_ident(current_user), has_sequence_privilege(s, 'USAGE') OR \
             has_sequence_privilege(s, 'UPDATE') \
             FROM (SELECT pg_get_serial_sequence($1::text, 'id') AS s) AS own \
             WHERE s IS NOT NULL AND NOT EXISTS (SELECT FROM pg_attribute \
             WHERE attrelid = to_regclass($1::text) AND attname = 'id' AND attidentity <> '')";
        let found = within(TIMEOUT, client.query_opt(statement, &[&self.0])).await?;
        match found {
            Some(row) if !row.get::<_, bool>(2) => Err(Error::SetUp(format!(
                "permission denied for the sequence of the table of attachments: GRANT USAGE ON \
                 SEQUENCE {} TO {}",
                row.get::<_, String>(0),
                row.get::<_, String>(1)
            ))),
            _ => Ok(()),
        }
    }

    fn missing(&self, reason: &dyn fmt::Display) -> Error {
        Error::SetUp(format!(
            "the table of attachments cannot be used ({reason}); create it: CREATE TABLE {self} \
             (id bigserial UNIQUE, created_at timestamptz DEFAULT now(), payload bytea)"
        ))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns whether an error says that the table or a column is not there.
fn is_missing(error: &Error) -> bool {
    error.refusal().is_some_and(|refusal| {
        matches!(
            *refusal.code(),
            SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN | SqlState::INVALID_SCHEMA_NAME
        )
    })
}

/// Returns whether a text is a name in SQL.
fn is_name(mut text: &str) -> bool {
    if text.contains('\0') {
        return false;
    }
    loop {
        let rest = match text.strip_prefix('"') {
            Some(quoted) => after_quoted(quoted),
            None => after_plain(text),
        };
        match rest {
            None => return false,
            Some("") => return true,
            Some(rest) => match rest.strip_prefix('.') {
                Some(next) => text = next,
                None => return false,
            },
        }
    }
}

/// Returns what follows an identifier, behind its first quote.
fn after_quoted(text: &str) -> Option<&str> {
    let mut rest = text;
    loop {
        let at = rest.find('"')?;
        let after = &rest[at + 1..];
        match after.strip_prefix('"') {
            // A quote that is part of the name.
            Some(next) => rest = next,
            None => return (at > 0 || rest.len() < text.len()).then_some(after),
        }
    }
}

/// Returns what follows an identifier without quotes.
fn after_plain(text: &str) -> Option<&str> {
    let is_letter = |c: char| c == '_' || c.is_ascii_alphabetic() || !c.is_ascii();
    let is_part = |c: char| is_letter(c) || c == '$' || c.is_ascii_digit();
    text.starts_with(is_letter)
        .then(|| text.trim_start_matches(is_part))
}

/// The statements of a connection.
#[derive(Debug)]
pub(super) struct Statements {
    /// Sends notifications.
    pub(super) notify: Statement,
    /// Adds a row, and sends the notification that names it.
    pub(super) attach: Statement,
    fetch: Statement,
    clean: Statement,
}

impl Statements {
    pub(super) async fn prepare(client: &Client, table: &Table) -> Result<Arc<Self>, Error> {
        // The rows of `unnest` come in the order of the arrays.
        let notify = "SELECT pg_notify(channel, payload) \
                      FROM unnest($1::text[], $2::text[]) AS message (channel, payload)";
        // Both at one moment: who hears the notification finds the row.
        let attach = format!(
            "WITH attachment AS (INSERT INTO {table} (payload) VALUES ($3::bytea) RETURNING id) \
             SELECT pg_notify($1::text, $2::text || id || '{HEADER_END}') FROM attachment"
        );
        let fetch = format!(
            "SELECT CASE WHEN octet_length(payload) <= {MAX_LEN} THEN payload END \
             FROM {table} WHERE id = $1::bigint"
        );
        let clean = format!(
            "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} \
             WHERE created_at < now() - make_interval(secs => $1::float8) LIMIT {MAX_CLEANED})"
        );
        let prepared = async {
            Ok(Arc::new(Self {
                notify: client.prepare(notify).await?,
                attach: client.prepare(&attach).await?,
                fetch: client.prepare(&fetch).await?,
                clean: client.prepare(&clean).await?,
            }))
        };
        within(TIMEOUT, prepared).await
    }

    /// Returns an attachment. Returns `None` if it was removed, or is too long.
    pub(super) async fn fetch(
        self: Arc<Self>,
        client: Arc<Client>,
        id: i64,
    ) -> Result<Option<Bytes>, Error> {
        let timeout = timeout_of(MAX_LEN);
        let Some(row) = within(timeout, client.query_opt(&self.fetch, &[&id])).await? else {
            return Ok(None);
        };
        let payload: Option<&[u8]> = row.try_get(0)?;
        Ok(payload.map(Bytes::copy_from_slice))
    }

    /// Removes attachments that are older than a time. Returns whether there may be more: messages
    /// wait while this runs.
    pub(super) async fn clean(
        self: Arc<Self>,
        client: Arc<Client>,
        age: Duration,
    ) -> Result<bool, Error> {
        // PostgreSQL refuses much longer intervals.
        let age = age.min(Duration::from_secs(100 * 365 * 24 * 60 * 60));
        let (timeout, seconds) = (timeout_of(MAX_LEN), age.as_secs_f64());
        let removed = within(timeout, client.execute(&self.clean, &[&seconds])).await?;
        Ok(removed >= MAX_CLEANED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_table_is_checked() {
        for name in [
            "socket_io_attachments",
            "app.attachments",
            "Größe1$",
            r#""A table""#,
            r#"app."a ""quoted"" name""#,
            "\"\"\"\"",
        ] {
            let table = Table::new(name).expect(name);
            assert_eq!(table.to_string(), name);
        }
        for name in [
            "", ".", "a.", "a b", "a;b", "1a", "a--b", "a(b)", r#""""#, r#""a"#, r#""a"b"#,
            r#"a"b""#, "\"a\0\"",
        ] {
            let error = Table::new(name).expect_err(name);
            assert!(error.to_string().contains("not the name of a table"));
        }
    }
}
