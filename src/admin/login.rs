//! The login of the page: a user name and a password, and afterwards a session id.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::clock::now;
use crate::random::random;
use crate::routing::ErrorReply;
use crate::sync::Mutex;

/// The user name and the hash of the password, and the sessions of the logins.
#[derive(Debug)]
pub(super) struct Login {
    username: String,
    hash: Arc<str>,
    /// One permit for each login that is under way.
    logins: Semaphore,
    /// One permit for each login that asks the other servers.
    questions: Semaphore,
    /// One permit for each login that computes a hash.
    hashes: Semaphore,
    sessions: Mutex<Sessions>,
}

/// Asks the other servers for a session id.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SessionQuestion {
    id: String,
    /// The digest of the user name and the hash.
    credentials: u64,
}

/// A login that was accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// By its session id.
    BySession,
    /// By its password. The page gets this session id.
    ByPassword(String),
}

impl Login {
    /// # Panics
    ///
    /// Panics if the hash is not one of bcrypt.
    #[track_caller]
    pub(super) fn new(username: String, hash: String) -> Self {
        if let Err(reason) = check_hash(&hash) {
            panic!(
                "the password of the Admin UI must be a bcrypt hash, such as `$2b$10$…` with 60 characters: {reason}"
            );
        }
        Self {
            username,
            hash: hash.into(),
            logins: Semaphore::new(MAX_LOGINS),
            questions: Semaphore::new(MAX_QUESTIONS),
            hashes: Semaphore::new(MAX_HASHES),
            sessions: Mutex::default(),
        }
    }

    /// Checks the `auth` of a page. `ask` asks the other servers for a session id, and returns how many
    /// milliseconds it is still valid.
    ///
    /// A login that fails takes as long for an unknown user as for a wrong password: a hash is
    /// computed for both.
    ///
    /// # Errors
    ///
    /// Returns the error for the page.
    pub(super) async fn check<Fut: Future<Output = Option<u64>>>(
        &self,
        auth: &Value,
        ask: impl FnOnce(SessionQuestion) -> Fut,
    ) -> Result<Accepted, ErrorReply> {
        let session = auth["sessionId"].as_str().filter(|id| is_session_id(id));
        if session.is_some_and(|id| self.remaining(id).is_some()) {
            return Ok(Accepted::BySession);
        }
        let busy = |_| ErrorReply::new("too many logins at a time: try again");
        let _login = self.logins.try_acquire().map_err(busy)?;
        if let Some(id) = session {
            // If strangers use them all, a page has to send its password again.
            if let Ok(_question) = self.questions.try_acquire() {
                let question = SessionQuestion {
                    id: id.to_owned(),
                    credentials: self.credentials(),
                };
                if let Some(valid) = ask(question).await {
                    let valid = Duration::from_millis(valid).min(SESSION);
                    self.sessions.lock().insert(id.to_owned(), valid, now());
                    return Ok(Accepted::BySession);
                }
            }
        }
        let username = auth["username"].as_str().unwrap_or_default();
        let password = auth["password"].as_str().unwrap_or_default();
        let is_user = is_same(username, &self.username);
        let is_password = self.verify(password.to_owned()).await;
        if !(is_user & is_password) {
            return Err(ErrorReply::new("invalid credentials"));
        }
        let id = new_session_id();
        self.sessions.lock().insert(id.clone(), SESSION, now());
        Ok(Accepted::ByPassword(id))
    }

    /// Answers the question of another server: for how many milliseconds the session id is valid here.
    /// With other credentials it is not, so that a changed password ends the sessions of the former one.
    pub(super) fn answer(&self, question: &SessionQuestion) -> Option<u64> {
        let remaining = self.remaining(&question.id)?;
        let is_same = question.credentials == self.credentials();
        is_same.then_some(remaining.as_millis() as u64)
    }

    fn remaining(&self, id: &str) -> Option<Duration> {
        self.sessions.lock().remaining(id, now())
    }

    /// Returns a digest of the user name and the hash. The salt of the hash makes it useless to others.
    fn credentials(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.username, &self.hash).hash(&mut hasher);
        hasher.finish()
    }

    async fn verify(&self, password: String) -> bool {
        // The semaphore is never closed.
        let _hash = self.hashes.acquire().await;
        let hash = Arc::clone(&self.hash);
        let verify = tokio::task::spawn_blocking(move || {
            bcrypt::verify(password, &hash).is_ok_and(|is_same| is_same)
        });
        verify.await.unwrap_or(false)
    }
}

/// Checks the form of a hash, also its cost, which `bcrypt` checks only when it verifies.
fn check_hash(hash: &str) -> Result<(), String> {
    let parts: bcrypt::HashParts = hash
        .parse()
        .map_err(|error: bcrypt::BcryptError| error.to_string())?;
    match parts.get_cost() {
        4..=MAX_COST => Ok(()),
        cost => Err(format!(
            "its cost is {cost}, and must be from 4 to {MAX_COST}"
        )),
    }
}

/// The session ids and when they expire, the next to expire first.
#[derive(Debug, Default)]
struct Sessions(VecDeque<(String, Instant)>);

impl Sessions {
    fn insert(&mut self, id: String, valid: Duration, now: Instant) {
        self.expire(now);
        self.0.retain(|(known, _)| *known != id);
        if self.0.len() == MAX_SESSIONS {
            self.0.pop_front();
        }
        let end = now + valid;
        let place = self.0.partition_point(|(_, other)| *other <= end);
        self.0.insert(place, (id, end));
    }

    /// Returns for how long the id is valid. It compares all ids.
    fn remaining(&mut self, id: &str, now: Instant) -> Option<Duration> {
        self.expire(now);
        let known = self.0.iter();
        let end = known.fold(None, |found, (known, end)| match is_same(known, id) {
            true => Some(*end),
            false => found,
        });
        end.map(|end| end.duration_since(now))
    }

    fn expire(&mut self, now: Instant) {
        while self.0.front().is_some_and(|(_, end)| *end <= now) {
            self.0.pop_front();
        }
    }
}

/// Compares two texts in a time that depends on their lengths only.
fn is_same(one: &str, other: &str) -> bool {
    let bytes = one.bytes().zip(other.bytes());
    let difference = bytes.fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    (one.len() == other.len()) & (difference == 0)
}

fn new_session_id() -> String {
    let bytes: [u8; 8] = random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_session_id(id: &str) -> bool {
    id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// How many hashes are computed at a time. Each keeps a core busy.
const MAX_HASHES: usize = 2;

/// How many logins may ask the other servers at a time.
const MAX_QUESTIONS: usize = 8;

/// How many logins may be under way at a time.
const MAX_LOGINS: usize = 64;

/// How many sessions a server knows. A further one replaces the oldest.
const MAX_SESSIONS: usize = 1_000;

/// How long a session is valid.
const SESSION: Duration = Duration::from_secs(24 * 60 * 60);

/// The highest cost. A hash of it takes minutes.
const MAX_COST: u32 = 20;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn login() -> Login {
        // The least cost there is.
        let hash = bcrypt::hash("sesame", 4).expect("a hash");
        Login::new("ada".to_owned(), hash)
    }

    async fn check(login: &Login, auth: Value) -> Result<Accepted, String> {
        let result = login.check(&auth, async |_| None).await;
        result.map_err(|error| error.message().to_owned())
    }

    #[tokio::test]
    async fn a_login_needs_the_user_and_the_password() {
        let login = login();
        let good = check(&login, json!({ "username": "ada", "password": "sesame" })).await;
        let Ok(Accepted::ByPassword(id)) = good else {
            panic!("it is refused");
        };
        assert!(is_session_id(&id), "{id}");
        assert_eq!(
            check(&login, json!({ "sessionId": id })).await,
            Ok(Accepted::BySession)
        );
        for auth in [
            json!({ "username": "ada", "password": "Sesame" }),
            json!({ "username": "bob", "password": "sesame" }),
            json!({ "username": "ada" }),
            json!({ "username": "ada", "password": 7 }),
            json!({ "username": "ada", "password": "sesame\0" }),
            json!({ "sessionId": "0123456789abcdef" }),
            json!({ "sessionId": "" }),
            json!([]),
            json!(null),
        ] {
            let refused = check(&login, auth.clone()).await;
            assert_eq!(refused, Err("invalid credentials".to_owned()), "{auth}");
        }
    }

    #[tokio::test]
    async fn the_hashes_of_all_versions_are_accepted() {
        let parts = bcrypt::hash_with_salt("sesame", 4, [7; 16]).expect("a hash");
        for version in [
            bcrypt::Version::TwoA,
            bcrypt::Version::TwoB,
            bcrypt::Version::TwoY,
        ] {
            let login = Login::new("ada".to_owned(), parts.format_for_version(version));
            let good = check(&login, json!({ "username": "ada", "password": "sesame" })).await;
            assert!(good.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_of_another_server_is_known_from_then_on() {
        let login = login();
        let auth = json!({ "sessionId": "0123456789abcdef" });
        let known = login
            .check(&auth, async |question| {
                (question.id == "0123456789abcdef").then_some(5_000)
            })
            .await;
        assert!(known.is_ok_and(|accepted| accepted == Accepted::BySession));
        assert_eq!(check(&login, auth.clone()).await, Ok(Accepted::BySession));
        // It is not valid for longer than where it comes from.
        tokio::time::advance(Duration::from_millis(5_001)).await;
        let refused = check(&login, auth).await;
        assert_eq!(refused, Err("invalid credentials".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_of_no_use_with_another_password() {
        let old = login();
        let good = check(&old, json!({ "username": "ada", "password": "sesame" })).await;
        let Ok(Accepted::ByPassword(id)) = good else {
            panic!("it is refused");
        };
        let ask = |login: &Login| SessionQuestion {
            id: id.clone(),
            credentials: login.credentials(),
        };
        tokio::time::advance(Duration::from_secs(60 * 60)).await;
        let remaining = Duration::from_secs(23 * 60 * 60).as_millis() as u64;
        let answer = old.answer(&ask(&old));
        assert!(answer.is_some_and(|valid| valid.abs_diff(remaining) < 1_000));
        // Each hash has a salt of its own.
        let changed = login();
        assert_eq!(old.answer(&ask(&changed)), None);
        let renamed = Login::new("bob".to_owned(), old.hash.to_string());
        assert_eq!(old.answer(&ask(&renamed)), None);
    }

    #[tokio::test]
    async fn the_logins_under_way_are_bounded() {
        let login = login();
        let auth = json!({ "sessionId": "0123456789abcdef" });
        let hashes = login.hashes.acquire_many(MAX_HASHES as u32).await;
        let mut waiting = Vec::new();
        for _ in 0..MAX_LOGINS {
            // The first ones ask the other servers, the rest wait for a hash.
            let mut check = Box::pin(login.check(&auth, |_| std::future::pending()));
            assert!(futures_util::poll!(&mut check).is_pending());
            waiting.push(check);
        }
        let refused = check(&login, auth.clone()).await;
        assert_eq!(
            refused,
            Err("too many logins at a time: try again".to_owned())
        );
        drop((waiting, hashes));
        let refused = check(&login, auth.clone()).await;
        assert_eq!(refused, Err("invalid credentials".to_owned()));
    }

    #[tokio::test]
    async fn two_hashes_are_computed_at_a_time_and_eight_questions_are_asked() {
        let login = login();
        let auth = json!({ "sessionId": "0123456789abcdef" });
        let asked = std::cell::Cell::new(0);
        let mut waiting = Vec::new();
        for _ in 0..MAX_LOGINS {
            let check = login.check(&auth, |_| {
                asked.set(asked.get() + 1);
                std::future::pending()
            });
            let mut check = Box::pin(check);
            assert!(futures_util::poll!(&mut check).is_pending());
            waiting.push(check);
        }
        assert_eq!(asked.get(), 8);
        // Each of the others computes a hash or waits for its turn.
        assert_eq!(login.hashes.available_permits(), 0);
        drop(waiting);
        assert_eq!(login.hashes.available_permits(), 2);
        assert_eq!(login.logins.available_permits(), MAX_LOGINS);
    }

    #[tokio::test(start_paused = true)]
    async fn another_server_cannot_make_a_session_valid_for_more_than_a_day() {
        let login = login();
        let auth = json!({ "sessionId": "0123456789abcdef" });
        let known = login.check(&auth, async |_| Some(u64::MAX)).await;
        assert!(known.is_ok_and(|accepted| accepted == Accepted::BySession));
        assert!(login.remaining("0123456789abcdef") <= Some(SESSION));
        tokio::time::advance(SESSION).await;
        assert_eq!(login.remaining("0123456789abcdef"), None);
    }

    #[test]
    fn the_sessions_are_bounded_and_expire() {
        let mut sessions = Sessions::default();
        let start = now();
        for n in 0..=MAX_SESSIONS {
            sessions.insert(format!("{n:016x}"), SESSION, start);
        }
        let mut has = |n: usize, at| sessions.remaining(&format!("{n:016x}"), at).is_some();
        assert!(!has(0, start));
        assert!(has(1, start));
        assert!(!has(1, start + SESSION));
        assert!(sessions.0.is_empty());
    }

    #[test]
    fn a_hash_is_checked() {
        for (hash, reason) in [
            ("sesame", "expected 60 ASCII bytes"),
            (
                "$2b$31$eUfMS2YmC3vOgJ4dZF8DYuFZyrm2J0mwHAs2hLs4UrP3X9Jp8Kz3q",
                "its cost is 31",
            ),
            (
                "$1b$10$eUfMS2YmC3vOgJ4dZF8DYuFZyrm2J0mwHAs2hLs4UrP3X9Jp8Kz3q",
                "not a bcrypt prefix",
            ),
        ] {
            let error = check_hash(hash).expect_err("malformed");
            assert!(error.contains(reason), "{error}");
        }
    }
}
