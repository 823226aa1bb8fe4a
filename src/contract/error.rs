//! What is wrong with a contract.

use std::{error, fmt};

/// An error of [`Contract`](super::Contract) and [`Watch`](super::Watch): all that is wrong with a
/// contract.
///
/// `Display` writes one problem on each line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContractError {
    problems: Vec<String>,
}

impl ContractError {
    /// Returns an error if there are problems.
    pub(super) fn check(problems: Vec<String>) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        Err(Self { problems })
    }

    /// Iterates over the problems. There is at least one.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.problems.iter().map(String::as_str)
    }
}

impl fmt::Display for ContractError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl error::Error for ContractError {}
