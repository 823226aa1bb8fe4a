//! Why a broker is not connected.

use std::fmt;

/// An error of `Redis::connect` and `Postgres::connect`. Its source is the reason.
#[derive(Debug)]
pub struct ConnectError {
    service: &'static str,
    source: Source,
}

type Source = Box<dyn std::error::Error + Send + Sync>;

impl ConnectError {
    #[cfg(feature = "postgres")]
    pub(super) fn postgres(source: impl Into<Source>) -> Self {
        Self {
            service: "PostgreSQL",
            source: source.into(),
        }
    }

    #[cfg(feature = "redis")]
    pub(super) fn redis(source: impl Into<Source>) -> Self {
        Self {
            service: "Redis",
            source: source.into(),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not connected", self.service)
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}
